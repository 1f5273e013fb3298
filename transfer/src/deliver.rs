//! Sends files to a destination: each request is an exchange, failures that may pass are retried.

use std::{sync::Arc, time::Duration};

use taipan_mirrors::Class;
use tokio::time::{Instant, sleep};

use crate::{
    Attempt, BackendError, Event, Expected, Target, TimeoutPhase,
    destination::{
        Deletion, Destination, Held, Listing, NewFile, PutOptions, Stored, outlet::Outlet,
        sending::Sending,
    },
    engine::Engine,
    exchange::{Context, Exchange, Timeouts},
};

/// How long a destination may make no progress.
const STALL: Duration = Duration::from_mins(1);

/// The first wait between two attempts; it doubles.
const BACKOFF: Duration = Duration::from_millis(250);

/// The longest wait between two attempts, unless the server asks for a longer one.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Why a request to a destination failed in the end.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {label}")]
pub struct DeliveryError {
    /// What was tried: "upload".
    pub action: &'static str,
    /// The name of the file.
    pub label: String,
    /// All attempts, in order. There is at least one.
    pub attempts: Vec<Attempt>,
}

impl DeliveryError {
    /// The class of the last failure.
    pub fn class(&self) -> Class {
        self.attempts.last().map_or(Class::Unwell, |it| it.class)
    }

    /// Whether another program changed the file at the same time.
    pub fn is_conflict(&self) -> bool {
        let last = self.attempts.last();
        last.is_some_and(|it| matches!(it.error, BackendError::Conflict { .. }))
    }

    /// Whether credentials are missing or do not allow it.
    pub fn is_denied(&self) -> bool {
        self.class() == Class::Denied
    }

    /// Whether a local file could not be read or written.
    pub fn is_local(&self) -> bool {
        let last = self.attempts.last();
        last.is_some_and(|it| {
            matches!(
                it.error,
                BackendError::Read { .. } | BackendError::Write { .. }
            )
        })
    }

    /// The last failure with its causes, in one line.
    pub fn problem(&self) -> String {
        self.attempts
            .last()
            .map(Attempt::problem)
            .unwrap_or_default()
    }
}

impl Engine {
    /// Stores files at a destination. In a registry they become layers of one manifest. To drop the future ends its
    /// requests; a file that was not stored completely is not there.
    pub async fn put(
        &self,
        outlet: &Outlet,
        label: &str,
        files: &[NewFile],
        options: PutOptions,
    ) -> Result<Vec<Stored>, DeliveryError> {
        let first = files.first().map(|file| &file.target);
        let Some(target) = first else {
            return Ok(Vec::new());
        };
        let size = files.iter().map(NewFile::size).sum();
        let request = Delivery {
            action: "upload",
            label,
            target,
            size: Some(size),
        };
        let work = move |destination: Arc<dyn Destination>, sending: Arc<Sending>| async move {
            destination.put(files, options, &sending).await
        };
        self.deliver(outlet, request, work).await
    }

    /// What is known of a file at a destination; `None` if it is not there. Digests in `expected` tell what is to be
    /// proved.
    pub async fn look(
        &self,
        outlet: &Outlet,
        target: &Target,
        expected: &Expected,
    ) -> Result<Option<Held>, DeliveryError> {
        let request = Delivery::quick("look at", &target.path, target);
        let work = move |destination: Arc<dyn Destination>, _: Arc<Sending>| async move {
            destination.look(target, expected).await
        };
        self.deliver(outlet, request, work).await
    }

    /// Deletes files at a destination. The result has their order.
    pub async fn delete(
        &self,
        outlet: &Outlet,
        targets: &[Target],
    ) -> Result<Vec<Deletion>, DeliveryError> {
        let Some(target) = targets.first() else {
            return Ok(Vec::new());
        };
        let request = Delivery::quick("delete", &target.path, target);
        let work = move |destination: Arc<dyn Destination>, _: Arc<Sending>| async move {
            destination.delete(targets).await
        };
        self.deliver(outlet, request, work).await
    }

    /// A part of the files of a destination, by the beginning of their paths. `None` if it has no listings.
    pub async fn list(
        &self,
        outlet: &Outlet,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Option<Listing>, DeliveryError> {
        let target = Target::path(prefix);
        let request = Delivery::quick("list", prefix, &target);
        let work = move |destination: Arc<dyn Destination>, _: Arc<Sending>| async move {
            destination.list(prefix, after).await
        };
        self.deliver(outlet, request, work).await
    }

    /// The tags of a repository in a registry; `None` if the destination is none.
    pub async fn tags(
        &self,
        outlet: &Outlet,
        repository: &str,
    ) -> Result<Option<Vec<String>>, DeliveryError> {
        let target = Target::path(repository);
        let request = Delivery::quick("list the tags of", repository, &target);
        let work = move |destination: Arc<dyn Destination>, _: Arc<Sending>| async move {
            destination.tags(repository).await
        };
        self.deliver(outlet, request, work).await
    }

    /// Whether a destination honours conditions. The first call may send requests that find out.
    pub async fn honours_conditions(&self, outlet: &Outlet) -> Result<bool, DeliveryError> {
        let target = Target::path(".taipan/probe");
        let request = Delivery::quick("probe", "conditional writes", &target);
        let work = move |destination: Arc<dyn Destination>, _: Arc<Sending>| async move {
            destination.honours_conditions().await
        };
        self.deliver(outlet, request, work).await
    }

    /// Ends uploads of ours that were begun before this time and not completed. Returns how many.
    pub async fn sweep(
        &self,
        outlet: &Outlet,
        older_than: Duration,
    ) -> Result<usize, DeliveryError> {
        let target = Target::path(".taipan/upload");
        let request = Delivery::quick("sweep", "unfinished uploads", &target);
        let work = move |destination: Arc<dyn Destination>, _: Arc<Sending>| async move {
            destination.sweep(older_than).await
        };
        self.deliver(outlet, request, work).await
    }

    async fn deliver<T, F>(
        &self,
        outlet: &Outlet,
        request: Delivery<'_>,
        work: impl Fn(Arc<dyn Destination>, Arc<Sending>) -> F,
    ) -> Result<T, DeliveryError>
    where
        F: Future<Output = Result<T, BackendError>>,
    {
        let job = self.next_id();
        let context = Context {
            mirrors: outlet.mirrors().clone(),
            target: Arc::new(request.target.clone()),
            expected: Expected::default(),
            job,
            limits: Arc::clone(&self.limits),
            observer: Arc::clone(&self.observer),
            is_offline: self.options.offline,
        };
        let mirror = outlet.mirror().expect("an outlet has one mirror");
        self.observer.event(&Event::Started {
            job,
            label: request.label,
            size: request.size,
        });
        let started = Instant::now();
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut waited = Duration::ZERO;
        let mut retries = 0;
        loop {
            context.mirrors.capacity(mirror).await;
            let timeouts = Timeouts::PATIENT;
            let exchange = Exchange::begin_on(&context, mirror, timeouts, 0, request.action);
            let sending =
                Sending::limited(Arc::clone(&self.limits), (context.mirrors.number(), mirror));
            let work = work(Arc::clone(outlet.destination()), Arc::clone(&sending));
            match exchange.carry(&sending, STALL, work).await {
                Ok(done) => {
                    exchange.succeed();
                    self.observer.event(&Event::Done {
                        job,
                        bytes: request.size.unwrap_or(0),
                        duration: started.elapsed(),
                    });
                    return Ok(done);
                }
                Err(error) => {
                    let class = error.class();
                    let is_transient = error.is_transient();
                    let asked = error.retry_after();
                    attempts.push(exchange.fail(error));
                    let wait = match class {
                        Class::Throttled => {
                            let wait = asked.unwrap_or_else(|| backoff(retries, job.0));
                            (waited + wait <= self.options.throttled_wait_budget).then_some(wait)
                        }
                        Class::Unwell | Class::Corrupt => (is_transient
                            && retries < outlet.retries())
                        .then(|| asked.unwrap_or_default().max(backoff(retries, job.0))),
                        _ => None,
                    };
                    let Some(wait) = wait else {
                        self.observer.event(&Event::Failed { job });
                        return Err(DeliveryError {
                            action: request.action,
                            label: request.label.to_owned(),
                            attempts,
                        });
                    };
                    if class == Class::Throttled {
                        waited += wait;
                    }
                    retries += 1;
                    self.observer.event(&Event::Waiting {
                        job,
                        delay: wait,
                        why: "the destination failed, and is tried again",
                    });
                    sleep(wait).await;
                }
            }
        }
    }
}

/// One request, as far as events and errors tell of it.
struct Delivery<'a> {
    action: &'static str,
    label: &'a str,
    target: &'a Target,
    size: Option<u64>,
}

impl<'a> Delivery<'a> {
    fn quick(action: &'static str, label: &'a str, target: &'a Target) -> Self {
        Self {
            action,
            label,
            target,
            size: None,
        }
    }
}

/// The wait before an attempt: exponential, and different between jobs.
fn backoff(retries: u32, seed: u64) -> Duration {
    let wait = BACKOFF
        .saturating_mul(1 << retries.min(12))
        .min(MAX_BACKOFF);
    // Between three quarters and five quarters of it.
    let share = u32::try_from(seed.wrapping_mul(0x9e37_79b9) % 100).unwrap_or(0);
    wait * (75 + share / 2) / 100
}

impl Exchange {
    /// Carries out a request of a destination, until it makes no progress for too long.
    pub(crate) async fn carry<T>(
        &self,
        sending: &Sending,
        stall: Duration,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        self.check_offline()?;
        let stalled = async {
            loop {
                let idle = sending.idle();
                match stall.checked_sub(idle) {
                    Some(left) if !left.is_zero() => sleep(left).await,
                    _ => return,
                }
            }
        };
        let result = tokio::select! {
            result = work => result,
            () = stalled => Err(BackendError::Timeout {
                url: self.url().to_owned(),
                phase: TimeoutPhase::Upload,
                after: stall,
            }),
        };
        self.sent(sending.bytes());
        result
    }
}
