//! Upload sessions.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) repository: String,
    pub(crate) data: BytesMut,
    /// Part of the location; it changes with every chunk, so that using an older location is detected.
    state: u64,
}

impl Session {
    fn is_at(&self, repository: &str, state: Option<&str>) -> bool {
        let newest = state.and_then(|text| text.parse().ok()) == Some(self.state);
        self.repository == repository && newest
    }
}

#[derive(Debug, Default)]
pub(crate) struct Uploads {
    sessions: Mutex<(u64, BTreeMap<String, Session>)>,
}

impl Uploads {
    pub(crate) fn start(&self, repository: &str) -> String {
        let mut sessions = self.lock();
        sessions.0 += 1;
        let id = format!("session-{:08}", sessions.0);
        let session = Session {
            repository: repository.to_owned(),
            data: BytesMut::new(),
            state: 0,
        };
        sessions.1.insert(id.clone(), session);
        id
    }

    /// The number of received bytes, if the location is the newest one.
    pub(crate) fn received(
        &self,
        repository: &str,
        id: &str,
        state: Option<&str>,
    ) -> Option<usize> {
        let sessions = self.lock();
        let session = sessions.1.get(id)?;
        session
            .is_at(repository, state)
            .then_some(session.data.len())
    }

    /// Removes a session if the location is the newest one; the caller puts it back or ends it. So two
    /// concurrent requests for a session cannot mix their bytes.
    pub(crate) fn take(&self, repository: &str, id: &str, state: Option<&str>) -> Option<Session> {
        let mut sessions = self.lock();
        if !sessions.1.get(id)?.is_at(repository, state) {
            return None;
        }
        sessions.1.remove(id)
    }

    /// Puts a session back after its bytes have changed.
    pub(crate) fn put_back(&self, id: &str, mut session: Session, changed: bool) {
        session.state += u64::from(changed);
        self.lock().1.insert(id.to_owned(), session);
    }

    /// Number of bytes received, and the newest state.
    pub(crate) fn status(&self, repository: &str, id: &str) -> Option<(usize, u64)> {
        let sessions = self.lock();
        let session = sessions
            .1
            .get(id)
            .filter(|session| session.repository == repository)?;
        Some((session.data.len(), session.state))
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<String, Session>)> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
