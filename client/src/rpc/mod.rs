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

/// Calls with one request and one answer. `reads` may be repeated at will, `writes` not.
macro_rules! unary {
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
