//! The search for a solution.

use std::time::Instant;

use rattler_conda_types::{PackageRecord, RepoDataRecord};
use resolvo::{Solver, UnsolvableOrCancelled};
use serde::{Deserialize, Serialize};

use crate::{
    check::check,
    error::SolveError,
    explain,
    provider::{Provider, Stop},
    request::SolveRequest,
};

/// The solution: plain data, which can be stored, sent and compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solution {
    /// One record for each name. Each follows its dependencies, as far as these form no circle.
    pub records: Vec<RepoDataRecord>,
}

/// Finds the newest set of records that satisfies the request. The same request gives the same
/// solution.
///
/// It takes milliseconds to seconds, and must not run on a thread of an async executor.
///
/// # Errors
///
/// [`SolveError::UnknownPackage`] when no channel has the name of a spec,
/// [`SolveError::Unsatisfiable`] when the specs are in conflict; the others mean that the request
/// is invalid, or that the search was stopped.
pub fn solve(request: &SolveRequest) -> Result<Solution, SolveError> {
    let deadline = request.timeout.map(|timeout| Instant::now() + timeout);
    check(request)?;
    let provider = Provider::new(request, deadline);
    let mut problem = provider.root_problem();
    loop {
        let mut solver = Solver::new(&provider);
        let conflict = match solver.solve(problem.problem()) {
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
        // Orphans that are part of the conflict are dropped one at a time, because that may
        // suffice. (Resolvo's soft requirements do not fit: with them, an orphan can displace a
        // record that a spec requires.)
        if !problem.drop_orphan(|orphans| explain::involved(&provider, &solver, &conflict, orphans))
        {
            let explanation = explain::explain(&provider, &problem, &solver, &conflict);
            return Err(SolveError::Unsatisfiable(Box::new(explanation)));
        }
    }
}
