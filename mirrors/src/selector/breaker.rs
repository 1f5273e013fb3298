use std::time::Duration;

use crate::Time;
use crate::selector::hold::Hold;

/// A circuit breaker. Consecutive failures open it for a backoff; then it is half-open and lets one
/// trial through.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Breaker {
    open: Option<Hold>,
    /// Failures since the last success.
    failures: u32,
    /// Openings since the last success.
    trips: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerState {
    Closed,
    Open(Hold),
    HalfOpen,
}

impl Breaker {
    pub(crate) fn state(&self, now: Time) -> BreakerState {
        match self.open {
            None => BreakerState::Closed,
            Some(hold) if hold.active(now) => BreakerState::Open(hold),
            Some(_) => BreakerState::HalfOpen,
        }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// A valid response closes the breaker.
    pub(crate) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Counts a failure. `jitter` in `0..1` shortens the backoff by up to a half.
    pub(crate) fn fail(
        &mut self,
        at: Time,
        failures_to_open: u32,
        backoff: Duration,
        max_backoff: Duration,
        jitter: f64,
    ) {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state(at) {
            BreakerState::Closed => self.failures >= failures_to_open,
            BreakerState::HalfOpen => true,
            // Requests that were in flight when the breaker opened are not counted again.
            BreakerState::Open(_) => false,
        };
        if opens {
            // The first two backoffs are short, because many outages end within seconds.
            let doublings = self.trips.saturating_sub(1).min(20);
            self.trips = self.trips.saturating_add(1);
            let pause = backoff.saturating_mul(1 << doublings).min(max_backoff);
            self.open = Some(Hold::new(
                at,
                pause.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0)),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Time {
        Time::from_unix(Duration::from_secs(1_000_000 + seconds))
    }

    fn fail(breaker: &mut Breaker, seconds: u64) {
        breaker.fail(at(seconds), 3, SECOND, 60 * SECOND, 1.0);
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, 0);
        fail(&mut breaker, 0);
        breaker.succeed();
        fail(&mut breaker, 0);
        fail(&mut breaker, 0);
        assert_eq!(breaker.state(at(0)), BreakerState::Closed);
        fail(&mut breaker, 0);
        assert_eq!(
            breaker.state(at(0)),
            BreakerState::Open(Hold::new(at(0), SECOND))
        );
        assert_eq!(breaker.state(at(1)), BreakerState::HalfOpen);
    }

    #[test]
    fn each_failed_trial_doubles_the_pause_up_to_a_limit() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            fail(&mut breaker, 0);
        }
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let BreakerState::Open(hold) = breaker.state(at(now)) else {
                panic!("closed")
            };
            pauses.push(hold.length.as_secs());
            now += hold.length.as_secs();
            fail(&mut breaker, now);
        }
        assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 32, 60]);
    }

    #[test]
    fn failures_of_requests_from_before_the_opening_do_not_prolong_it() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            fail(&mut breaker, 0);
        }
        assert_eq!(breaker.state(at(1)), BreakerState::HalfOpen);
    }
}
