//! Requests with an id are applied once, wherever and however often they are sent.

use std::future::Future;

use anyhow::{Context as _, ensure};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::session::OpenRequest;
use kvd_proto::session::sessions_client::SessionsClient;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::tools;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

const CLIENT: &str = "00000000c0ffee01";

/// A session as a client keeps it, and the members to ask.
struct Session {
    members: Vec<Channel>,
    opened: u64,
    window: u32,
}

impl Session {
    async fn open(endpoints: &[String]) -> anyhow::Result<Self> {
        let mut members = Vec::new();
        for endpoint in endpoints {
            members.push(Channel::from_shared(endpoint.clone())?.connect_lazy());
        }
        let mut sessions = SessionsClient::new(members[0].clone());
        let reply = sessions.open(OpenRequest {}).await.context("opening a session")?.into_inner();
        Ok(Self { members, opened: reply.opened, window: reply.window })
    }

    fn id(&self, sequence: u64, settled: u64) -> String {
        format!("{CLIENT}.{}.{sequence}.{settled}", self.opened)
    }

    fn kv(&self, member: usize) -> KvClient<Channel> {
        KvClient::new(self.members[member].clone())
    }

    fn lease(&self, member: usize) -> LeaseClient<Channel> {
        LeaseClient::new(self.members[member].clone())
    }

    async fn put(
        &self,
        member: usize,
        id: &str,
        key: &str,
    ) -> Result<Response<pb::PutResponse>, Status> {
        self.kv(member).put(with_id(id, put(key))).await
    }

    /// Version of a key, or zero.
    async fn version(&self, member: usize, key: &str) -> anyhow::Result<i64> {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let answer = self.kv(member).range(request).await?.into_inner();
        Ok(answer.kvs.first().map_or(0, |kv| kv.version))
    }
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), prev_kv: true, ..Default::default() }
}

fn with_id<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("kvd-request-id", id.parse().expect("is ASCII"));
    request
}

fn is_repeated<T>(response: &Response<T>) -> bool {
    response.metadata().get("kvd-repeated").is_some_and(|value| value == "true")
}

fn revision(header: Option<&pb::ResponseHeader>) -> anyhow::Result<i64> {
    Ok(header.context("an answer has a header")?.revision)
}

fn run(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test)
}

/// Every kind of request that may have an id, repeated at each member: the answer of the first time.
#[test]
fn a_repetition_at_any_member_is_answered_as_the_first() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    run(async {
        let session = Session::open(&cluster.endpoints()).await?;
        let first = session.put(0, &session.id(1, 0), "k").await?;
        ensure!(!is_repeated(&first), "it is the first");
        let first = first.into_inner();
        session.kv(1).put(put("other")).await?;
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put("t"))),
            }],
            ..Default::default()
        };
        let delete = pb::DeleteRangeRequest { key: "other".into(), ..Default::default() };
        let grant = pb::LeaseGrantRequest { ttl: 600, id: 0 };
        let compact = pb::CompactionRequest { revision: 2, physical: true };
        let txn_first = session.kv(1).txn(with_id(&session.id(2, 0), txn.clone())).await?;
        let delete_first =
            session.kv(2).delete_range(with_id(&session.id(3, 0), delete.clone())).await?;
        let grant_first = session.lease(0).lease_grant(with_id(&session.id(4, 0), grant)).await?;
        let lease = grant_first.get_ref().id;
        session.kv(0).compact(with_id(&session.id(5, 0), compact)).await?;
        for member in 0..3 {
            let again = session.put(member, &session.id(1, 0), "k").await?;
            ensure!(is_repeated(&again), "at member {member}");
            let again = again.into_inner();
            let revisions = [revision(first.header.as_ref())?, revision(again.header.as_ref())?];
            ensure!(revisions[0] == revisions[1], "{revisions:?} at member {member}");
            ensure!(again.prev_kv.is_none(), "as the first time: {again:?}");
            ensure!(session.version(member, "k").await? == 1, "applied once");

            let again = session.kv(member).txn(with_id(&session.id(2, 0), txn.clone())).await?;
            ensure!(is_repeated(&again) && again.get_ref().responses.len() == 1, "{again:?}");
            let (was, is) = (txn_first.get_ref().header.as_ref(), again.get_ref().header.as_ref());
            ensure!(revision(was)? == revision(is)?, "{again:?}");
            ensure!(session.version(member, "t").await? == 1, "applied once");

            let repeated = with_id(&session.id(3, 0), delete.clone());
            let again = session.kv(member).delete_range(repeated).await?;
            ensure!(is_repeated(&again) && again.get_ref().deleted == 1, "{again:?}");
            let was = delete_first.get_ref().header.as_ref();
            ensure!(revision(was)? == revision(again.get_ref().header.as_ref())?, "{again:?}");

            let repeated = with_id(&session.id(4, 0), grant);
            let again = session.lease(member).lease_grant(repeated).await?;
            ensure!(is_repeated(&again) && again.get_ref().id == lease, "{again:?}");

            let again = session.kv(member).compact(with_id(&session.id(5, 0), compact)).await?;
            ensure!(is_repeated(&again), "{again:?}");
        }
        let revoke = pb::LeaseRevokeRequest { id: lease };
        session.lease(0).lease_revoke(with_id(&session.id(6, 5), revoke)).await?;
        let again = session.lease(1).lease_revoke(with_id(&session.id(6, 5), revoke)).await?;
        ensure!(is_repeated(&again), "{again:?}");
        let leases = session.lease(2).lease_leases(pb::LeaseLeasesRequest {}).await?;
        ensure!(leases.get_ref().leases.is_empty(), "one lease was granted: {leases:?}");
        Ok(())
    })
}

/// What was answered is known to whoever leads after it, and after all members were killed.
#[test]
fn answers_outlive_leaders_and_restarts() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let (mut first, mut id) = (0, String::new());
    run(async {
        let session = Session::open(&endpoints).await?;
        id = session.id(1, 0);
        first = revision(session.put(0, &id, "k").await?.get_ref().header.as_ref())?;
        session.kv(0).put(put("other")).await?;
        Ok(())
    })?;
    for member in 0..3 {
        cluster.member(member).kill()?;
    }
    // All are started before one can be ready.
    for member in 0..3 {
        cluster.member(member).spawn()?;
    }
    for member in 0..3 {
        cluster.member(member).wait_ready()?;
    }
    run(async {
        let session = Session::open(&endpoints).await?;
        for member in 0..3 {
            let again = session.put(member, &id, "k").await?;
            ensure!(is_repeated(&again), "at member {member}: {again:?}");
            ensure!(revision(again.get_ref().header.as_ref())? == first, "{again:?}");
            ensure!(session.version(member, "k").await? == 1, "applied once");
        }
        Ok(())
    })
}

/// Where the store has grown to its quota, a request that was applied before is told so; a new one is refused.
#[test]
fn a_repetition_is_answered_where_the_quota_is_reached() -> anyhow::Result<()> {
    let flags = ["--quota-backend-bytes=2000".to_owned()];
    let cluster = Cluster::start(&Program::kvd()?, 1, &flags)?;
    run(async {
        let session = Session::open(&cluster.endpoints()).await?;
        let of = |bytes: usize| pb::PutRequest { value: vec![b'v'; bytes].into(), ..put("k") };
        session.kv(0).put(with_id(&session.id(1, 0), of(500))).await?;
        let filling = pb::PutRequest { key: "filling".into(), ..of(1000) };
        session.kv(0).put(filling).await?;
        let again = session.kv(0).put(with_id(&session.id(1, 0), of(500))).await?;
        ensure!(is_repeated(&again), "{again:?}");
        for refused in [with_id(&session.id(2, 0), of(500)), Request::new(of(500))] {
            let error = session.kv(0).put(refused).await.err().context("was applied")?;
            ensure!(error.code() == Code::ResourceExhausted, "{error:?}");
        }
        ensure!(session.version(0, "k").await? == 1, "applied once");
        Ok(())
    })
}

/// Whatever is no id, of no session or outside its window is refused, and nothing is applied.
#[test]
fn an_id_that_cannot_be_judged_is_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    run(async {
        let session = Session::open(&cluster.endpoints()).await?;
        let before = session.kv(0).put(put("before")).await?;
        let refused = async |id: &str, code: Code, text: &str| {
            let error = session.put(0, id, "k").await.err().context("was applied")?;
            ensure!((error.code(), error.message()) == (code, text), "{id}: {error:?}");
            Ok(())
        };
        for id in ["", "1.1.1.0", "00000000c0ffee01.1.1", "00000000c0ffee01.1.1.-1"] {
            refused(id, Code::InvalidArgument, "kvd: request id is malformed").await?;
        }
        let unknown = "kvd: session of the request id is not known";
        let never_opened = format!("{CLIENT}.0.1.0");
        refused(&never_opened, Code::FailedPrecondition, unknown).await?;
        let outside = "kvd: request id is outside the window of its session";
        let beyond = u64::from(session.window) + 1;
        for id in [session.id(beyond, 0), session.id(1, 1), session.id(0, 0)] {
            refused(&id, Code::FailedPrecondition, outside).await?;
        }
        ensure!(session.version(0, "k").await? == 0, "nothing was applied");
        let after = session.kv(0).put(put("before")).await?;
        let grown = revision(after.get_ref().header.as_ref())?
            - revision(before.get_ref().header.as_ref())?;
        ensure!(grown == 1, "{grown} revisions");

        // Requests that change nothing have no ids, and do not look at them.
        let reads = pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                    key: "before".into(),
                    ..Default::default()
                })),
            }],
            ..Default::default()
        };
        session.kv(0).txn(with_id("nonsense", reads)).await?;
        let range = pb::RangeRequest { key: "before".into(), ..Default::default() };
        session.kv(0).range(with_id("nonsense", range)).await?;
        Ok(())
    })
}

/// By this a client knows that a server has no request ids.
#[test]
fn etcd_has_no_sessions() -> anyhow::Result<()> {
    let program = match Program::etcd() {
        Ok(program) => program,
        Err(error) => {
            tools::skip("etcd_has_no_sessions", &format!("{error:#}"));
            return Ok(());
        }
    };
    let cluster = Cluster::start(&program, 1, &[])?;
    run(async {
        let endpoint = cluster.endpoints()[0].clone();
        let channel = Channel::from_shared(endpoint)?.connect().await?;
        let error = SessionsClient::new(channel).open(OpenRequest {}).await.err();
        let error = error.context("a real etcd opened a session")?;
        ensure!(error.code() == Code::Unimplemented, "{error:?}");
        Ok(())
    })
}
