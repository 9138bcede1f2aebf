//! Looks for endpoints: in DNS, or by asking the cluster for its members.
//!
//! What cannot be looked up leaves the endpoints as they are: an old list is better than none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use http::Uri;
use kvd_proto::etcdserverpb::Member;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::balance::{Balance, parse};
use crate::client::Client;
use crate::error::Error;
use crate::options::{Discovery, Options};

/// What failed is tried again so soon.
const RETRY: Duration = Duration::from_secs(1);
/// A cluster has no more members than this, and a name no more addresses that matter.
const ENDPOINTS_MAX: usize = 64;

/// The endpoints to begin with.
pub(crate) async fn first(options: &Options) -> Result<Vec<String>, Error> {
    match options.discovery {
        Discovery::Fixed | Discovery::Members => Ok(options.endpoints.clone()),
        Discovery::Addresses | Discovery::Service { .. } => in_dns(options).await,
    }
}

/// Looks again and again, for as long as the client is there.
pub(crate) fn keep_looking(balance: &Arc<Balance>, options: &Options) {
    if options.discovery != Discovery::Fixed {
        tokio::spawn(look(Arc::downgrade(balance), options.clone()));
    }
}

async fn look(balance: Weak<Balance>, options: Options) {
    let mut random: StdRng = rand::make_rng();
    let mut pause = Duration::ZERO;
    loop {
        sleep(pause).await;
        let Some(balance) = balance.upgrade() else { return };
        let found = match options.discovery {
            Discovery::Members => members(&balance, &options).await,
            _ => in_dns(&options).await,
        };
        let taken = found.and_then(|names| balance.replace(&names));
        if let Err(error) = &taken {
            tracing::warn!(%error, "no endpoints were found; the old ones stay");
        }
        let period = if taken.is_ok() { options.discovery_interval } else { RETRY };
        // Clients that began together shall not ask together.
        pause = period.mul_f64(random.random_range(0.8..1.2));
    }
}

async fn in_dns(options: &Options) -> Result<Vec<String>, Error> {
    let resolver = resolver(options).map_err(|error| unresolved("the system", error))?;
    let mut found = BTreeSet::new();
    match &options.discovery {
        Discovery::Service { domain, name } => {
            let name = name.as_ref().map_or_else(String::new, |name| format!("-{name}"));
            let name = format!("_etcd-client{name}._tcp.{domain}");
            let records = resolver.srv_lookup(name.as_str()).await;
            let records = records.map_err(|error| unresolved(&name, error))?;
            for record in records.answers() {
                if let RData::SRV(service) = &record.data {
                    let target = service.target.to_utf8();
                    found.insert(format!("{}:{}", target.trim_end_matches('.'), service.port));
                }
            }
        }
        _ => {
            for endpoint in &options.endpoints {
                let uri = parse(endpoint)?;
                let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let addresses = resolver.lookup_ip(host).await;
                let addresses = addresses.map_err(|error| unresolved(host, error))?;
                found.extend(addresses.iter().map(|address| at(address, port)));
            }
        }
    }
    if found.is_empty() {
        return Err(Error::NoEndpoints);
    }
    Ok(found.into_iter().take(ENDPOINTS_MAX).collect())
}

/// Where the voters say that clients reach them. When nobody answers, what was given counts again.
async fn members(balance: &Arc<Balance>, options: &Options) -> Result<Vec<String>, Error> {
    let client = Client::of(Arc::clone(balance), options.clone());
    match client.member_list().await {
        Ok(list) => Ok(client_urls(list.members)),
        Err(Error::Unavailable { .. }) => Ok(options.endpoints.clone()),
        Err(error) => Err(error),
    }
}

fn client_urls(members: Vec<Member>) -> Vec<String> {
    let voters = members.into_iter().filter(|member| !member.is_learner);
    // One URL each: more would count a member twice.
    let can_be_reached = |url: &String| parse(url).is_ok() && is_named(url);
    let urls = voters.filter_map(|member| member.client_ur_ls.into_iter().find(can_be_reached));
    urls.take(ENDPOINTS_MAX).collect()
}

/// An address, not "all of mine".
fn is_named(url: &str) -> bool {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>().map_or(true, |address| !address.is_unspecified())
    })
}

fn at(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

fn resolver(options: &Options) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let Some(server) = options.name_server else {
        return TokioResolver::builder_tokio()?.build();
    };
    let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    (udp.port, tcp.port) = (server.port(), server.port());
    let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()
}

fn unresolved(name: &str, error: impl ToString) -> Error {
    Error::InvalidEndpoint { endpoint: name.to_owned(), reason: error.to_string() }
}
