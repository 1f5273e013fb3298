//! How fast a body comes.

use std::time::Duration;

use tokio::time::Instant;

/// Over how long a connection's speed is judged.
const WINDOW: Duration = Duration::from_secs(4);

/// A few seconds more at a low rate are better than a new connection.
const WORTH: f64 = 2.0;

/// Watches how fast a body comes. It remembers one window and no pieces, so that a fast body
/// costs no more memory than a slow one.
#[derive(Debug)]
pub(crate) struct Pace {
    min_rate: f64,
    since: Instant,
    bytes: u64,
    excused: Duration,
}

impl Pace {
    /// A watch that finds everything below `min_rate` bytes per second slow; nothing when that is
    /// zero.
    pub(crate) fn new(min_rate: f64) -> Self {
        Self {
            min_rate,
            since: Instant::now(),
            bytes: 0,
            excused: Duration::ZERO,
        }
    }

    /// Whether the next piece ends a window.
    pub(crate) fn is_due(&self) -> bool {
        self.since.elapsed().saturating_sub(self.excused) >= WINDOW
    }

    /// From now on everything below `min_rate` bytes per second is slow.
    pub(crate) fn expect(&mut self, min_rate: f64) {
        self.min_rate = min_rate;
    }

    /// Time in which the body was not waited for.
    pub(crate) fn excuse(&mut self, pause: Duration) {
        self.excused += pause;
    }

    /// Counts what arrived. At the end of each window: the rate in bytes per second, when it is
    /// below the least that is acceptable and a change of mirror is worth it. `left` bytes are
    /// still to come (`None`: nobody knows how many), and `again` bytes would have to be fetched
    /// a second time after a change.
    pub(crate) fn too_slow(&mut self, bytes: u64, left: Option<u64>, again: u64) -> Option<f64> {
        self.bytes += bytes;
        let span = self.since.elapsed().saturating_sub(self.excused);
        if self.min_rate <= 0.0 || span < WINDOW {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let (sum, left, again) = (
            self.bytes as f64,
            left.map_or(f64::INFINITY, |left| left as f64),
            again as f64,
        );
        let rate = sum / span.as_secs_f64();
        *self = Self::new(self.min_rate);
        let stay = left / rate.max(1e-3);
        (rate < self.min_rate && stay > WORTH + again / self.min_rate).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_judged_once_per_window() {
        let mut pace = Pace::new(100.0);
        for second in 1..=8 {
            advance(SECOND).await;
            let slow = pace.too_slow(50, Some(10_000), 0);
            assert_eq!(slow.is_some(), second % 4 == 0, "second {second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_nearly_done_is_not_slow() {
        let judge = async |left, again| {
            let mut pace = Pace::new(100.0);
            advance(4 * SECOND).await;
            pace.too_slow(200, left, again).is_some()
        };
        assert!(!judge(Some(100), 0).await, "two seconds more");
        assert!(judge(Some(200), 0).await, "four seconds more");
        assert!(judge(None, 0).await, "nobody knows how long");
        assert!(!judge(Some(200), 300).await, "elsewhere it begins anew");
        assert!(judge(Some(1_000), 300).await);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_of_others_do_not_count() {
        let mut pace = Pace::new(100.0);
        advance(10 * SECOND).await;
        pace.excuse(7 * SECOND);
        assert_eq!(pace.too_slow(100, None, 0), None, "the window is not over");
        advance(SECOND).await;
        assert_eq!(pace.too_slow(100, None, 0), Some(50.0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_alternative_nothing_is_too_slow() {
        let mut pace = Pace::new(0.0);
        advance(100 * SECOND).await;
        assert_eq!(pace.too_slow(1, None, 0), None);
    }
}
