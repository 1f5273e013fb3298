//! Which mirrors respond at all: the first step of a round of probes.
//!
//! Measurements share a few connections, so that a silent mirror would keep a place until its timeout, and a good one behind
//! many of them would never be measured. Screening requests one byte of every mirror. Only requests that have begun a moment
//! ago count against its limit: silent mirrors cost no time.

use std::{collections::VecDeque, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered,
};
use taipan_mirrors::{Circuit, Class, MirrorId, ProbeKind};
use tokio::time::{Instant, sleep_until};

use super::{Probe, ProbeRound, begin, receive};
use crate::{BackendError, Engine, MirrorSet, Target};

/// How long a request counts against [`MOST_YOUNG`].
const YOUNG: Duration = Duration::from_millis(150);

/// How many requests may have begun within [`YOUNG`].
const MOST_YOUNG: usize = 32;

/// How many requests may run.
const MOST: usize = 512;

/// The outcome for one mirror.
pub(super) struct Screened {
    pub(super) mirror: MirrorId,
    /// Of the header of its last response.
    pub(super) latency: Option<Duration>,
    /// The first candidate that it has, and its length in bytes.
    pub(super) sample: Option<(Target, u64)>,
    /// What failed, if it has none.
    pub(super) failure: Option<Probe>,
}

/// The requests of one round.
pub(super) struct Screening<'a> {
    engine: &'a Engine,
    mirrors: &'a MirrorSet,
    round: &'a ProbeRound<'a>,
    waiting: VecDeque<MirrorId>,
    running: FuturesUnordered<LocalBoxFuture<'a, Screened>>,
    /// When the last requests began.
    begun: VecDeque<Instant>,
}

impl<'a> Screening<'a> {
    /// Screens all mirrors but quarantined ones: those that served last first, those that are known to fail last.
    pub(super) fn new(
        engine: &'a Engine,
        mirrors: &'a MirrorSet,
        round: &'a ProbeRound<'a>,
    ) -> Self {
        let waiting = mirrors.with_selector(|selector, now| {
            let mut ids: Vec<(bool, u8, Duration, MirrorId)> = Vec::new();
            for id in selector.ids() {
                let Some(report) = selector
                    .report(id, now)
                    .filter(|report| !report.quarantined)
                else {
                    continue;
                };
                let standing = match report.last.map(|last| last.class) {
                    Some(Class::Ok) => 0,
                    None => 1,
                    Some(_) => 2,
                };
                let first_byte = report.first_byte.unwrap_or(Duration::MAX);
                ids.push((report.circuit == Circuit::Open, standing, first_byte, id));
            }
            ids.sort_unstable();
            ids.into_iter().map(|(.., id)| id).collect()
        });
        Self {
            engine,
            mirrors,
            round,
            waiting,
            running: FuturesUnordered::new(),
            begun: VecDeque::new(),
        }
    }

    /// Whether every mirror has been screened.
    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// The next outcome; `None` when every mirror has been screened. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Screened> {
        loop {
            let now = Instant::now();
            while self
                .begun
                .front()
                .is_some_and(|begun| *begun + YOUNG <= now)
            {
                self.begun.pop_front();
            }
            while self.begun.len() < MOST_YOUNG && self.running.len() < MOST {
                let Some(mirror) = self.waiting.pop_front() else {
                    break;
                };
                let search = search(self.engine, self.mirrors, self.round, mirror);
                self.running.push(search.boxed_local());
                self.begun.push_back(now);
            }
            let room = match self.begun.front() {
                Some(begun) if !self.waiting.is_empty() => *begun + YOUNG,
                _ => now + self.round.config.probe_time,
            };
            if self.is_over() {
                return None;
            }
            tokio::select! {
                Some(screened) = self.running.next(), if !self.running.is_empty() => {
                    // It has made room.
                    self.begun.pop_back();
                    return Some(screened);
                }
                () = sleep_until(room) => {}
            }
        }
    }
}

/// Requests the first byte of each candidate until the mirror has one.
async fn search(
    engine: &Engine,
    mirrors: &MirrorSet,
    round: &ProbeRound<'_>,
    mirror: MirrorId,
) -> Screened {
    let limit = round.config.probe_time;
    let mut screened = Screened {
        mirror,
        latency: None,
        sample: None,
        failure: None,
    };
    for target in round.candidates {
        let context = engine.probe_context(mirrors, target);
        let exchange = begin(&context, mirror, limit, 0, "search for the sample");
        let outcome = receive(&exchange, 0..1, limit, || ()).await;
        screened.latency = outcome.latency.or(screened.latency);
        let class = outcome.error.as_ref().map(BackendError::class);
        match outcome.total {
            Some(total) if total > 0 && class.is_none() => {
                // One byte is too short to measure more than the latency.
                exchange.cancel();
                screened.sample = Some((target.clone(), total));
                screened.failure = None;
                return screened;
            }
            _ if class.is_none() => exchange.cancel(),
            _ => {
                if let Some(Probe { exchange, .. }) = screened.failure.take() {
                    exchange.cancel();
                }
                screened.failure = Some(Probe {
                    mirror,
                    kind: ProbeKind::Speed,
                    exchange,
                    outcome,
                });
                if class != Some(Class::NotHere) {
                    break;
                }
            }
        }
    }
    screened
}
