//! How fast a body comes.

use std::time::Duration;

use tokio::time::Instant;

/// Over how long a connection's speed is judged.
const WINDOW: Duration = Duration::from_secs(2);

/// A few seconds more at a low rate are better than a new connection.
const WORTH: f64 = 2.0;

/// Watches how fast a body comes. It remembers one window and no pieces, so that a fast body
/// costs no more memory than a slow one.
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

    /// Time in which the body was not waited for.
    pub(crate) fn excuse(&mut self, pause: Duration) {
        self.excused += pause;
    }

    /// Counts what arrived; once in a window, the rate over that window in bytes per second.
    pub(crate) fn measure(&mut self, bytes: u64) -> Option<f64> {
        self.bytes += bytes;
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

/// Whether a body that comes at `rate` is better had elsewhere, at `least` bytes per second or
/// more (zero: nowhere). `left` bytes are still to come (`None`: nobody knows how many), and
/// `again` bytes would have to be fetched a second time.
pub(crate) fn leaves(rate: f64, least: f64, left: Option<u64>, again: u64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "an estimate need not be exact")]
    let (left, again) = (left.map_or(f64::INFINITY, |left| left as f64), again as f64);
    rate < least && left / rate.max(1e-3) > WORTH + again / least
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
            let rate = pace.measure(50);
            assert_eq!(rate, (second % 2 == 0).then_some(50.0), "second {second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_of_others_do_not_count() {
        let mut pace = Pace::new();
        advance(10 * SECOND).await;
        pace.excuse(9 * SECOND);
        assert_eq!(pace.measure(100), None, "the window is not over");
        advance(SECOND).await;
        assert_eq!(pace.measure(100), Some(100.0));
    }

    #[test]
    fn what_is_nearly_done_is_not_left() {
        assert!(!leaves(50.0, 100.0, Some(100), 0), "two seconds more");
        assert!(leaves(50.0, 100.0, Some(200), 0), "four seconds more");
        assert!(leaves(50.0, 100.0, None, 0), "nobody knows how long");
        assert!(!leaves(50.0, 100.0, Some(200), 300), "it begins anew");
        assert!(leaves(50.0, 100.0, Some(1_000), 300));
        assert!(!leaves(0.0, 0.0, None, 0), "there is nowhere to go");
    }
}
