//! Shaping: schedules pieces to keep a rate smoothly.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far a sender may lag behind its rate and still catch up. It covers the resolution of the timer (1 ms)
/// and a busy machine, and is too short for a burst.
const CATCH_UP: Duration = Duration::from_millis(50);

/// The smallest and the largest piece that is sent at once when a rate is set.
const PIECES: (u64, u64) = (256, 16 * 1024);

#[derive(Debug, Default)]
pub(crate) struct Pacer {
    /// When all reserved bytes will have been sent.
    busy_until: Mutex<Option<Instant>>,
}

impl Pacer {
    /// Reserves the time of a number of bytes, and waits until they would have arrived.
    pub(crate) async fn pace(&self, bytes: usize, rate: u64) {
        tokio::time::sleep_until(self.reserve(Instant::now(), bytes, rate)).await;
    }

    fn reserve(&self, now: Instant, bytes: usize, rate: u64) -> Instant {
        let mut busy_until = self
            .busy_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let start = busy_until.map_or(now, |until| until.max(earliest));
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate.max(1);
        let end = start + Duration::from_nanos(nanos);
        *busy_until = Some(end);
        end
    }
}

/// The size of the pieces at this rate: about fifty a second.
pub(crate) fn piece(rate: u64) -> usize {
    usize::try_from((rate / 50).clamp(PIECES.0, PIECES.1)).expect("at most 16 KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_users_of_a_pacer_share_its_rate() {
        let pacer = Pacer::default();
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            pacer.reserve(now, 500, 100_000);
            // The second sender waits for both.
            now = pacer.reserve(now, 500, 100_000);
        }
        assert_eq!(now - start, Duration::from_secs(1));
    }

    #[test]
    fn a_late_sender_catches_up_but_idle_time_does_not_accumulate() {
        let pacer = Pacer::default();
        let start = Instant::now();
        let first = pacer.reserve(start, 1_000, 100_000);
        assert_eq!(first - start, Duration::from_millis(10));
        let late = pacer.reserve(first + Duration::from_millis(30), 10_000, 100_000);
        assert_eq!(late - first, Duration::from_millis(100));
        let idle = late + Duration::from_secs(10);
        let end = pacer.reserve(idle, 20_000, 100_000);
        assert_eq!(end - idle, Duration::from_millis(150));
    }
}
