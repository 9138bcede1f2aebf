//! The calls, one file a service. Requests and answers are the wire's own.

mod auth;
mod cluster;
mod kv;
mod lease;
mod maintenance;
mod recipes;

pub use self::kv::RangeStream;
pub use self::lease::LeaseKeeper;
pub use self::maintenance::SnapshotStream;
pub use self::recipes::Leaders;

/// Calls with one request and one answer. `reads` may be repeated at will, `writes` not. Those `by keys` are within the
/// client's namespace.
macro_rules! unary {
    (by keys, $service:ident: $($(#[$doc:meta])* $effect:ident $name:ident($request:ty) -> $answer:ty;)*) => {
        impl Client {
            $($(#[$doc])*
            pub async fn $name(&self, mut request: $request) -> Result<$answer, Error> {
                let send = |channel, request| async move {
                    let service = $service::new(channel);
                    service.max_decoding_message_size(ANSWER_BYTES_MAX).$name(request).await
                };
                request.enter(self.namespace());
                let call = Call::$effect(stringify!($name));
                let mut answer: $answer = self.call(call, request, send).await?;
                answer.leave(self.namespace());
                Ok(answer)
            })*
        }
    };
    ($service:ident: $($(#[$doc:meta])* $effect:ident $name:ident($request:ty) -> $answer:ty;)*) => {
        impl Client {
            $($(#[$doc])*
            pub async fn $name(&self, request: $request) -> Result<$answer, Error> {
                let send = |channel, request| async move {
                    let service = $service::new(channel);
                    service.max_decoding_message_size(ANSWER_BYTES_MAX).$name(request).await
                };
                self.call(Call::$effect(stringify!($name)), request, send).await
            })*
        }
    };
}
pub(crate) use unary;
