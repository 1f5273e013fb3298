//! The search for a solution.

use std::time::Instant;

use rattler_conda_types::{PackageRecord, RepoDataRecord};
use resolvo::{Solver, UnsolvableOrCancelled};
use serde::{Deserialize, Serialize};

use crate::{
    error::{self, SolveError},
    explain,
    provider::{Provider, Stop},
    request::SolveRequest,
};

/// The answer: plain data, which can be stored, sent and compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solution {
    /// One record for each name, every one after those that it depends on (where dependencies
    /// form a circle, as near to that as possible).
    pub records: Vec<RepoDataRecord>,
}

/// Finds the newest set of records that satisfies the request. The same request gives the same
/// solution.
///
/// This computes for milliseconds to seconds and must not run on an async executor's thread.
///
/// # Errors
///
/// [`SolveError::UnknownPackage`] when no channel has a name that a spec asks for,
/// [`SolveError::Unsatisfiable`] when the specs cannot be met together; the others say that the
/// question was no question, or that it was given up.
pub fn solve(request: &SolveRequest) -> Result<Solution, SolveError> {
    let deadline = request.timeout.map(|timeout| Instant::now() + timeout);
    error::check(request)?;
    let provider = Provider::new(request, deadline);
    let mut question = provider.question();
    loop {
        let mut solver = Solver::new(&provider);
        let conflict = match solver.solve(question.problem()) {
            Ok(solvables) => {
                let records = solvables
                    .into_iter()
                    .filter_map(|it| provider.record(it))
                    .collect();
                let records = PackageRecord::sort_topologically(records);
                return Ok(Solution { records });
            }
            Err(UnsolvableOrCancelled::Unsolvable(conflict)) => conflict,
            Err(UnsolvableOrCancelled::Cancelled(value)) => {
                return Err(match value.downcast_ref() {
                    Some(Stop::Cancelled) => SolveError::Cancelled,
                    _ => SolveError::Timeout {
                        after: request.timeout.unwrap_or_default(),
                    },
                });
            }
        };
        // An orphan that stands in the way goes, one at a time, since the next may do without.
        // (Resolvo's soft requirements are not for this: with them, a record that was only to be
        // kept can displace one that was asked for.)
        if !question
            .drop_orphan(|orphans| explain::involved(&provider, &solver, &conflict, orphans))
        {
            let explanation = explain::explain(&provider, &question, &solver, &conflict);
            return Err(SolveError::Unsatisfiable(Box::new(explanation)));
        }
    }
}
