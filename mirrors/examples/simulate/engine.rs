//! Discrete events: clients fetch files from mirrors that share their rates among connections.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use taipan_mirrors::{Class, SavedState, Tried};

use crate::client::{Client, Job};
use crate::flow::{Flow, Stage};
use crate::policy::{Answer, Ask, Ended, Go, Name, Ours, Plain, Policy, id, probe_time};
use crate::scenario::{Scenario, State};
use crate::world::{Fate, Model, mirrors};

/// A file that took longer has failed.
pub(crate) const LONGEST: f64 = 300.0;

/// What one run gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Seconds per file, from the moment that the client turned to it.
    pub(crate) times: Vec<f32>,
    /// Files that were not had at all; each counts as [`LONGEST`] among the times.
    pub(crate) failed: usize,
    /// Bytes of the files.
    pub(crate) needed: f64,
    /// Bytes fetched twice by hedging.
    pub(crate) wasted: f64,
    /// Of each mirror: its share of all bytes over its share of all capacity.
    pub(crate) loads: Vec<f64>,
    /// Seconds until the last file of the last client.
    pub(crate) session: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Arrive(usize),
    /// The client asks again.
    Wake(usize),
    /// The answer's header is there, if there is one.
    Header(usize, u64),
    /// Something happens to one of the bodies of this mirror.
    Bodies(usize, u64),
    /// No header for too long.
    Overdue(usize, u64),
    /// Perhaps no byte for too long.
    Stalled(usize, u64),
    /// Is it fast enough?
    Pace(usize, u64),
    Hedge(usize, u64),
    /// The mirror changes by itself.
    Change(usize),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: f64,
    serial: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The heap gives the greatest, which shall be the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .at
            .total_cmp(&self.at)
            .then(other.serial.cmp(&self.serial))
    }
}

/// What a mirror does at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    /// The places of the bodies under way.
    pub(crate) bodies: Vec<usize>,
    /// Requests of which the header is not there yet.
    pub(crate) opening: usize,
    settled_at: f64,
    generation: u64,
    bytes: f64,
}

impl Load {
    #[expect(clippy::cast_precision_loss, reason = "few connections")]
    pub(crate) fn connections(&self) -> f64 {
        (self.bodies.len() + self.opening) as f64
    }
}

pub(crate) struct World<'s> {
    pub(crate) scenario: &'s Scenario,
    name: Name,
    seed: u64,
    pub(crate) models: Vec<Model>,
    pub(crate) loads: Vec<Load>,
    pub(crate) clients: Vec<Client>,
    pub(crate) flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    events: BinaryHeap<Entry>,
    serial: u64,
    pub(crate) now: f64,
    start: f64,
    pub(crate) temper: Temper,
    state: Option<SavedState>,
    network: &'static str,
    saved: Option<SavedState>,
    finished_clients: usize,
    outcome: Outcome,
}

/// How the clairvoyant weighs what it sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    /// It waits for a mirror when that takes less than this share of what the best free one takes.
    pub(crate) waits_below: f64,
    /// The weight of what a request takes away from the client's others.
    pub(crate) regard: f64,
}

/// Runs one policy through one scenario.
pub(crate) fn simulate(scenario: &Scenario, name: Name, seed: u64) -> Outcome {
    if name == Name::Clairvoyant {
        return clairvoyant(scenario, seed);
    }
    let state = (name == Name::Ours)
        .then(|| earlier(scenario, seed))
        .flatten();
    let models = mirrors(scenario, seed, false);
    let mut world = World::new(scenario, name, seed, models, 0.0);
    world.state = state;
    world.run();
    world.outcome
}

/// No greedy strategy is the best everywhere, so several run, and the one that did best counts.
fn clairvoyant(scenario: &Scenario, seed: u64) -> Outcome {
    let crowd = scenario.clients.count > 1000;
    let tempers: &[(f64, f64)] = if crowd {
        &[(0.7, 0.0)]
    } else {
        &[(0.7, 1.0), (0.7, 0.0), (0.3, 0.5), (0.9, 2.0)]
    };
    let outcomes = tempers.iter().map(|&(waits_below, regard)| {
        let models = mirrors(scenario, seed, false);
        let mut world = World::new(scenario, Name::Clairvoyant, seed, models, 0.0);
        world.temper = Temper {
            waits_below,
            regard,
        };
        world.run();
        world.outcome
    });
    let sum = |outcome: &Outcome| outcome.times.iter().map(|&t| f64::from(t)).sum::<f64>();
    outcomes
        .min_by(|a, b| sum(a).total_cmp(&sum(b)))
        .expect("there are tempers")
}

/// What a session of an hour ago has left.
fn earlier(scenario: &Scenario, seed: u64) -> Option<SavedState> {
    const AGO: f64 = 3600.0;
    if scenario.clients.state == State::None {
        return None;
    }
    let mut before = scenario.clone();
    before.clients.count = 1;
    before.clients.files = before.clients.files.max(100);
    let elsewhere = scenario.clients.state == State::OtherNetwork;
    let models = mirrors(scenario, seed, elsewhere);
    let mut world = World::new(&before, Name::Ours, seed ^ 0xeac1, models, -AGO);
    if elsewhere {
        world.network = "elsewhere";
    }
    world.run();
    world.saved
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario, name: Name, seed: u64, models: Vec<Model>, start: f64) -> Self {
        let load = Load {
            settled_at: start,
            ..Load::default()
        };
        Self {
            scenario,
            name,
            seed,
            loads: vec![load; models.len()],
            models,
            clients: Vec::new(),
            flows: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            serial: 0,
            now: start,
            start,
            temper: Temper {
                waits_below: 0.7,
                regard: 1.0,
            },
            state: None,
            network: "here",
            saved: None,
            finished_clients: 0,
            outcome: Outcome::default(),
        }
    }

    fn push(&mut self, at: f64, event: Event) {
        self.serial += 1;
        self.events.push(Entry {
            at,
            serial: self.serial,
            event,
        });
    }

    fn run(&mut self) {
        let count = self.scenario.clients.count;
        for i in 0..count {
            self.clients
                .push(Client::new(&self.scenario.clients, self.seed, i));
            #[expect(clippy::cast_precision_loss, reason = "few clients")]
            let at = self.start + self.scenario.clients.arrive_over * i as f64 / count as f64;
            self.push(at, Event::Arrive(i));
        }
        for mirror in 0..self.models.len() {
            self.push_change(mirror);
        }
        while self.finished_clients < count {
            let Some(entry) = self.events.pop() else {
                break;
            };
            self.now = entry.at;
            self.handle(entry.event);
        }
        let capacity: f64 = self.models.iter().map(|m| m.capacity).sum();
        let bytes: f64 = self.loads.iter().map(|load| load.bytes).sum();
        self.outcome.loads = (self.loads.iter().zip(&self.models))
            .map(|(load, model)| load.bytes / bytes.max(1.0) / (model.capacity / capacity))
            .collect();
        self.outcome.session = self.now - self.start;
    }

    fn push_change(&mut self, mirror: usize) {
        let at = self.models[mirror].next_change(self.now);
        if at.is_finite() {
            self.push(at, Event::Change(mirror));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(client) => self.arrive(client),
            Event::Wake(client) if self.clients[client].wakes_at <= self.now => {
                self.clients[client].wakes_at = f64::INFINITY;
                self.pump(client);
            }
            Event::Header(place, serial) if self.is(place, serial) => self.header(place),
            Event::Overdue(place, serial)
                if self.is(place, serial) && self.flow(place).stage == Stage::Opening =>
            {
                self.end(place, Some(Class::Unwell));
            }
            Event::Stalled(place, serial) if self.is(place, serial) => {
                let flow = self.flow(place);
                let limit = flow.stall - 1e-6;
                if flow
                    .stalled_since
                    .is_some_and(|since| self.now - since >= limit)
                {
                    self.end(place, Some(Class::Unwell));
                }
            }
            Event::Pace(place, serial) if self.is(place, serial) => self.pace(place),
            Event::Hedge(place, serial) if self.is(place, serial) => self.hedge(place),
            Event::Bodies(mirror, generation) if self.loads[mirror].generation == generation => {
                self.bodies(mirror);
            }
            Event::Change(mirror) => {
                self.reshare(mirror);
                self.push_change(mirror);
            }
            // About something that is over.
            _ => {}
        }
    }

    fn is(&self, place: usize, serial: u64) -> bool {
        self.flows[place]
            .as_ref()
            .is_some_and(|flow| flow.serial == serial)
    }

    pub(crate) fn flow(&self, place: usize) -> &Flow {
        self.flows[place].as_ref().expect("a flow under way")
    }

    fn flow_mut(&mut self, place: usize) -> &mut Flow {
        self.flows[place].as_mut().expect("a flow under way")
    }

    fn arrive(&mut self, client: usize) {
        let seed = self.clients[client].seed();
        let policy: Option<Box<dyn Policy>> = match self.name {
            Name::Clairvoyant => None,
            Name::Ours => {
                let state = self.state.as_ref();
                Some(Box::new(Ours::new(
                    &self.models,
                    seed,
                    self.network,
                    state,
                    self.now,
                )))
            }
            // Times of connecting are kept for a month, whatever the network.
            name => {
                let was_elsewhere = self.scenario.clients.state == State::OtherNetwork;
                let timed = mirrors(self.scenario, self.seed, was_elsewhere);
                Some(Box::new(Plain::new(name, &timed, seed)))
            }
        };
        self.clients[client].policy = policy;
        let mut delay = 0.0;
        if self.name == Name::Connect && self.scenario.clients.state == State::None {
            delay = probe_time(&self.models);
        }
        if delay > 0.0 {
            // The files are wanted from now on.
            for slot in 0..self.clients[client].jobs.len() {
                let job = self.clients[client].next_job(&self.scenario.clients, self.now);
                self.clients[client].jobs[slot] = job;
            }
            self.clients[client].wakes_at = self.now + delay;
            self.push(self.now + delay, Event::Wake(client));
        } else {
            self.pump(client);
        }
    }

    /// Begins what can be begun. Who has waited longest is served first.
    fn pump(&mut self, client: usize) {
        let mut idle: Vec<(f64, usize)> = Vec::new();
        for slot in 0..self.clients[client].jobs.len() {
            if self.clients[client].jobs[slot].is_none() {
                let job = self.clients[client].next_job(&self.scenario.clients, self.now);
                self.clients[client].jobs[slot] = job;
            }
            if let Some(job) = &self.clients[client].jobs[slot]
                && job.flows.is_empty()
            {
                idle.push((job.begun, slot));
            }
        }
        idle.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, slot) in idle {
            if self.clients[client]
                .jobs
                .get(slot)
                .is_some_and(Option::is_some)
            {
                self.advance(client, slot);
            }
        }
    }

    /// Sends the next attempt of a job that has none under way.
    fn advance(&mut self, client: usize, slot: usize) {
        let job = self.clients[client].jobs[slot].as_ref().expect("a job");
        if self.now - job.begun >= LONGEST {
            self.complete(client, slot, false);
            return;
        }
        match self.ask(client, slot) {
            Answer::Use(go) => {
                self.launch(client, slot, &go);
            }
            Answer::Wait(until) => {
                let Client { policy, jobs, .. } = &mut self.clients[client];
                if let (Some(policy), Some(job)) = (policy, &jobs[slot]) {
                    policy.queued(&job.ask(self.seed, self.now));
                }
                let until = until.max(self.now + 0.001);
                if until < self.clients[client].wakes_at {
                    self.clients[client].wakes_at = until;
                    self.push(until, Event::Wake(client));
                }
            }
            Answer::Never => self.complete(client, slot, false),
        }
    }

    fn ask(&mut self, client: usize, slot: usize) -> Answer {
        let now = self.now;
        if self.clients[client].policy.is_none() {
            return self.foresee(client, slot);
        }
        let Client { policy, jobs, .. } = &mut self.clients[client];
        let (Some(policy), Some(job)) = (policy, &mut jobs[slot]) else {
            return Answer::Never;
        };
        policy.choose(&job.ask(self.seed, now))
    }

    fn launch(&mut self, client: usize, slot: usize, go: &Go) -> usize {
        let mirror = go.mirror;
        let now = self.now;
        let asked = {
            let client = &self.clients[client];
            client.asked(client.jobs[slot].as_ref().expect("a job"), mirror)
        };
        let model = &self.models[mirror];
        let mut fate = model.fate(asked);
        let mut retry_after = None;
        let mut class_at_header = None;
        if let Some(limit) = &model.faults.limit {
            let here = self.connections(client, mirror);
            let over = limit.connections.is_some_and(|most| here >= most)
                || limit
                    .per_second
                    .is_some_and(|rate| !self.clients[client].take_token(mirror, rate, now));
            if over {
                class_at_header = Some(());
                retry_after = limit.retry_after;
            }
        }
        let model = &self.models[mirror];
        if model.is_gone(now) || model.refuses(asked, self.loads[mirror].connections() + 1.0) {
            fate = Fate::Error;
        }
        if model.is_down(now) {
            fate = Fate::Hang;
        }
        if class_at_header.is_some() && fate != Fate::Hang {
            fate = Fate::Throttled;
        }
        let latency = model.latency(asked, self.scenario.clients.distance, now);
        self.serial += 1;
        let serial = self.serial;
        let place = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.flows.len() - 1
        });
        let job = self.clients[client].jobs[slot].as_mut().expect("a job");
        let offset = job.have;
        let wanted = job.size - offset;
        job.tried.record_failure(id(mirror));
        job.sent += 1;
        job.flows.push(place);
        self.flows[place] = Some(Flow {
            serial,
            client,
            slot,
            mirror,
            started: now,
            header_at: None,
            stage: Stage::Opening,
            fate,
            offset,
            wanted,
            got: 0.0,
            rate: 0.0,
            stall: go.stall,
            stalled_since: None,
            marks: Vec::new(),
            raced_from: None,
            retry_after,
        });
        self.loads[mirror].opening += 1;
        if let Some(policy) = &mut self.clients[client].policy {
            policy.started(go, now);
        }
        if fate != Fate::Hang {
            self.push(now + latency, Event::Header(place, serial));
        } else if self.name == Name::Clairvoyant {
            self.push(now + latency, Event::Overdue(place, serial));
        }
        self.push(now + go.first_byte, Event::Overdue(place, serial));
        if self.clients[client].jobs[slot]
            .as_ref()
            .is_some_and(|job| job.flows.len() == 1)
        {
            let Client { policy, jobs, .. } = &mut self.clients[client];
            if let (Some(policy), Some(job)) = (policy, &jobs[slot])
                && let Some(after) = policy.hedge_after(&job.ask(self.seed, now), mirror)
            {
                self.push(now + after, Event::Hedge(place, serial));
            }
        }
        place
    }

    /// How many requests this client has at this mirror.
    pub(crate) fn connections(&self, client: usize, mirror: usize) -> usize {
        let jobs = self.clients[client].jobs.iter().flatten();
        jobs.flat_map(|job| &job.flows)
            .filter(|&&place| self.flow(place).mirror == mirror)
            .count()
    }

    fn header(&mut self, place: usize) {
        let now = self.now;
        let flow = self.flow(place);
        let mirror = flow.mirror;
        if self.models[mirror].is_down(now) {
            return;
        }
        let class = match flow.fate {
            Fate::NotHere => Some(Class::NotHere),
            Fate::Error => Some(Class::Unwell),
            Fate::Throttled => Some(Class::Throttled),
            _ => None,
        };
        if class.is_some() {
            self.end(place, class);
            return;
        }
        self.loads[mirror].opening -= 1;
        let flow = self.flow_mut(place);
        flow.stage = Stage::Body;
        flow.header_at = Some(now);
        let serial = flow.serial;
        self.loads[mirror].bodies.push(place);
        self.reshare(mirror);
        self.push(now + 1.0, Event::Pace(place, serial));
    }

    /// Brings the bodies of a mirror up to now.
    fn settle(&mut self, mirror: usize) {
        let passed = self.now - self.loads[mirror].settled_at;
        self.loads[mirror].settled_at = self.now;
        if passed <= 0.0 {
            return;
        }
        let mut sum = 0.0;
        for &place in &self.loads[mirror].bodies {
            let flow = self.flows[place].as_mut().expect("a flow under way");
            let more = (flow.rate * passed).min(flow.target() - flow.got).max(0.0);
            flow.got += more;
            sum += more;
        }
        self.loads[mirror].bytes += sum;
    }

    /// Shares out the rate of a mirror anew, and of those that share a client's line with it.
    fn reshare(&mut self, mirror: usize) {
        let Some(line) = self.scenario.clients.line else {
            self.settle(mirror);
            let n = self.loads[mirror].connections();
            let rate = self.models[mirror].rate(self.now, n);
            for i in 0..self.loads[mirror].bodies.len() {
                let place = self.loads[mirror].bodies[i];
                self.set_rate(place, rate);
            }
            self.schedule(mirror);
            return;
        };
        // The line couples everything that its client does.
        let mut clients: Vec<usize> = Vec::new();
        for &place in &self.loads[mirror].bodies {
            clients.push(self.flow(place).client);
        }
        clients.sort_unstable();
        clients.dedup();
        let mut touched = vec![mirror];
        let mut rates: Vec<(usize, f64)> = Vec::new();
        for client in clients {
            let mut caps: Vec<(f64, usize)> = Vec::new();
            for place in self.clients[client]
                .jobs
                .iter()
                .flatten()
                .flat_map(|job| &job.flows)
            {
                let flow = self.flow(*place);
                if flow.stage == Stage::Body && !flow.is_stuck() {
                    let n = self.loads[flow.mirror].connections();
                    caps.push((self.models[flow.mirror].rate(self.now, n), *place));
                    touched.push(flow.mirror);
                }
            }
            // Those that can take the least are served first; what they leave is shared.
            caps.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut left = line;
            let count = caps.len();
            for (i, (cap, place)) in caps.into_iter().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "few connections")]
                let rate = cap.min(left / (count - i) as f64);
                left -= rate;
                rates.push((place, rate));
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for &mirror in &touched {
            self.settle(mirror);
        }
        for (place, rate) in rates {
            self.set_rate(place, rate);
        }
        for mirror in touched {
            self.schedule(mirror);
        }
    }

    fn set_rate(&mut self, place: usize, rate: f64) {
        let now = self.now;
        let flow = self.flow_mut(place);
        flow.rate = if flow.is_stuck() { 0.0 } else { rate };
        if flow.rate > 0.0 {
            flow.stalled_since = None;
        } else if flow.stalled_since.is_none() {
            flow.stalled_since = Some(now);
            let (at, serial) = (now + flow.stall, flow.serial);
            self.push(at, Event::Stalled(place, serial));
        }
    }

    /// Sees to it that the next thing that happens to a body of this mirror is noticed.
    fn schedule(&mut self, mirror: usize) {
        self.loads[mirror].generation += 1;
        let generation = self.loads[mirror].generation;
        let next = self.loads[mirror]
            .bodies
            .iter()
            .map(|&place| self.flow(place))
            .filter(|flow| flow.rate > 0.0)
            .map(|flow| (flow.target() - flow.got).max(0.0) / flow.rate)
            .fold(f64::INFINITY, f64::min);
        if next.is_finite() {
            self.push(self.now + next, Event::Bodies(mirror, generation));
        }
    }

    /// One or more bodies of this mirror have come to their target.
    fn bodies(&mut self, mirror: usize) {
        self.settle(mirror);
        let at_target = |place: &usize| {
            let flow = self.flow(*place);
            flow.rate > 0.0 && flow.got >= flow.target() - 0.5
        };
        let arrived: Vec<(usize, u64)> = (self.loads[mirror].bodies.iter().copied())
            .filter(at_target)
            .map(|place| (place, self.flow(place).serial))
            .collect();
        for (place, serial) in arrived {
            if !self.is(place, serial) {
                continue;
            }
            match self.flow(place).fate {
                Fate::Stall(_) if self.name == Name::Clairvoyant => self.end(place, None),
                Fate::Stall(_) => self.set_rate(place, 0.0),
                Fate::Reset(_) => self.end(place, Some(Class::Unwell)),
                Fate::Corrupt => self.end(place, Some(Class::Corrupt)),
                Fate::Behind => self.end(place, Some(Class::Behind)),
                _ => self.end(place, Some(Class::Ok)),
            }
        }
        self.reshare(mirror);
    }

    /// Takes a flow off its mirror and tells the policy.
    fn remove(&mut self, place: usize, class: Option<Class>) -> Flow {
        let mirror = self.flow(place).mirror;
        self.settle(mirror);
        let flow = self.flows[place].take().expect("a flow under way");
        self.free.push(place);
        match flow.stage {
            Stage::Opening => self.loads[mirror].opening -= 1,
            Stage::Body => self.loads[mirror].bodies.retain(|&other| other != place),
        }
        let Client { policy, jobs, .. } = &mut self.clients[flow.client];
        let job = jobs[flow.slot].as_mut().expect("a job");
        job.flows.retain(|&other| other != place);
        if let Some(policy) = policy {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bytes"
            )]
            let whole = |bytes: f64| bytes.max(0.0) as u64;
            policy.ended(&Ended {
                mirror,
                path: &job.path,
                class,
                bytes: whole(flow.got),
                wasted: whole(if class.is_none() { flow.wasted() } else { 0.0 }),
                first_byte: flow.header_at.map(|at| at - flow.started),
                duration: self.now - flow.started,
                retry_after: flow.retry_after,
                now: self.now,
            });
        }
        self.reshare(mirror);
        flow
    }

    /// An attempt is over; nothing as its class when the client has left it.
    fn end(&mut self, place: usize, class: Option<Class>) {
        let flow = self.remove(place, class);
        let (client, slot) = (flow.client, flow.slot);
        let job = self.clients[client].jobs[slot].as_mut().expect("a job");
        let others = job.flows.clone();
        if class == Some(Class::Ok) {
            for place in others {
                let lost = self.remove(place, None);
                self.outcome.wasted += lost.wasted();
            }
            self.complete(client, slot, true);
        } else {
            job.failures += 1;
            match class {
                // Which part is wrong cannot be told.
                Some(Class::Corrupt | Class::Behind) => job.have = 0.0,
                _ => job.have = job.have.max(flow.offset + flow.got),
            }
            // What the two had in common is not wasted when the other one continues from it.
            self.outcome.wasted += if others.is_empty() {
                0.0
            } else {
                flow.wasted()
            };
        }
        self.pump(client);
    }

    fn complete(&mut self, client: usize, slot: usize, is_had: bool) {
        let job = self.clients[client].jobs[slot].take().expect("a job");
        let time = if is_had {
            self.now - job.begun
        } else {
            LONGEST
        };
        #[expect(clippy::cast_possible_truncation, reason = "seconds")]
        self.outcome.times.push(time as f32);
        self.outcome.failed += usize::from(!is_had);
        self.outcome.needed += job.size;
        let clients = &self.scenario.clients;
        let this = &mut self.clients[client];
        this.done += 1;
        if this.done == clients.files {
            self.finished_clients += 1;
            if self.start < 0.0 {
                self.saved = this
                    .policy
                    .as_ref()
                    .and_then(|policy| policy.save(self.now));
            }
            // Ten thousand clients need much memory; who is done needs none.
            this.policy = None;
            this.jobs = Vec::new();
        } else if !is_had {
            self.clients[client].wakes_at = self.now;
            self.push(self.now, Event::Wake(client));
        }
    }

    /// Leaves a body that is too slow, as the engine does: by the last three seconds, and when more
    /// than two would be left.
    fn pace(&mut self, place: usize) {
        let mirror = self.flow(place).mirror;
        self.settle(mirror);
        let flow = self.flow_mut(place);
        let got = flow.got;
        flow.marks.push(got);
        let (client, slot, serial, left) = (flow.client, flow.slot, flow.serial, flow.wanted - got);
        let seconds = flow.marks.len();
        let rate = (seconds >= 3).then(|| {
            let before = if seconds > 3 {
                flow.marks[seconds - 4]
            } else {
                0.0
            };
            (got - before) / 3.0
        });
        let leaves = match (&self.clients[client].policy, rate) {
            (None, _) => self.foresees_better(place),
            (Some(_), None) => false,
            (Some(_), Some(rate)) => {
                let Client { policy, jobs, .. } = &mut self.clients[client];
                let job = jobs[slot].as_ref().expect("a job");
                let mut ask = job.ask(self.seed, self.now);
                let nothing = Tried::new();
                ask.tried = &nothing;
                let least = policy
                    .as_mut()
                    .map_or(0.0, |policy| policy.min_rate(&ask, mirror));
                job.flows.len() == 1 && rate < least && left > 2.0 * rate
            }
        };
        if leaves {
            self.end(place, None);
        } else {
            self.push(self.now + 1.0, Event::Pace(place, serial));
        }
    }

    /// Sends a second attempt after what is left of a small file.
    fn hedge(&mut self, place: usize) {
        let (client, slot, mirror) = {
            let flow = self.flow(place);
            (flow.client, flow.slot, flow.mirror)
        };
        self.settle(mirror);
        let job = self.clients[client].jobs[slot].as_ref().expect("a job");
        if job.flows.len() != 1 {
            return;
        }
        let Answer::Use(go) = self.ask(client, slot) else {
            return;
        };
        if go.mirror == mirror || !go.is_good {
            return;
        }
        let got = self.flow(place).got;
        self.flow_mut(place).raced_from = Some(got);
        let job = self.clients[client].jobs[slot].as_mut().expect("a job");
        job.have = job.have.max(
            self.flows[place]
                .as_ref()
                .map_or(0.0, |flow| flow.offset + got),
        );
        let second = self.launch(client, slot, &go);
        self.flow_mut(second).raced_from = Some(0.0);
    }
}

impl Job {
    fn ask(&self, seed: u64, now: f64) -> Ask<'_> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bytes"
        )]
        let bytes = (self.size - self.have).max(0.0) as u64;
        Ask {
            path: &self.path,
            bytes,
            metadata: self.metadata,
            tried: &self.tried,
            failures: self.failures,
            seed: crate::draw::mix(seed ^ self.client_seed ^ (self.file << 16) ^ self.sent),
            now,
        }
    }
}
