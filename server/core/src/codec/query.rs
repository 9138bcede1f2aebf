//! The bytes of a Range inside a proposal. Numbers are append only.

use super::DecodeError;
use super::proposal::{read_range, write_range};
use super::wire::{Reader, Writer};
use crate::command::{RangeQuery, RevisionFilter, SortOrder, SortTarget};

/// Flag bits of a query.
const KEYS_ONLY: u8 = 1;
const COUNT_ONLY: u8 = 2;

pub(super) fn write_query(out: &mut Writer, query: &RangeQuery) {
    write_range(out, &query.range);
    out.option(query.revision, Writer::revision);
    out.option(query.limit, Writer::u64);
    out.u8(match query.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    out.u8(match query.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.u8(u8::from(query.keys_only) * KEYS_ONLY + u8::from(query.count_only) * COUNT_ONLY);
    let filter = query.filter;
    let bounded = filter != RevisionFilter::default();
    out.option(bounded.then_some(filter), |out, filter| {
        out.i64(filter.min_mod);
        out.i64(filter.max_mod);
        out.i64(filter.min_create);
        out.i64(filter.max_create);
    });
}

pub(super) fn read_query(input: &mut Reader) -> Result<RangeQuery, DecodeError> {
    let range = read_range(input)?;
    let revision = input.option(Reader::revision)?;
    let limit = input.option(Reader::u64)?;
    let sort_target = match input.u8()? {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        found => return Err(DecodeError::Tag { what: "sort target", found }),
    };
    let sort_order = match input.u8()? {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        found => return Err(DecodeError::Tag { what: "sort order", found }),
    };
    let flags = input.u8()?;
    if flags & !(KEYS_ONLY | COUNT_ONLY) != 0 {
        return Err(DecodeError::Tag { what: "range flags", found: flags });
    }
    let filter = input.option(|input| {
        Ok(RevisionFilter {
            min_mod: input.i64()?,
            max_mod: input.i64()?,
            min_create: input.i64()?,
            max_create: input.i64()?,
        })
    })?;
    if filter == Some(RevisionFilter::default()) {
        return Err(DecodeError::Contradiction("a filter that filters nothing"));
    }
    Ok(RangeQuery {
        range,
        revision,
        limit,
        sort_target,
        sort_order,
        keys_only: flags & KEYS_ONLY != 0,
        count_only: flags & COUNT_ONLY != 0,
        filter: filter.unwrap_or_default(),
    })
}
