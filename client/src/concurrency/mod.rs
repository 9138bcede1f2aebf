//! Locks, elections and their kin, made of keys that leases hold.
//!
//! # What a lock can promise, and what it cannot
//!
//! A *lease* is a promise of the store to keep certain keys while its client renews it in time. A [`Session`] is such
//! a lease with a task that renews it. Whoever wants a lock puts a key of its own under the lock's name, held by its
//! session, and has the lock once no older key is there. If the process dies, the lease ends and the key goes: nobody
//! waits for the dead.
//!
//! But a process that only *stood still* for longer than its lease — a pause for garbage, a laptop's lid, an
//! overloaded machine — goes on believing that it holds the lock while somebody else holds it already. No lock service
//! can prevent that. Hence every lock here comes with a [`FencingToken`], a number that is greater for each holder
//! than for all before:
//!
//! - Give the token to whatever the lock protects, and let that refuse a token less than the greatest it has seen.
//! - Where the protected thing is a key of the same store, [`Held::guard`] makes a transaction fail once the lock is
//!   gone.
//! - [`Held::lost`] and [`Session::lost`] tell early, but never certainly in time.
//!
//! Nothing here promises mutual exclusion beyond what the tokens give.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kvd_client::concurrency::{Mutex, Session};
//! use kvd_client::{Client, Op, Options, Txn};
//!
//! let client = Client::connect(Options::new(["127.0.0.1:2379"])).await?;
//! let session = Session::start(&client).await?;
//! let held = Mutex::new("locks/reports").lock(&session).await?;
//! println!("the token of this holder is {}", held.token());
//! let write = held.guard(Txn::new().then(Op::put("reports/last", "42")));
//! assert!(client.commit(write).await?.succeeded, "the lock was lost meanwhile");
//! held.unlock().await?;
//! session.end().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Who else may take part
//!
//! Keys lie as etcd's own clients lay them, so that locks and elections are shared with `etcdctl lock`, `etcdctl
//! elect`, the Lock and Election services of servers, and etcd's library for Go: `<name>/<lease in hex>`, the oldest
//! key first.
//!
//! # What is sent twice
//!
//! Taking and giving back a place in line is sent again when its outcome is unknown: the key is the session's own, so
//! the second finds what the first has done. A request that a server carries out only after all that, when the place
//! was given back already, leaves a key that nobody believes to hold; it goes with the session at the latest.

mod barrier;
mod claim;
mod election;
mod error;
mod held;
mod kube_lease;
mod kube_record;
mod line;
mod mutex;
mod queue;
mod rwlock;
mod semaphore;
mod session;
mod stm;
mod tenure;

pub use self::barrier::Barrier;
pub use self::election::{Election, Leader, Leadership, Observe};
pub use self::error::Error;
pub use self::held::{FencingToken, Held};
pub use self::kube_lease::{KubeLeadership, KubeLease, KubeTimes};
pub use self::kube_record::KubeRecord;
pub use self::mutex::Mutex;
pub use self::queue::Queue;
pub use self::rwlock::RwLock;
pub use self::semaphore::Semaphore;
pub use self::session::Session;
pub use self::stm::{Stm, stm};
