//! A client and the files that it fetches.

use std::collections::BTreeMap;

use taipan_mirrors::Tried;

use crate::draw::{mix, normal, uniform};
use crate::policy::{Policy, id};
use crate::scenario::Clients;
use crate::world::Asked;

pub(crate) struct Client {
    pub(crate) number: u64,
    seed: u64,
    /// Nothing for the clairvoyant, who looks at the world itself, and before the arrival.
    pub(crate) policy: Option<Box<dyn Policy>>,
    pub(crate) jobs: Vec<Option<Job>>,
    pub(crate) begun: usize,
    pub(crate) done: usize,
    /// When it asks again at the latest.
    pub(crate) wakes_at: f64,
    /// Tokens of the mirrors' limiters, and when they were counted.
    pub(crate) tokens: BTreeMap<usize, (f64, f64)>,
}

/// A file under way.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) client_seed: u64,
    pub(crate) file: u64,
    pub(crate) path: String,
    pub(crate) size: f64,
    pub(crate) metadata: bool,
    pub(crate) begun: f64,
    /// Bytes that are there.
    pub(crate) have: f64,
    /// Attempts count as failures from their beginning.
    pub(crate) tried: Tried,
    pub(crate) failures: u32,
    /// Places of the attempts under way: one, or two when hedged.
    pub(crate) flows: Vec<usize>,
    /// How many attempts were sent.
    pub(crate) sent: u64,
}

impl Client {
    pub(crate) fn new(clients: &Clients, seed: u64, index: usize) -> Self {
        Self {
            number: index as u64,
            seed: mix(seed ^ (index as u64).wrapping_mul(0x1234_5678_9abc_def1)),
            policy: None,
            jobs: vec![None; clients.parallel.min(clients.files)],
            begun: 0,
            done: 0,
            wakes_at: f64::INFINITY,
            tokens: BTreeMap::new(),
        }
    }

    /// A number of its own.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The next file, if any is left.
    pub(crate) fn next_job(&mut self, clients: &Clients, now: f64) -> Option<Job> {
        if self.begun == clients.files {
            return None;
        }
        let file = self.begun as u64;
        self.begun += 1;
        let draw = self.seed ^ file.wrapping_mul(0x9876_5432_1fed_cba9);
        let size = clients.bytes * (normal(draw, 20) * clients.spread).exp();
        Some(Job {
            client_seed: self.seed,
            file,
            path: format!("f{file}"),
            size: size.clamp(1.0, clients.most_bytes).ceil(),
            metadata: uniform(draw, 21) < clients.metadata,
            begun: now,
            have: 0.0,
            tried: Tried::new(),
            failures: 0,
            flows: Vec::new(),
            sent: 0,
        })
    }

    /// How an attempt of this job on this mirror will fare.
    pub(crate) fn asked(&self, job: &Job, mirror: usize) -> Asked {
        let attempt = job.tried.failures(id(mirror));
        Asked {
            client: self.number,
            file: job.file,
            attempt: u64::from(attempt),
            metadata: job.metadata,
        }
    }

    /// Takes a token of a limiter with this rate per second; false when there is none.
    pub(crate) fn take_token(&mut self, mirror: usize, per_second: f64, now: f64) -> bool {
        let left = self.tokens_left(mirror, per_second, now);
        let takes = left >= 1.0;
        self.tokens
            .insert(mirror, (if takes { left - 1.0 } else { left }, now));
        takes
    }

    pub(crate) fn tokens_left(&self, mirror: usize, per_second: f64, now: f64) -> f64 {
        // A second's worth is saved up at the most.
        let most = per_second.max(1.0);
        let &(left, at) = self.tokens.get(&mirror).unwrap_or(&(most, now));
        (left + (now - at) * per_second).min(most)
    }
}
