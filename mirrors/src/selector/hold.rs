use std::time::Duration;

use crate::Time;

/// A period during which something is avoided.
///
/// It has a start and a length, so that a clock set back by years ends it instead of prolonging it,
/// while a smaller step back does not lift it. A hold lasts at most twice its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) since: Time,
    pub(crate) length: Duration,
}

impl Hold {
    pub(crate) fn new(since: Time, length: Duration) -> Self {
        Self { since, length }
    }

    /// The end, if the hold is active.
    pub(crate) fn until(&self, now: Time) -> Option<Time> {
        let end = self.since + self.length;
        (now < end && now + self.length >= self.since).then_some(end)
    }

    pub(crate) fn active(&self, now: Time) -> bool {
        self.until(now).is_some()
    }

    /// The hold that ends later.
    pub(crate) fn later(self, other: Self) -> Self {
        if other.since + other.length > self.since + self.length {
            other
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_unix(Duration::from_secs(seconds))
    }

    #[test]
    fn a_hold_ends_after_its_length() {
        let hold = Hold::new(at(1000), Duration::from_secs(10));
        assert_eq!(hold.until(at(1009)), Some(at(1010)));
        assert_eq!(hold.until(at(1010)), None);
    }

    #[test]
    fn a_small_step_back_of_the_clock_does_not_lift_a_hold() {
        let hold = Hold::new(at(1000), Duration::from_secs(10));
        assert!(hold.active(at(995)));
    }

    #[test]
    fn a_clock_set_back_by_years_lifts_a_hold() {
        let hold = Hold::new(at(1_000_000_000), Duration::from_secs(10));
        assert!(!hold.active(at(5)));
    }
}
