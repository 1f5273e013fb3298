//! Who knows the true state: of every mirror its speed, its load, its faults, the outages to come,
//! and the files that it lacks. Hidden are only the dice: the noise of a single latency, and whether
//! this very body will be the one in twenty-five that stalls. When one stalls, it knows at once.
//!
//! Like everybody who cares for what is installed it stays away from liars, though it could tell
//! which of their files are right.
//!
//! It is greedy: each request goes where it will be done first, counting what it takes away from
//! the client's other requests. It does not know which requests come next, so it is a very good
//! policy rather than a proven bound; of several weightings the best counts.

use crate::client::Job;
use crate::engine::World;
use crate::flow::Stage;
use crate::policy::{Answer, Go};

impl World<'_> {
    /// The mirror on which this job will be done first.
    pub(crate) fn foresee(&self, client: usize, slot: usize) -> Answer {
        let mut best: Option<(f64, usize, f64)> = None;
        // Those of this client that wait already will be served first.
        let jobs = &self.clients[client].jobs;
        let begun = jobs[slot].as_ref().expect("a job").begun;
        let waits_longer = |(other, job): &(usize, &Option<Job>)| {
            let earlier = |job: &Job| job.begun < begun || (job.begun <= begun && *other < slot);
            job.as_ref()
                .is_some_and(|job| job.flows.is_empty() && earlier(job))
        };
        let ahead = jobs.iter().enumerate().filter(waits_longer).count();
        for mirror in 0..self.models.len() {
            let wait = self.must_wait(client, mirror, ahead);
            let mut total = wait + self.total(client, slot, mirror, self.now + wait);
            if wait > 0.0 {
                total /= self.temper.waits_below;
            }
            if total.is_finite() && best.is_none_or(|(least, ..)| total < least) {
                best = Some((total, mirror, wait));
            }
        }
        match best {
            Some((_, mirror, wait)) if wait <= 0.0 => Answer::Use(Go {
                mirror,
                pick: None,
                first_byte: f64::INFINITY,
                stall: f64::INFINITY,
                is_good: true,
            }),
            Some((_, _, wait)) => Answer::Wait(self.now + wait),
            None => Answer::Wait(self.now + 0.1),
        }
    }

    /// Whether what is left of this body would be done sooner elsewhere.
    pub(crate) fn foresees_better(&self, place: usize) -> bool {
        let flow = self.flow(place);
        let here = self.body(flow.mirror, self.now, flow.wanted - flow.got, 0.0);
        let job = self.clients[flow.client].jobs[flow.slot]
            .as_ref()
            .expect("a job");
        if job.flows.len() != 1
            || self.models[flow.mirror].rate(self.now, 1.0) > 0.0 && self.is_crowd()
        {
            return false;
        }
        // What is compared begins where this one is.
        let had = (flow.got + flow.offset) - job.have;
        let elsewhere = (0..self.models.len())
            .filter(|&mirror| {
                mirror != flow.mirror && self.must_wait(flow.client, mirror, 0) <= 0.0
            })
            .map(|mirror| self.total_after(flow.client, flow.slot, mirror, self.now, had))
            .fold(f64::INFINITY, f64::min);
        elsewhere < 0.95 * here
    }

    /// Whether the number of clients allows only cheap forecasts.
    fn is_crowd(&self) -> bool {
        self.clients.len() > 1000
    }

    /// Seconds until a request may be sent there.
    fn must_wait(&self, client: usize, mirror: usize, ahead: usize) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "few requests")]
        let place = ahead as f64 + 1.0;
        let model = &self.models[mirror];
        let mut wait: f64 = 0.0;
        if !model.is_up(self.now) {
            wait = model.next_change(self.now) - self.now + 1e-6;
        }
        let here = self.connections(client, mirror);
        if let Some(limit) = &model.faults.limit {
            if limit.connections.is_some_and(|most| here >= most) {
                wait = wait.max(place * self.until_one_ends(mirror));
            }
            if let Some(rate) = limit.per_second {
                let tokens = self.clients[client].tokens_left(mirror, rate, self.now);
                if tokens < place {
                    wait = wait.max((place - tokens) / rate + 1e-6);
                }
            }
        }
        if model
            .faults
            .collapses_at
            .is_some_and(|most| self.loads[mirror].connections() + 1.0 > most)
        {
            wait = wait.max(place * self.until_one_ends(mirror));
        }
        wait
    }

    fn until_one_ends(&self, mirror: usize) -> f64 {
        let bodies = self.loads[mirror]
            .bodies
            .iter()
            .map(|&place| self.flow(place));
        let next = bodies
            .filter(|flow| flow.rate > 0.0)
            .map(|flow| (flow.target() - flow.got) / flow.rate)
            .fold(f64::INFINITY, f64::min);
        if next.is_finite() { next + 1e-3 } else { 0.1 }
    }

    fn total(&self, client: usize, slot: usize, mirror: usize, from: f64) -> f64 {
        self.total_after(client, slot, mirror, from, 0.0)
    }

    /// Seconds from `from` until the job is done there, and what it costs the client's others.
    fn total_after(&self, client: usize, slot: usize, mirror: usize, from: f64, had: f64) -> f64 {
        let job = self.clients[client].jobs[slot].as_ref().expect("a job");
        let model = &self.models[mirror];
        let asked = self.clients[client].asked(job, mirror);
        let faults = &model.faults;
        let failing = faults.errors + faults.hangs + faults.resets + faults.stalls;
        // A client should take nothing from a liar, even if it knows its honest files.
        let is_out = !model.has(asked) || faults.lies > 0.0 || failing >= 1.0;
        if is_out || asked.metadata && faults.behind || !model.is_up(from) {
            return f64::INFINITY;
        }
        let latency = model.mean_latency(asked, self.scenario.clients.distance, from);
        // An outage in between is seen as what it is: the header would not come.
        if !model.is_up(from + latency) {
            return f64::INFINITY;
        }
        let own = self.body(mirror, from + latency, job.size - job.have - had, 1.0);
        // Of what fails, half is done anew on average, after another first byte.
        let mishaps = failing / (1.0 - failing) * (latency + 0.5 * own);
        latency + own + mishaps + self.temper.regard * self.harm(client, mirror, own)
    }

    /// Seconds that this number of bytes takes there from this time on, beside the present load.
    fn body(&self, mirror: usize, from: f64, bytes: f64, more: f64) -> f64 {
        let model = &self.models[mirror];
        let n = self.loads[mirror].connections() + more;
        let mut t = from;
        let mut left = bytes.max(0.0);
        for _ in 0..64 {
            let rate = model.rate(t, n);
            let end = model.next_change(t);
            if rate > 0.0 && left / rate <= end - t {
                return t + left / rate - from;
            }
            if !end.is_finite() {
                return f64::INFINITY;
            }
            left -= rate * (end - t);
            t = end + 1e-9;
        }
        f64::INFINITY
    }

    /// What one body more costs the client's other bodies on a mirror, while both run.
    fn harm(&self, client: usize, mirror: usize, own: f64) -> f64 {
        // In a crowd it counts for little, and costs much to find out.
        if self.temper.regard <= 0.0 {
            return 0.0;
        }
        let model = &self.models[mirror];
        let n = self.loads[mirror].connections();
        let (with, without) = (
            model.rate(self.now, n + 1.0),
            model.rate(self.now, n.max(1.0)),
        );
        if without <= 0.0 {
            return 0.0;
        }
        let slower = 1.0 - with / without;
        self.loads[mirror]
            .bodies
            .iter()
            .map(|&place| self.flow(place))
            .filter(|flow| flow.client == client && flow.stage == Stage::Body && flow.rate > 0.0)
            .map(|flow| slower * own.min((flow.wanted - flow.got) / flow.rate))
            .sum()
    }
}
