//! No more bytes per second than were granted.

use std::{sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep_until};

/// How much may be taken at once after a pause: the bytes of this time. With less, a limit would
/// not be reached by timers that wake a little late.
const BURST: Duration = Duration::from_millis(100);

/// A limit on the sum of all who take from it, in bytes per second.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: f64,
    /// Up to when what was taken so far lasts.
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

    /// Takes so many bytes, which have arrived, and waits as long as they should have taken.
    /// Cancel-safe: what was taken stays taken.
    pub(crate) async fn take(&self, bytes: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate);
        let until = {
            let now = Instant::now();
            let mut paid_until = self
                .paid_until
                .lock()
                .expect("nothing panics while it holds the lock");
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            *paid_until = (*paid_until).max(earliest) + cost;
            *paid_until
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_share_one_limit() {
        let limit = RateLimit::new(1_000_000);
        let started = Instant::now();
        let one = async || {
            for _ in 0..100 {
                limit.take(10_000).await;
            }
        };
        join_all((0..5).map(|_| one())).await;
        let took = started.elapsed().as_secs_f64();
        assert!((4.8..5.1).contains(&took), "5 MB took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_hour_is_not_saved_up() {
        let limit = RateLimit::new(1_000);
        tokio::time::advance(Duration::from_hours(1)).await;
        let started = Instant::now();
        limit.take(2_000).await;
        let took = started.elapsed().as_secs_f64();
        assert!((1.8..2.1).contains(&took), "2 kB took {took} s");
    }
}
