//! The throughput of a body.

use std::time::Duration;

use tokio::time::Instant;

/// The time over which the throughput of a connection is measured.
const WINDOW: Duration = Duration::from_secs(2);

/// How many seconds the rest of a slow body may take, because a new connection costs time as well.
const MAX_SLOW_REST: f64 = 2.0;

/// Measures the throughput of a body, window by window, in constant memory.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    bytes: u64,
    excused: Duration,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
            excused: Duration::ZERO,
        }
    }

    /// Excludes time spent waiting for something other than the body.
    pub(crate) fn excuse(&mut self, pause: Duration) {
        self.excused += pause;
    }

    /// Counts bytes that arrived.
    pub(crate) fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Once per window, the throughput over that window in bytes per second.
    pub(crate) fn measure(&mut self) -> Option<f64> {
        let span = self.since.elapsed().saturating_sub(self.excused);
        if span < WINDOW {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let rate = self.bytes as f64 / span.as_secs_f64();
        *self = Self::new();
        Some(rate)
    }
}

/// Whether the rest of a body that arrives at `rate` bytes per second should come from another
/// mirror, which sends at least `least` bytes per second (zero: there is none). `left` bytes are
/// still to come (`None`: unknown), and `again` bytes would have to be fetched a second time.
pub(crate) fn is_worth_leaving(rate: f64, least: f64, left: Option<u64>, again: u64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "an estimate need not be exact")]
    let (left, again) = (left.map_or(f64::INFINITY, |left| left as f64), again as f64);
    rate < least && left / rate.max(1e-3) > MAX_SLOW_REST + again / least
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_measured_once_per_window() {
        let mut pace = Pace::new();
        for second in 1..=8 {
            advance(SECOND).await;
            pace.count(50);
            let rate = pace.measure();
            assert_eq!(rate, (second % 2 == 0).then_some(50.0), "second {second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn excused_time_does_not_count() {
        let mut pace = Pace::new();
        advance(10 * SECOND).await;
        pace.excuse(9 * SECOND);
        pace.count(100);
        assert_eq!(pace.measure(), None, "the window is not over");
        advance(SECOND).await;
        pace.count(100);
        assert_eq!(pace.measure(), Some(100.0));
    }

    #[test]
    fn a_body_that_is_nearly_complete_is_not_left() {
        assert!(
            !is_worth_leaving(50.0, 100.0, Some(100), 0),
            "two seconds more"
        );
        assert!(
            is_worth_leaving(50.0, 100.0, Some(200), 0),
            "four seconds more"
        );
        assert!(is_worth_leaving(50.0, 100.0, None, 0), "of unknown length");
        assert!(
            !is_worth_leaving(50.0, 100.0, Some(200), 300),
            "the file would restart"
        );
        assert!(is_worth_leaving(50.0, 100.0, Some(1_000), 300));
        assert!(
            !is_worth_leaving(0.0, 0.0, None, 0),
            "there is no other mirror"
        );
    }
}
