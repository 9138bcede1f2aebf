//! Locks and elections as servers do them (behaviour.md §8). Those of `concurrency` need no such service, are
//! told when their session is lost, and stand in one line with these.

use kvd_proto::v3electionpb::election_client::ElectionClient;
use kvd_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use kvd_proto::v3lockpb::lock_client::LockClient;
use kvd_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::Streaming;

use super::unary;
use crate::attempts::{ANSWER_BYTES_MAX, Call};
use crate::client::Client;
use crate::error::{Error, describe};

unary! { LockClient:
    /// Waits until the lease of the request holds the lock, for as long as the client's deadline.
    writes lock(LockRequest) -> LockResponse;
    /// Gives it back.
    writes unlock(UnlockRequest) -> UnlockResponse;
}

unary! { ElectionClient:
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
    pub async fn observe(&self, request: LeaderRequest) -> Result<Leaders, Error> {
        let send = |channel, request: tonic::Request<LeaderRequest>| async move {
            // A request of its own: the deadline is that of the opening.
            ElectionClient::new(channel).observe(request.into_inner()).await
        };
        let answers = self.call(Call::reads("observe"), request, send).await?;
        Ok(Leaders { answers })
    }
}

/// The words of leaders, one after the other.
#[derive(Debug)]
pub struct Leaders {
    answers: Streaming<LeaderResponse>,
}

impl Leaders {
    /// The next word; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Result<Option<LeaderResponse>, Error> {
        let answer = self.answers.message().await;
        answer.map_err(|status| Error::Unavailable { last: describe(&status) })
    }
}
