//! Locks and elections as servers do them (behaviour.md §8). Those of `concurrency` need no such service, are
//! told when their session is lost, and stand in one line with these.

use kvd_proto::v3electionpb::election_client::ElectionClient;
use kvd_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use kvd_proto::v3lockpb::lock_client::LockClient;
use kvd_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::Streaming;

use super::unary;
use crate::attempts::{ANSWER_BYTES_MAX, Call};
use crate::client::Client;
use crate::error::{Error, describe};
use crate::namespace::Namespace;

/// A message with names or keys of a namespace.
trait InNamespace {
    /// On the way to the server.
    fn enter(&mut self, _namespace: &Namespace) {}
    /// On the way from it.
    fn leave(&mut self, _namespace: &Namespace) {}
}

impl InNamespace for LockRequest {
    fn enter(&mut self, namespace: &Namespace) {
        self.name = namespace.key(&self.name);
    }
}

impl InNamespace for LockResponse {
    fn leave(&mut self, namespace: &Namespace) {
        namespace.strip_key(&mut self.key);
    }
}

impl InNamespace for UnlockRequest {
    fn enter(&mut self, namespace: &Namespace) {
        self.key = namespace.key(&self.key);
    }
}

impl InNamespace for UnlockResponse {}

impl InNamespace for LeaderKey {
    fn enter(&mut self, namespace: &Namespace) {
        (self.name, self.key) = (namespace.key(&self.name), namespace.key(&self.key));
    }

    fn leave(&mut self, namespace: &Namespace) {
        namespace.strip_key(&mut self.name);
        namespace.strip_key(&mut self.key);
    }
}

impl InNamespace for CampaignRequest {
    fn enter(&mut self, namespace: &Namespace) {
        self.name = namespace.key(&self.name);
    }
}

impl InNamespace for CampaignResponse {
    fn leave(&mut self, namespace: &Namespace) {
        self.leader.iter_mut().for_each(|leader| leader.leave(namespace));
    }
}

impl InNamespace for ProclaimRequest {
    fn enter(&mut self, namespace: &Namespace) {
        self.leader.iter_mut().for_each(|leader| leader.enter(namespace));
    }
}

impl InNamespace for ProclaimResponse {}

impl InNamespace for LeaderRequest {
    fn enter(&mut self, namespace: &Namespace) {
        self.name = namespace.key(&self.name);
    }
}

impl InNamespace for LeaderResponse {
    fn leave(&mut self, namespace: &Namespace) {
        self.kv.iter_mut().for_each(|kv| namespace.strip_key(&mut kv.key));
    }
}

impl InNamespace for ResignRequest {
    fn enter(&mut self, namespace: &Namespace) {
        self.leader.iter_mut().for_each(|leader| leader.enter(namespace));
    }
}

impl InNamespace for ResignResponse {}

unary! { by keys, LockClient:
    /// Waits until the lease of the request holds the lock, for as long as the client's deadline.
    writes lock(LockRequest) -> LockResponse;
    /// Gives it back.
    writes unlock(UnlockRequest) -> UnlockResponse;
}

unary! { by keys, ElectionClient:
    /// Waits until the lease of the request leads, for as long as the client's deadline.
    writes campaign(CampaignRequest) -> CampaignResponse;
    /// A leader says something else.
    writes proclaim(ProclaimRequest) -> ProclaimResponse;
    /// Who leads.
    reads leader(LeaderRequest) -> LeaderResponse;
    /// Stops to lead.
    writes resign(ResignRequest) -> ResignResponse;
}

impl Client {
    /// Who leads, and every later word of a leader; ends with its endpoint.
    pub async fn observe(&self, mut request: LeaderRequest) -> Result<Leaders, Error> {
        request.enter(self.namespace());
        let send = |channel, request: tonic::Request<LeaderRequest>| async move {
            // A request of its own: the deadline is that of the opening.
            ElectionClient::new(channel).observe(request.into_inner()).await
        };
        let answers = self.call(Call::reads("observe"), request, send).await?;
        Ok(Leaders { answers, namespace: self.namespace().clone() })
    }
}

/// The words of leaders, one after the other.
#[derive(Debug)]
pub struct Leaders {
    answers: Streaming<LeaderResponse>,
    namespace: Namespace,
}

impl Leaders {
    /// The next word; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Result<Option<LeaderResponse>, Error> {
        let answer = self.answers.message().await;
        let mut answer = answer.map_err(|status| Error::Unavailable { last: describe(&status) })?;
        answer.iter_mut().for_each(|answer| answer.leave(&self.namespace));
        Ok(answer)
    }
}
