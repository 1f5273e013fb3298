//! Points at which tests end the process, to test how the next one recovers.

/// Does nothing outside tests.
#[cfg(not(test))]
#[inline]
pub(crate) fn failpoint(_name: &str) {}

#[cfg(test)]
pub(crate) use in_tests::{abort_at, failpoint};

#[cfg(test)]
mod in_tests {
    use std::sync::Mutex;

    static ABORT_AT: Mutex<Option<(String, usize)>> = Mutex::new(None);

    /// Ends this process, without any cleanup, when `name` is passed for the `nth` time (from 1).
    pub(crate) fn abort_at(name: &str, nth: usize) {
        *ABORT_AT.lock().unwrap() = Some((name.to_owned(), nth));
    }

    pub(crate) fn failpoint(name: &str) {
        let mut wanted = ABORT_AT.lock().unwrap();
        if let Some((at, remaining)) = wanted.as_mut()
            && at == name
        {
            *remaining -= 1;
            if *remaining == 0 {
                std::process::abort();
            }
        }
    }
}
