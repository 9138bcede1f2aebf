//! One watch of everything for each member, opened again from where it broke: what it tells is the log that all
//! answers are compared with.

use std::time::Duration;

use kvd_check::{KeyRange, WatchRequest};

use super::stream::{Ask, Stream};
use super::{Scene, member};
use crate::convert;
use crate::record::now;

/// Without a word for so long, the stream is opened again: its member may be gone for good.
const SILENCE: Duration = Duration::from_millis(1500);

/// Pause before a stream is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// Watches one member until all is over.
pub async fn work(scene: Scene, at: usize) {
    while !scene.is_over() {
        let next = scene.record.witness_next(member(at));
        let request = WatchRequest::of(member(at), KeyRange::all(), next);
        // A number of 0 is the member's to choose.
        let create = Ask::Create { number: 0, request, progress_notify: false };
        if let Ok(mut stream) = Stream::open(scene.members[at], &[create]).await {
            follow(&scene, at, &mut stream).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(scene: &Scene, at: usize, stream: &mut Stream) {
    while let Ok(Ok(Some(response))) = tokio::time::timeout(SILENCE, stream.next()).await {
        scene.record.witness(member(at), convert::watch_response(now(), &response));
        // It is sent away if what comes next was compacted while its member was gone.
        if response.canceled || scene.is_over() {
            return;
        }
    }
}
