//! An ordered pipeline of jobs on other threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use crate::error::{Error, Result};

type Work<J, D> = dyn Fn(J) -> Result<D> + Send + Sync;

/// Runs jobs on the current rayon pool and returns the results in order.
///
/// The caller prepares the next jobs while others run. The number of running jobs is bounded, so memory
/// does not depend on the length of the file.
pub(crate) struct Pipeline<J, D> {
    work: Arc<Work<J, D>>,
    sender: Sender<(u64, Result<D>)>,
    receiver: Receiver<(u64, Result<D>)>,
    /// Results that arrived out of order.
    early: BTreeMap<u64, Result<D>>,
    sent: u64,
    returned: u64,
    depth: u64,
}

impl<J: Send + 'static, D: Send + 'static> Pipeline<J, D> {
    pub(crate) fn new(work: impl Fn(J) -> Result<D> + Send + Sync + 'static) -> Self {
        let (sender, receiver) = channel();
        Self {
            work: Arc::new(work),
            sender,
            receiver,
            early: BTreeMap::new(),
            sent: 0,
            returned: 0,
            depth: rayon::current_num_threads() as u64 + 2,
        }
    }

    /// Whether a result must be received before the next job can be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.sent - self.returned >= self.depth
    }

    pub(crate) fn send(&mut self, job: J) {
        let (work, sender, number) = (self.work.clone(), self.sender.clone(), self.sent);
        self.sent += 1;
        rayon::spawn(move || {
            // The receiver is gone if the pipeline was dropped.
            let _ = sender.send((number, work(job)));
        });
    }

    /// The result of the oldest running job; `None` if no job is running.
    pub(crate) fn next(&mut self) -> Result<Option<D>> {
        if self.sent == self.returned {
            return Ok(None);
        }
        let done = loop {
            if let Some(done) = self.early.remove(&self.returned) {
                break done;
            }
            let (number, done) = self.receive()?;
            self.early.insert(number, done);
        };
        self.returned += 1;
        done.map(Some)
    }

    fn receive(&self) -> Result<(u64, Result<D>)> {
        let lost = || Error::Compress {
            what: "do a chunk",
            source: std::io::Error::other("the thread that had it is gone"),
        };
        loop {
            match self.receiver.try_recv() {
                Ok(result) => return Ok(result),
                Err(TryRecvError::Disconnected) => return Err(lost()),
                Err(TryRecvError::Empty) => {}
            }
            match rayon::yield_now() {
                // A thread of the pool must not block: it may wait for its own jobs.
                Some(rayon::Yield::Executed) => {}
                Some(rayon::Yield::Idle) => {
                    if let Ok(result) = self.receiver.recv_timeout(Duration::from_millis(1)) {
                        return Ok(result);
                    }
                }
                None => return self.receiver.recv().map_err(|_| lost()),
            }
        }
    }
}
