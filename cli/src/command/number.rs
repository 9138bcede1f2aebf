//! Numbers on the command line, refused in the words etcdctl's users know.

/// A decimal number.
pub(super) fn decimal(text: &str) -> Result<i64, String> {
    parse(text, 10)
}

/// A hexadecimal number, as leases are written.
pub(super) fn hexadecimal(text: &str) -> Result<i64, String> {
    parse(text, 16)
}

fn parse(text: &str, radix: u32) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};

    i64::from_str_radix(text, radix).map_err(|error| {
        let reason = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {}: {reason}", crate::quote::quote(text.as_bytes()))
    })
}
