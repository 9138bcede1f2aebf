//! Other people's clients against three kvd members: the real etcdctl, of three releases, prints
//! what it prints against three members of a real etcd; the Rust crate etcd-client works.
//!
//! A client that is not on this machine is skipped loudly, see `README.md`.

mod etcd_client;
mod etcdctl;
mod mask;
