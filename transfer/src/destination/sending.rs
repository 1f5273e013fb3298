//! The measurements of what is sent.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use taipan_mirrors::MirrorId;
use tokio::time::Instant;

use crate::limits::Limits;

/// What one attempt has sent, and when it last made progress.
#[derive(Debug)]
pub struct Sending {
    bytes: AtomicU64,
    last: Mutex<Instant>,
    /// Requests under way that wait for nothing of ours.
    limits: Option<(Arc<Limits>, (u64, MirrorId))>,
}

impl Sending {
    /// Nothing is sent yet, and nothing limits it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
            limits: None,
        })
    }

    pub(crate) fn limited(limits: Arc<Limits>, mirror: (u64, MirrorId)) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
            limits: Some((limits, mirror)),
        })
    }

    /// There was progress.
    pub(crate) fn touch(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Instant::now().max(*last);
    }

    /// Counts bytes that are sent, and returns when the next may be.
    pub(crate) fn count(&self, bytes: u64) -> Option<Instant> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (limits, mirror) = self.limits.as_ref()?;
        let until = limits.reserve(*mirror, bytes)?;
        // To wait for the limit is no stall.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = until.max(*last);
        Some(until)
    }

    /// Bytes of bodies that were handed to connections.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time without progress.
    pub(crate) fn idle(&self) -> Duration {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
    }
}
