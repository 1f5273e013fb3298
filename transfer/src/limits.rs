//! The limits that an engine keeps to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use taipan_mirrors::MirrorId;

use crate::{EngineOptions, rate_limit::RateLimit};

/// Limits on rates: of the engine, and of each mirror.
#[derive(Debug)]
pub(crate) struct Limits {
    all: Option<RateLimit>,
    each: Option<u64>,
    /// By the number of the set and the mirror in it.
    mirrors: Mutex<BTreeMap<(u64, MirrorId), Arc<RateLimit>>>,
}

impl Limits {
    pub(crate) fn new(options: &EngineOptions) -> Self {
        Self {
            all: options.rate_limit.map(RateLimit::new),
            each: options.mirror_rate_limit,
            mirrors: Mutex::default(),
        }
    }

    /// Counts bytes of a mirror that have arrived, and waits as long as they should have taken.
    pub(crate) async fn take(&self, mirror: (u64, MirrorId), bytes: u64) {
        if let Some(rate) = self.each {
            let limit = {
                // The map is whole between any two of its changes.
                let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
                let limit = mirrors
                    .entry(mirror)
                    .or_insert_with(|| Arc::new(RateLimit::new(rate)));
                Arc::clone(limit)
            };
            limit.take(bytes).await;
        }
        if let Some(limit) = &self.all {
            limit.take(bytes).await;
        }
    }
}
