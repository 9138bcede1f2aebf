//! Increments: what may be added to what.

use kvd_core::checkpoint::mem::MemStore;
use kvd_core::codec::encode_proposal;
use kvd_core::command::{Command, Entry, Proposal, Put};
use kvd_core::ids::{Index, LeaseId, MemberId, Term};

use super::*;
use crate::stores::mem::MemStores;

/// A state in which a key had these values, one after the other.
fn state(values: &[&'static str]) -> State {
    let mut state = State::open(Arc::new(MemStore::new()), Options::DEFAULT).unwrap();
    for (value, index) in values.iter().zip(1..) {
        let put = Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(value.as_bytes()),
            lease: LeaseId(0),
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        let log_id = LogId { term: Term(1), node: MemberId(1), index: Index(index) };
        let proposal = Some(encode_proposal(&Proposal::internal(Command::Put(put))));
        state.apply(&Entry { log_id, proposal, membership: None }, false).unwrap();
    }
    state.publish();
    state
}

/// What a receiver makes of an increment.
fn added(receiver: &State, sender: &State) -> Result<Received, String> {
    let (offer, own) = (Offer::default(), receiver.view());
    let mut capture = sender.capture();
    capture.send_after(offer.make(&own));
    assert_eq!(capture.base(), Some(own.revision()));
    let mut building = Building::new(&MemStores::new(), Some(own), offer)?;
    while let Some(chunk) = next_chunk(&mut capture)? {
        building.take(chunk)?;
    }
    let alone = Arc::new(Mutex::new(())).try_lock_owned().unwrap();
    building.finish(Options::DEFAULT, alone)
}

#[test]
fn an_increment_fits_only_the_history_it_continues() {
    let sender = state(&["one", "two", "three", "four"]);
    let received = added(&state(&["one", "two"]), &sender).unwrap();
    assert_eq!(received.state.view().state_hash(), sender.view().state_hash());
    // What is live in the end is the same.
    let refused = added(&state(&["forged", "two"]), &sender).map(|_received| ());
    assert!(refused.unwrap_err().contains("histories"));
}

#[test]
fn an_increment_is_added_only_to_what_was_offered() {
    let offer = Offer::default();
    assert!(offer.history_upto(Revision(3)).is_err());
    offer.make(&state(&["one", "two"]).view());
    assert!(offer.history_upto(Revision(3)).is_ok());
    assert!(offer.history_upto(Revision(2)).is_err());
}
