use std::collections::VecDeque;
use std::time::Duration;

use crate::Time;
use crate::selector::estimate::RateLine;
use crate::selector::hold::Hold;

/// The number of requests that a mirror should serve at once, by additive increase and multiplicative
/// decrease: it grows while another connection adds throughput, and shrinks on failures and throttling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    size: f64,
    most: f64,
    /// Until the window shrinks first, it grows by one per success, afterwards by one per window.
    complained: bool,
    last_shrink: Option<Hold>,
    /// After throttling, the window stays below the number of requests that was too many. This
    /// period becomes longer each time.
    ceiling: Option<(f64, Hold)>,
    throttles: u32,
}

impl Window {
    const INITIAL: f64 = 4.0;
    /// Failures within this time count as one.
    pub(crate) const BURST: Duration = Duration::from_secs(1);
    /// How long the first throttled response bounds the window.
    const BELIEVED: Duration = Duration::from_secs(30);

    pub(crate) fn new(most: u32) -> Self {
        let most = f64::from(most.max(1));
        Self {
            size: most.min(Self::INITIAL),
            most,
            complained: false,
            last_shrink: None,
            ceiling: None,
            throttles: 0,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to u32::MAX"
    )]
    pub(crate) fn limit(&self) -> u32 {
        self.size as u32
    }

    /// A request succeeded while `in_flight` were open, itself included.
    pub(crate) fn grow(&mut self, in_flight: u32, line: &RateLine, at: Time) {
        /// The minimum marginal gain of another connection.
        const WORTH_IT: f64 = 0.2;
        // Only a full window shows whether a larger one is useful.
        if in_flight < self.limit() || line.marginal_gain(self.size) < WORTH_IT {
            return;
        }
        let step = if self.complained {
            self.size.recip()
        } else {
            1.0
        };
        let most = match self.ceiling {
            Some((ceiling, hold)) if hold.active(at) => ceiling.min(self.most),
            _ => self.most,
        };
        self.size = (self.size + step).min(most.max(self.size));
    }

    /// The mirror throttled while `in_flight` requests were open.
    pub(crate) fn throttled(&mut self, in_flight: u32, at: Time) {
        if self.last_shrink.is_some_and(|hold| hold.active(at)) {
            return;
        }
        self.shrink(in_flight, 0.6, at);
        let doublings = self.throttles.min(6);
        self.throttles += 1;
        let hold = Hold::new(at, Self::BELIEVED * (1 << doublings));
        self.ceiling = Some((self.size.floor().max(1.0), hold));
        self.size = self.size.floor().max(1.0);
    }

    /// Shrinks to this share of `in_flight` requests.
    pub(crate) fn shrink(&mut self, in_flight: u32, share: f64, at: Time) {
        if self.last_shrink.is_some_and(|hold| hold.active(at)) {
            return;
        }
        self.complained = true;
        self.last_shrink = Some(Hold::new(at, Self::BURST));
        self.size = (self.size.min(f64::from(in_flight.max(1))) * share).max(1.0);
    }
}

/// The number of requests in flight, now and in the recent past.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    now: u32,
    /// The number since each time; the last entry is the present.
    changes: VecDeque<(Time, u32)>,
}

impl InFlight {
    const REMEMBERED: usize = 48;

    pub(crate) fn count(&self) -> u32 {
        self.now
    }

    pub(crate) fn start(&mut self, at: Time) {
        self.change(at, self.now.saturating_add(1));
    }

    pub(crate) fn end(&mut self, at: Time) {
        self.change(at, self.now.saturating_sub(1));
    }

    fn change(&mut self, at: Time, count: u32) {
        // Reports may be out of order, and the clock may step back; the list stays sorted.
        while self.changes.back().is_some_and(|&(last, _)| last >= at) {
            self.changes.pop_back();
        }
        if self.changes.len() == Self::REMEMBERED {
            self.changes.pop_front();
        }
        self.changes.push_back((at, count));
        self.now = count;
    }

    /// The mean number in flight during `length` up to `end`; at least one.
    pub(crate) fn mean(&self, end: Time, length: Duration) -> f64 {
        let start = end.before(length);
        let mut sum = 0.0;
        let mut upper = end;
        let mut count = self.now;
        for &(since, so_many) in self.changes.iter().rev() {
            count = so_many;
            let lower = since.max(start);
            sum += upper.since(lower).as_secs_f64() * f64::from(count);
            upper = upper.min(lower);
            if upper <= start {
                break;
            }
        }
        // Before the list begins, the oldest entry is assumed.
        sum += upper.since(start).as_secs_f64() * f64::from(count);
        let seconds = end.since(start).as_secs_f64();
        if seconds > 0.0 {
            (sum / seconds).max(1.0)
        } else {
            f64::from(self.now.max(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_unix(Duration::from_millis(1_000_000_000 + millis))
    }

    const INDEPENDENT: RateLine = RateLine {
        alone: 1e-6,
        shared: 1e-9,
    };
    const SATURATED: RateLine = RateLine {
        alone: 0.0,
        shared: 1e-6,
    };

    #[test]
    fn opens_while_the_sum_grows_and_the_window_is_full() {
        let mut window = Window::new(8);
        window.grow(1, &INDEPENDENT, at(0));
        assert_eq!(window.limit(), 4);
        for _ in 0..10 {
            window.grow(window.limit(), &INDEPENDENT, at(0));
        }
        assert_eq!(window.limit(), 8);
        let mut window = Window::new(8);
        window.grow(4, &SATURATED, at(0));
        assert_eq!(window.limit(), 4);
    }

    #[test]
    fn a_burst_of_throttling_halves_the_window_once() {
        let mut window = Window::new(16);
        for _ in 0..12 {
            window.grow(window.limit(), &INDEPENDENT, at(0));
        }
        for _ in 0..16 {
            window.shrink(16, 0.5, at(0));
        }
        assert_eq!(window.limit(), 8);
        window.shrink(8, 0.5, at(2000));
        assert_eq!(window.limit(), 4);
    }

    #[test]
    fn after_throttling_the_window_grows_slowly_and_never_closes() {
        let mut window = Window::new(16);
        for i in 0..10 {
            window.shrink(1, 0.5, at(i * 2000));
        }
        assert_eq!(window.limit(), 1);
        for _ in 0..3 {
            window.grow(window.limit(), &INDEPENDENT, at(0));
        }
        assert_eq!(window.limit(), 2);
    }

    #[test]
    fn the_mean_number_in_flight_is_weighted_by_time() {
        let mut in_flight = InFlight::default();
        in_flight.start(at(0));
        in_flight.start(at(500));
        in_flight.start(at(750));
        assert!((in_flight.mean(at(1000), Duration::from_secs(1)) - 1.75).abs() < 1e-9);
        // Before the list begins, the oldest entry is assumed.
        assert!((in_flight.mean(at(1000), Duration::from_secs(2)) - 1.375).abs() < 1e-9);
    }

    #[test]
    fn a_clock_that_steps_back_leaves_the_count_right() {
        let mut in_flight = InFlight::default();
        in_flight.start(at(5000));
        in_flight.start(at(100));
        in_flight.end(Time::ZERO);
        assert_eq!(in_flight.count(), 1);
        assert!(in_flight.mean(at(100), Duration::from_secs(10)) >= 1.0);
        in_flight.end(at(9000));
        in_flight.end(at(9000));
        assert_eq!(in_flight.count(), 0);
    }
}
