//! The wire: etcd's client services, the standard health service and kvd's own services, as
//! Rust types, clients and server traits.
//!
//! Promises that every name, number and type of etcd's client services is etcd's; `tests/wire.rs`
//! compares them with the table. Keys and values are [`bytes::Bytes`], slices of the message they
//! came in. Knows nothing about what the messages mean.

/// Declares the module of a package. What is inside is generated: its doc lines stand in the
/// .proto files, where not every field needs one, and its shapes follow the wire.
macro_rules! wire {
    ($(#[$doc:meta])* $module:ident = $name:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unused_qualifications,
            clippy::all,
            clippy::use_self,
            clippy::allow_attributes_without_reason,
            rustdoc::all,
            reason = "generated from the .proto files, which say what each item is"
        )]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));
        }
    };
}

wire! {
    /// Keys and their changes (`etcd/kv.proto`).
    mvccpb = "mvccpb"
}
wire! {
    /// Users, roles and permissions (`etcd/auth.proto`).
    authpb = "authpb"
}
wire! {
    /// The services of etcd v3 (`etcd/rpc.proto`).
    etcdserverpb = "etcdserverpb"
}
wire! {
    /// Locks (`etcd/lock.proto`).
    v3lockpb = "v3lockpb"
}
wire! {
    /// Elections (`etcd/election.proto`).
    v3electionpb = "v3electionpb"
}

pub use grpc::health::v1 as health;
pub use kvd::peer::v1 as peer;
pub use kvd::v1 as session;

// Generated code names the types of other packages by `super`, once for every part of the package
// name; hence the nesting.
mod grpc {
    pub(crate) mod health {
        wire! {
            /// The standard health service (`grpc/health.proto`).
            v1 = "grpc.health.v1"
        }
    }
}

mod kvd {
    wire! {
        /// How clients name their requests, so that one repeated is applied once (`kvd/session.proto`).
        v1 = "kvd.v1"
    }
    pub(crate) mod peer {
        wire! {
            /// What members say to each other (`kvd/peer.proto`).
            v1 = "kvd.peer.v1"
        }
    }
}
