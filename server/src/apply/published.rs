//! The newest View, for everybody, and who waits for a later one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvd_core::ids::Index;
use kvd_core::view::View;
use tokio::sync::oneshot;

/// What everybody may see of the applied state.
#[derive(Clone)]
pub(crate) struct Published {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    view: View,
    /// Who waits for an index to become visible.
    waiting: BTreeMap<Index, Vec<oneshot::Sender<()>>>,
}

impl Published {
    pub(super) fn new(view: View) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { view, waiting: BTreeMap::new() })) }
    }

    /// The newest View.
    pub(crate) fn view(&self) -> View {
        self.lock().view.clone()
    }

    /// Index of the newest View.
    pub(crate) fn applied(&self) -> Index {
        self.lock().view.at().index
    }

    /// Returns a View at this index or later, once there is one.
    pub(crate) async fn at_least(&self, index: Index) -> View {
        loop {
            let visible = {
                let mut inner = self.lock();
                if inner.view.at().index >= index {
                    return inner.view.clone();
                }
                let (sender, receiver) = oneshot::channel();
                inner.waiting.entry(index).or_default().push(sender);
                receiver
            };
            // A closed channel can only mean that the waiters were cleared: look again.
            let _woken = visible.await;
        }
    }

    pub(super) fn publish(&self, view: View) {
        let mut inner = self.lock();
        let index = view.at().index;
        let before = std::mem::replace(&mut inner.view, view);
        let still_waiting = inner.waiting.split_off(&index.next());
        let woken = std::mem::replace(&mut inner.waiting, still_waiting);
        drop(inner);
        // It may be the last one of a state that was replaced: not while everybody waits for the lock.
        drop(before);
        for waiter in woken.into_values().flatten() {
            let _gone = waiter.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic aborts the process, so the lock is never seen poisoned; either way the content is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
