//! What a tool can check about the source tree itself, as tests: shape of files, direction of
//! imports, who may name which dependency, links, leftovers.
//!
//! Tables of exceptions here may only shrink: they hold what is as it is today.

mod dependencies;
mod documents;
mod mutants;
mod ranks;
mod shape;
mod source;
