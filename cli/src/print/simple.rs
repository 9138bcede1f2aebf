//! The simple form: what people and shell scripts read.

use kvd_client::proto::etcdserverpb::response_op::Response;
use kvd_client::proto::etcdserverpb::{
    DeleteRangeResponse, LeaseTimeToLiveResponse, PutResponse, RangeResponse, TxnResponse,
    WatchResponse,
};
use kvd_client::proto::mvccpb::KeyValue;

use super::{Reply, columns, took};
use crate::quote::hex as to_hex;

pub(super) fn print(reply: &Reply, hex: bool) -> Vec<u8> {
    let mut out = Out { bytes: Vec::new(), hex };
    match reply {
        Reply::Get { response, values_only } => out.range(response, *values_only),
        Reply::Put(response) => out.put(response),
        Reply::Delete(response) => out.delete(response),
        Reply::Txn(response) => out.txn(response),
        Reply::LeaseGrant(lease) => {
            let (id, ttl) = (lease.id, lease.ttl);
            out.line(format!("lease {id:016x} granted with TTL({ttl}s)"));
        }
        Reply::LeaseRevoke { id, .. } => out.line(format!("lease {id:016x} revoked")),
        Reply::LeaseTimeToLive { response, with_keys } => out.time_to_live(response, *with_keys),
        Reply::LeaseList(response) => {
            out.line(format!("found {} leases", response.leases.len()));
            response.leases.iter().for_each(|lease| out.line(format!("{:016x}", lease.id)));
        }
        Reply::LeaseKeepAlive(response) => {
            let (id, ttl) = (response.id, response.ttl);
            out.line(format!("lease {id:016x} keepalived with TTL({ttl})"));
        }
        Reply::Watch(response) => out.watch(response),
        Reply::Healths(list) => {
            // The unhealthy ones are named on stderr.
            for at in list.iter().filter(|at| at.error.is_none()) {
                out.line(format!(
                    "{} is healthy: successfully committed proposal: took = {}",
                    at.endpoint,
                    took(at)
                ));
            }
        }
        Reply::Members(_) | Reply::Statuses(_) | Reply::Hashes(_) => {
            for row in columns(reply).map(|columns| columns.rows).unwrap_or_default() {
                out.line(row.join(", "));
            }
        }
    }
    out.bytes
}

struct Out {
    bytes: Vec<u8>,
    hex: bool,
}

impl Out {
    fn line(&mut self, line: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(line.as_ref());
        self.bytes.push(b'\n');
    }

    fn data(&mut self, bytes: &[u8]) {
        if self.hex { self.line(to_hex(bytes)) } else { self.line(bytes) }
    }

    fn pair(&mut self, kv: &KeyValue) {
        self.data(&kv.key);
        self.data(&kv.value);
    }

    fn range(&mut self, response: &RangeResponse, values_only: bool) {
        for kv in &response.kvs {
            if values_only { self.data(&kv.value) } else { self.pair(kv) }
        }
    }

    fn put(&mut self, response: &PutResponse) {
        self.line("OK");
        if let Some(kv) = &response.prev_kv {
            self.pair(kv);
        }
    }

    fn delete(&mut self, response: &DeleteRangeResponse) {
        self.line(response.deleted.to_string());
        for kv in &response.prev_kvs {
            self.pair(kv);
        }
    }

    fn time_to_live(&mut self, response: &LeaseTimeToLiveResponse, with_keys: bool) {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = response;
        if *granted_ttl == 0 && *ttl == -1 {
            return self.line(format!("lease {id:016x} already expired"));
        }
        let mut line =
            format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)");
        if !with_keys {
            return self.line(line);
        }
        line.push_str(", attached keys([");
        let keys = keys.join(&b' ');
        self.line([line.as_bytes(), &keys, b"])"].concat());
    }

    fn watch(&mut self, response: &WatchResponse) {
        for event in &response.events {
            self.line(event.r#type().as_str_name());
            if let Some(kv) = &event.prev_kv {
                self.pair(kv);
            }
            if let Some(kv) = &event.kv {
                self.pair(kv);
            }
        }
    }

    fn txn(&mut self, response: &TxnResponse) {
        self.line(if response.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in &response.responses {
            self.line("");
            match &response.response {
                Some(Response::ResponseRange(range)) => self.range(range, false),
                Some(Response::ResponsePut(put)) => self.put(put),
                Some(Response::ResponseDeleteRange(delete)) => self.delete(delete),
                Some(Response::ResponseTxn(txn)) => self.txn(txn),
                None => {}
            }
        }
    }
}
