//! The rate limits of an engine.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use taipan_mirrors::MirrorId;
use tokio::time::Instant;

use crate::{EngineOptions, rate_limit::RateLimit};

/// Limits on the throughput of the engine, and of each mirror.
#[derive(Debug)]
pub(crate) struct Limits {
    all: Option<RateLimit>,
    each: Option<u64>,
    /// By the number of the set and the mirror in it.
    mirrors: Mutex<BTreeMap<(u64, MirrorId), RateLimit>>,
}

impl Limits {
    pub(crate) fn new(options: &EngineOptions) -> Self {
        Self {
            all: options.rate_limit.map(RateLimit::new),
            each: options.mirror_rate_limit,
            mirrors: Mutex::default(),
        }
    }

    /// Counts bytes that have arrived from a mirror, and returns the time at which the next may be
    /// read; `None` without a limit.
    pub(crate) fn reserve(&self, mirror: (u64, MirrorId), bytes: u64) -> Option<Instant> {
        let each = self.each.map(|rate| {
            // The map is consistent after every change.
            let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = mirrors
                .entry(mirror)
                .or_insert_with(|| RateLimit::new(rate));
            limit.reserve(bytes)
        });
        let all = self.all.as_ref().map(|limit| limit.reserve(bytes));
        each.max(all)
    }
}
