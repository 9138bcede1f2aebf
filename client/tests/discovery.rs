//! Finding endpoints: by a DNS server of the test's own, and by asking real etcd processes for their members.

mod etcd;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use kvd_client::{Client, Discovery, Error, Options};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::etcd::{Cluster, PATIENCE};

type Records = Arc<Mutex<Vec<(Name, RData)>>>;

/// A DNS server that knows these records.
async fn dns(records: Vec<(&str, RData)>) -> Result<(SocketAddr, Records)> {
    let named = records.into_iter().map(|(name, data)| Ok((Name::from_utf8(name)?, data)));
    let records = Arc::new(Mutex::new(named.collect::<Result<Vec<_>>>()?));
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let address = socket.local_addr()?;
    tokio::spawn(serve(socket, Arc::clone(&records)));
    Ok((address, records))
}

async fn serve(socket: UdpSocket, records: Records) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        let asked = Message::from_vec(&buffer[..length])?;
        let query = asked.queries.first().context("a question")?.clone();
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        answer.add_query(query.clone());
        for (name, data) in records.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if name == query.name() && data.record_type() == query.query_type() {
                // Not to be remembered.
                answer.add_answer(Record::from_rdata(name.clone(), 0, data.clone()));
            }
        }
        socket.send_to(&answer.to_vec()?, from).await?;
    }
}

fn srv(target: &str, port: u16) -> Result<RData> {
    Ok(RData::SRV(SRV::new(1, 1, port, Name::from_utf8(target)?)))
}

/// An address, however it was written.
fn bare(endpoint: String) -> String {
    endpoint.trim_start_matches("http://").to_owned()
}

async fn endpoints_become(client: &Client, expected: &[String]) -> Result<()> {
    let waiting = async {
        loop {
            let mut known: Vec<String> = client.endpoints().map(bare).collect();
            known.sort();
            if known == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.context("other endpoints")
}

#[tokio::test]
async fn srv_records_name_the_endpoints_and_are_followed() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let clusters = [Cluster::start(&binary, 1)?, Cluster::start(&binary, 1)?];
    let ports = clusters.iter().map(|cluster| cluster.members[0].endpoint.rsplit(':').next());
    let ports: Vec<u16> =
        ports.map(|port| Ok(port.context("a port")?.parse()?)).collect::<Result<_>>()?;
    let service = "_etcd-client-blue._tcp.example.test.";
    let (server, records) = dns(vec![(service, srv("localhost.", ports[0])?)]).await?;
    let options = Options::new(Vec::<String>::new())
        .discovery(Discovery::Service { domain: "example.test.".into(), name: Some("blue".into()) })
        .discovery_interval(Duration::from_millis(50))
        .name_server(server)
        .request_timeout(PATIENCE);
    let client = Client::connect(options).await?;
    client.put("where", "first").await?;
    records.lock().unwrap_or_else(PoisonError::into_inner)[0].1 = srv("localhost.", ports[1])?;
    endpoints_become(&client, &[format!("localhost:{}", ports[1])]).await?;
    assert!(client.get("where").await?.is_none(), "the other cluster");
    // A name that is gone leaves the endpoints as they were.
    records.lock().unwrap_or_else(PoisonError::into_inner).clear();
    client.put("where", "second").await?;
    Ok(())
}

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint() -> Result<()> {
    let address = |last| RData::A(A::new(127, 0, 0, last));
    let records = vec![
        ("db.example.test.", address(1)),
        ("db.example.test.", address(2)),
        ("db.example.test.", RData::AAAA(AAAA::new(0, 0, 0, 0, 0, 0, 0, 1))),
    ];
    let (server, records) = dns(records).await?;
    let options = Options::new(["http://db.example.test.:2379"])
        .discovery(Discovery::Addresses)
        .discovery_interval(Duration::from_millis(50))
        .name_server(server);
    let client = Client::lazy(options)?;
    let v4 = |last| format!("127.0.0.{last}:2379");
    endpoints_become(&client, &[v4(1), v4(2), "[::1]:2379".to_owned()]).await?;
    records.lock().unwrap_or_else(PoisonError::into_inner).remove(0);
    endpoints_become(&client, &[v4(2), "[::1]:2379".to_owned()]).await?;
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_not_there_is_told() -> Result<()> {
    let (server, _records) = dns(vec![]).await?;
    let options = Options::new(Vec::<String>::new())
        .discovery(Discovery::Service { domain: "example.test.".into(), name: None })
        .name_server(server);
    let error = Client::connect(options).await.expect_err("there is no such service");
    assert!(matches!(error, Error::InvalidEndpoint { .. }), "{error}");
    assert!(error.to_string().contains("_etcd-client._tcp.example.test."), "{error}");
    Ok(())
}

#[tokio::test]
async fn members_are_found_by_one_of_them() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let mut cluster = Cluster::start(&binary, 3)?;
    let options = Options::new([cluster.members[0].endpoint.clone()])
        .discovery(Discovery::Members)
        .discovery_interval(Duration::from_millis(50))
        .request_timeout(PATIENCE);
    let client = Client::connect(options).await?;
    client.put("k", "1").await?;
    let mut all = cluster.endpoints();
    all.sort();
    endpoints_become(&client, &all).await?;
    cluster.members[0].kill()?;
    assert!(client.get("k").await?.is_some(), "the one that was named is gone");
    Ok(())
}
