//! A request's id in the metadata of its call, and what tells the client that it was known.

use kvd_core::ids::{Index, RequestId};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};

/// Where clients put the id: `<client>.<opened>.<sequence>.<settled>`.
const KEY: &str = "kvd-request-id";

/// Stands beside the answer of a repetition.
const REPEATED_KEY: &str = "kvd-repeated";

/// Hex digits of a client's id.
const CLIENT_DIGITS: usize = 16;

/// The request's id; `None` where it has none.
pub(super) fn of(metadata: &MetadataMap) -> Result<Option<RequestId>, Status> {
    let mut values = metadata.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let id = value.to_str().ok().and_then(parse);
    match (id, values.next()) {
        (Some(id), None) => Ok(Some(id)),
        _ => Err(Status::invalid_argument("kvd: request id is malformed")),
    }
}

/// An answer, marked if it is the one of an earlier sending of the request.
pub(super) fn answer<T>(message: T, repeated: bool) -> Response<T> {
    let mut response = Response::new(message);
    if repeated {
        response.metadata_mut().insert(REPEATED_KEY, MetadataValue::from_static("true"));
    }
    response
}

fn parse(text: &str) -> Option<RequestId> {
    let mut parts = text.split('.');
    let mut next = || parts.next();
    let (client, opened, sequence, settled) = (next()?, next()?, next()?, next()?);
    let hex =
        client.len() == CLIENT_DIGITS && client.bytes().all(|digit| digit.is_ascii_hexdigit());
    if parts.next().is_some() || !hex {
        return None;
    }
    Some(RequestId {
        client: u64::from_str_radix(client, 16).ok()?,
        opened: Index(decimal(opened)?),
        sequence: decimal(sequence)?,
        settled: decimal(settled)?,
    })
}

/// Digits only: the library would take a sign.
fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(values: &[&'static str]) -> Result<Option<RequestId>, Status> {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append(KEY, MetadataValue::from_static(value));
        }
        of(&metadata)
    }

    #[test]
    fn an_id_is_read() {
        assert_eq!(parsed(&[]).unwrap(), None);
        let id = parsed(&["00fFeeddccbbaa99.300.2.1"]).unwrap().unwrap();
        assert_eq!((id.client, id.opened), (0x00ff_eedd_ccbb_aa99, Index(300)));
        assert_eq!((id.sequence, id.settled), (2, 1));
        let most = "ffffffffffffffff.18446744073709551615.18446744073709551615.0";
        assert_eq!(parsed(&[most]).unwrap().unwrap().sequence, u64::MAX);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let good = "0000000000000001.1.1.0";
        for bad in [
            "",
            "1.1.1.0",
            "0000000000000001.1.1",
            "0000000000000001.1.1.0.0",
            "0000000000000001..1.0",
            "0000000000000001.+1.1.0",
            "0000000000000001.1.-1.0",
            "0000000000000001.1.1.18446744073709551616",
            "+000000000000001.1.1.0",
            "000000000000000g.1.1.0",
            "00000000000000001.1.1.0",
            " 0000000000000001.1.1.0",
        ] {
            let refused = parsed(&[bad]).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{bad}");
            assert_eq!(refused.message(), "kvd: request id is malformed");
        }
        assert!(parsed(&[good, good]).is_err(), "one request has one id");
    }
}
