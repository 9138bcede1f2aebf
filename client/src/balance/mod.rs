//! The endpoints of a client: which there are, how they do, and which one to use.

mod endpoint;
mod link;
mod picker;
mod recovery;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use self::endpoint::{Endpoint, parse};
use self::picker::Picker;
pub(crate) use self::picker::{Failing, Health};
use crate::error::Error;
use crate::options::Options;

/// One endpoint among those of a client, for as long as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(u64);

/// See the module. Shared by all clones of a client.
#[derive(Debug)]
pub(crate) struct Balance {
    options: Options,
    inner: Mutex<Inner>,
    /// The endpoint in use: what lives long moves along.
    current: watch::Sender<Id>,
}

#[derive(Debug)]
struct Inner {
    picker: Picker,
    endpoints: BTreeMap<Id, Arc<Endpoint>>,
    next_id: u64,
    /// A task looks after those that failed.
    recovering: bool,
    /// When the endpoints not in use were last asked how they are, because a call waited.
    asked_around: Option<Instant>,
}

impl Balance {
    /// Knows these endpoints, and is at one of them. Connects to none yet, but must be called within a runtime.
    pub(crate) fn new(names: &[String], options: &Options) -> Result<Arc<Self>, Error> {
        let endpoints = names.iter().map(|name| Endpoint::new(name, options).map(Arc::new));
        Self::of(endpoints.collect::<Result<_, _>>()?, options)
    }

    /// Knows this endpoint alone, on the connection that it has.
    pub(crate) fn at(endpoint: Arc<Endpoint>, options: &Options) -> Result<Arc<Self>, Error> {
        Self::of(vec![endpoint], options)
    }

    fn of(endpoints: Vec<Arc<Endpoint>>, options: &Options) -> Result<Arc<Self>, Error> {
        let endpoints: BTreeMap<Id, Arc<Endpoint>> = (0..).map(Id).zip(endpoints).collect();
        let order = order(endpoints.keys().copied().collect());
        let next_id = endpoints.len() as u64;
        let picker = Picker::new(order, rand::make_rng()).ok_or(Error::NoEndpoints)?;
        let current = watch::Sender::new(picker.current());
        let inner = Inner { picker, endpoints, next_id, recovering: false, asked_around: None };
        Ok(Arc::new(Self { options: options.clone(), inner: Mutex::new(inner), current }))
    }

    /// The endpoint to use, and how long to wait before using it.
    pub(crate) fn pick(&self) -> (Arc<Endpoint>, Duration) {
        let mut inner = self.lock();
        let Inner { picker, endpoints, .. } = &mut *inner;
        let load = |id: Id| endpoints.get(&id).map_or(0, |endpoint| endpoint.in_flight());
        let (id, pause) = picker.pick(Instant::now().into_std(), load);
        let endpoint = endpoints.get(&id).or_else(|| endpoints.values().next()).map(Arc::clone);
        self.now_at(&inner, id);
        drop(inner);
        match endpoint {
            Some(endpoint) => (endpoint, pause),
            None => unreachable!("a client without endpoints is not made"),
        }
    }

    /// An endpoint answered.
    pub(crate) fn succeeded(&self, endpoint: &Arc<Endpoint>) {
        let mut inner = self.lock();
        if let Some(id) = inner.id_of(endpoint) {
            inner.picker.succeeded(id);
        }
    }

    /// An endpoint did not serve a call. It is looked after until it is well again.
    pub(crate) fn failed(self: &Arc<Self>, endpoint: &Arc<Endpoint>, how: Failing) {
        let mut inner = self.lock();
        let Some(id) = inner.id_of(endpoint) else { return };
        if how == Failing::Silent {
            // What was lost on the old connection is sent again later and later; on a new one it shows at once
            // that somebody is back.
            endpoint.disconnect();
        }
        inner.picker.failed(id, how, Instant::now().into_std());
        self.look_after(&mut inner);
    }

    fn look_after(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.picker.to_examine().is_empty() && !std::mem::replace(&mut inner.recovering, true)
        {
            tokio::spawn(recovery::run(Arc::downgrade(self)));
        }
    }

    /// Knows these endpoints from now on. Those that stay keep their connections.
    pub(crate) fn replace(self: &Arc<Self>, names: &[String]) -> Result<(), Error> {
        let mut made = BTreeMap::new();
        for name in names {
            let uri = parse(name)?;
            let known = self.endpoints().into_iter().find(|known| known.is_at(&uri));
            let endpoint = match known {
                Some(known) => known,
                None => Arc::new(Endpoint::new(name, &self.options)?),
            };
            made.insert(uri.to_string(), endpoint);
        }
        if made.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let mut inner = self.lock();
        let mut endpoints = BTreeMap::new();
        for endpoint in made.into_values() {
            let id = inner.id_of(&endpoint).unwrap_or_else(|| {
                inner.next_id += 1;
                Id(inner.next_id)
            });
            endpoints.insert(id, endpoint);
        }
        let ids: Vec<Id> = endpoints.keys().copied().collect();
        inner.endpoints = endpoints;
        inner.picker.replace(&ids);
        // It may have another home now.
        self.look_after(&mut inner);
        self.now_at(&inner, inner.picker.current());
        Ok(())
    }

    /// Whether it is the one in use.
    pub(crate) fn is_current(&self, endpoint: &Arc<Endpoint>) -> bool {
        let inner = self.lock();
        inner.id_of(endpoint) == Some(inner.picker.current())
    }

    /// There is nowhere else to go.
    pub(crate) fn is_alone(&self) -> bool {
        self.lock().endpoints.len() == 1
    }

    /// All endpoints.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.lock().endpoints.values().map(Arc::clone).collect()
    }

    /// Tells when another endpoint comes into use.
    pub(crate) fn current(&self) -> watch::Receiver<Id> {
        self.current.subscribe()
    }

    /// This endpoint is in use. The one before it keeps what is under way, and no connection after that.
    fn now_at(&self, inner: &Inner, id: Id) {
        self.current.send_if_modified(|current| {
            let before = std::mem::replace(current, id);
            if let Some(left) = inner.endpoints.get(&before).filter(|_| before != id) {
                left.disconnect();
            }
            before != id
        });
    }

    /// Nothing in there could be left half changed by a panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn id_of(&self, endpoint: &Arc<Endpoint>) -> Option<Id> {
        let found = self.endpoints.iter().find(|(_, known)| Arc::ptr_eq(known, endpoint));
        found.map(|(id, _)| *id)
    }
}

/// A client's own order. The clients of one process take turns in where they are at home, so that few of them are
/// spread as evenly as many.
fn order(mut ids: Vec<Id>) -> Vec<Id> {
    static TURN: OnceLock<AtomicUsize> = OnceLock::new();
    let mut random: StdRng = rand::make_rng();
    if ids.is_empty() {
        return ids;
    }
    let turn = TURN.get_or_init(|| AtomicUsize::new(random.random_range(0..usize::MAX / 2)));
    let home = turn.fetch_add(1, Ordering::Relaxed) % ids.len();
    ids.swap(0, home);
    ids[1..].shuffle(&mut random);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_of_a_process_spread_evenly() -> Result<(), Error> {
        let names = ["a:1", "b:1", "c:1"].map(str::to_owned);
        let mut homes = BTreeMap::new();
        for _ in 0..60 {
            let balance = Balance::new(&names, &Options::new(names.clone()))?;
            *homes.entry(balance.pick().0.name.clone()).or_insert(0) += 1;
        }
        // Other tests make clients meanwhile.
        assert!(homes.values().all(|clients| (12..=28).contains(clients)), "{homes:?}");
        Ok(())
    }

    #[tokio::test]
    async fn endpoints_that_stay_keep_their_connections() -> Result<(), Error> {
        let names = ["a:1", "b:1"].map(str::to_owned);
        let balance = Balance::new(&names, &Options::new(names.clone()))?;
        let before = balance.endpoints();
        balance.replace(&["b:1".to_owned(), "c:1".to_owned()])?;
        let after = balance.endpoints();
        let kept =
            after.iter().filter(|endpoint| before.iter().any(|old| Arc::ptr_eq(old, endpoint)));
        assert_eq!(kept.map(|endpoint| endpoint.name.as_str()).collect::<Vec<_>>(), ["b:1"]);
        assert!(["b:1", "c:1"].contains(&balance.pick().0.name.as_str()));
        assert!(balance.replace(&[]).is_err());
        assert!(balance.replace(&["no port".to_owned()]).is_err());
        assert_eq!(balance.endpoints().len(), 2, "what cannot be is not taken over");
        Ok(())
    }
}
