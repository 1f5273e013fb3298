//! Token-bucket rate limiter.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The burst allowed after a pause: the bytes of this time. With less, timers that wake a little
/// late would keep the throughput below the limit.
const BURST: Duration = Duration::from_millis(100);

/// A limit on the throughput of all that reserve from it, together.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: f64,
    /// The time at which the next bytes may be read.
    paid_until: Mutex<Instant>,
}

impl RateLimit {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let rate = bytes_per_second.max(1) as f64;
        Self {
            rate,
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// Counts bytes that have arrived, and returns the time at which the next may be read.
    pub(crate) fn reserve(&self, bytes: u64) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate);
        let now = Instant::now();
        // Each change is one assignment.
        let mut paid_until = self
            .paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *paid_until = (*paid_until).max(earliest) + cost;
        *paid_until
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::sleep_until;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn concurrent_downloads_share_one_limit() {
        let limit = RateLimit::new(1_000_000);
        let started = Instant::now();
        let one = async || {
            for _ in 0..100 {
                sleep_until(limit.reserve(10_000)).await;
            }
        };
        join_all((0..5).map(|_| one())).await;
        let took = started.elapsed().as_secs_f64();
        assert!((4.8..5.1).contains(&took), "5 MB took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_allows_no_larger_burst() {
        let limit = RateLimit::new(1_000);
        tokio::time::advance(Duration::from_hours(1)).await;
        let started = Instant::now();
        sleep_until(limit.reserve(2_000)).await;
        let took = started.elapsed().as_secs_f64();
        assert!((1.8..2.1).contains(&took), "2 kB took {took} s");
    }
}
