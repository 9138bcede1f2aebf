//! Watches of all kinds, one or several on a stream, which break together and go on at another member. Once clients
//! are told to stop, none is given up any more: whatever watch there is by then must hear of everything.

use std::time::Duration;

use kvd_check::{KeyRange, Response, WatchId, WatchRequest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::stream::{Ask, Stream};
use super::{Scene, member};
use crate::convert;
use crate::record::now;

/// Watches on one stream, at most.
const WATCHES: usize = 5;

/// What a response says of all watches of its stream by.
const ALL: i64 = -1;

/// One watch, over all streams on which it goes on.
struct Watch {
    /// Its name on each of them.
    number: i64,
    request: WatchRequest,
    progress_notify: bool,
    /// As it is recorded on this stream, once it was asked for.
    recorded: Option<WatchId>,
    /// The member said that it is there.
    created: bool,
    /// The server ended it.
    canceled: bool,
    /// The first revision that it may not have been told of, once that is known.
    next: Option<i64>,
}

/// Watches until all is over.
pub async fn work(scene: Scene, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !scene.is_over() {
        scene.pause(&mut rng).await;
        let several = rng.random_bool(0.5);
        let count = if several { rng.random_range(2..=WATCHES) } else { 1 };
        let mut watches: Vec<Watch> =
            (1..).take(count).map(|number| Watch::draw(&scene, &mut rng, number)).collect();
        let mut lives: u32 = rng.random_range(1..6);
        while lives > 0 || !scene.goes_on() {
            lives = lives.saturating_sub(1);
            let at = rng.random_range(0..scene.members.len());
            live(&scene, &mut rng, at, &mut watches).await;
            for watch in &mut watches {
                watch.leave(&scene);
            }
            watches.retain(|watch| !watch.canceled && watch.next.is_some());
            if watches.is_empty() {
                break;
            }
            scene.pause(&mut rng).await;
        }
    }
}

/// One stream's life.
async fn live(scene: &Scene, rng: &mut StdRng, at: usize, watches: &mut [Watch]) {
    // Some are asked for at once, the others when the stream has been there for a while.
    let mut asked = rng.random_range(1..=watches.len());
    let mut asks: Vec<Ask> =
        watches[..asked].iter_mut().map(|watch| watch.begin(scene, at)).collect();
    if rng.random_bool(0.3) {
        asks.push(Ask::Progress);
    }
    let Ok(mut stream) = Stream::open(scene.members[at], &asks).await else { return };
    let enough = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(100..3000));
    loop {
        // None begins where all is about to be judged: it may not have heard of what it asks for by then.
        if asked < watches.len() && rng.random_bool(0.3) && scene.goes_on() {
            stream.ask(&watches[asked].begin(scene, at)).await;
            asked += 1;
        }
        if rng.random_bool(0.35) {
            stream.ask(&Ask::Progress).await;
        }
        let next_one = tokio::select! {
            biased;
            next_one = stream.next() => next_one,
            () = enough_of(scene, enough) => return,
        };
        let Ok(Some(response)) = next_one else { return };
        let number = response.watch_id;
        let response = convert::watch_response(now(), &response);
        let meant = watches.iter_mut().filter(|watch| match number {
            ALL => watch.created && !watch.canceled,
            number => watch.number == number,
        });
        for watch in meant {
            watch.told(scene, response.clone());
        }
        if watches.iter().all(|watch| watch.canceled) {
            return;
        }
    }
}

/// The moment at which a client has enough; it never has once clients were told to stop.
async fn enough_of(scene: &Scene, enough: tokio::time::Instant) {
    tokio::time::sleep_until(enough).await;
    if !scene.goes_on() {
        std::future::pending::<()>().await;
    }
}

impl Watch {
    fn draw(scene: &Scene, rng: &mut StdRng, number: i64) -> Self {
        let keys = match rng.random_range(0..4) {
            0 => KeyRange::one(format!("k/{}", rng.random_range(0..6))),
            1 => KeyRange::prefix(b"k/"),
            2 => KeyRange::between("k/3", "m"),
            _ => KeyRange::all(),
        };
        let newest = scene.record.newest();
        let start_revision = match rng.random_range(0..4) {
            0 | 1 => 0,
            2 => (newest - rng.random_range(0..80)).max(1),
            _ => newest + rng.random_range(1..10),
        };
        let request = WatchRequest {
            no_put: rng.random_bool(0.1),
            no_delete: rng.random_bool(0.1),
            prev_kv: rng.random_bool(0.5),
            fragment: rng.random_bool(0.2),
            ..WatchRequest::of(0, keys, start_revision)
        };
        Self {
            number,
            progress_notify: rng.random_bool(0.4),
            next: (start_revision > 0).then_some(start_revision),
            request,
            recorded: None,
            created: false,
            canceled: false,
        }
    }

    /// It is about to be asked for on a stream to this member.
    fn begin(&mut self, scene: &Scene, at: usize) -> Ask {
        self.request.member = member(at);
        self.recorded = Some(scene.record.watch(&self.request));
        let (number, progress_notify) = (self.number, self.progress_notify);
        Ask::Create { number, request: self.request.clone(), progress_notify }
    }

    /// Its stream is over; on the next one it goes on from where it is.
    fn leave(&mut self, scene: &Scene) {
        self.created = false;
        let Some(watch) = self.recorded.take() else { return };
        scene.record.watch_end(watch);
        if let Some(next) = self.next {
            (self.request.start_revision, self.request.resumes) = (next, Some(watch));
        }
    }

    fn told(&mut self, scene: &Scene, response: Response) {
        let Some(watch) = self.recorded else { return };
        let (newest, whole) = (response.revision, !response.fragment);
        let last = response.events.last().map(|event| event.kv.mod_revision);
        let (created, progress) = (response.created, response.is_progress());
        self.created |= created;
        self.canceled |= response.canceled;
        let reason = response.compact_revision > 0;
        assert!(reason || !response.canceled, "a watch was ended without a reason");
        scene.record.watch_response(watch, response);
        // What is known to be complete: a header says so only where nothing else waits to be sent.
        self.next = match last {
            Some(last) if whole => Some(last + 1),
            None if progress => Some(self.next.unwrap_or(0).max(newest + 1)),
            None if created && self.next.is_none() => Some(newest + 1),
            _ => self.next,
        };
    }
}
