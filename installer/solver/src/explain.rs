//! From a failed search to an explanation that fits a screen.
//!
//! First the requirements are reduced until each of the rest is necessary for the conflict: these
//! are the specs in conflict. Then the conflict is described as a tree, in which candidates of one
//! name that fail for the same reason are one entry, followed by the names of which two candidates
//! are required at once.

mod graph;
mod tree;

use std::time::{Duration, Instant};

use resolvo::{Solver, UnsolvableOrCancelled, VersionSetId, conflict::Conflict};

use crate::{
    explanation::{ConflictingSpec, Explanation},
    provider::Provider,
    root_problem::RootProblem,
};
use graph::Graph;

/// The time for reducing the requirements, in addition to that of the search.
const REDUCTION_TIME: Duration = Duration::from_secs(2);

/// Explains why `problem` has no solution.
pub(crate) fn explain(
    provider: &Provider<'_>,
    problem: &RootProblem,
    solver: &Solver<&Provider<'_>>,
    conflict: &Conflict,
) -> Explanation {
    let mut graph = Graph::new(provider, conflict, solver);
    provider.deadline.set(Some(Instant::now() + REDUCTION_TIME));
    let mut requirements = graph.involved(&problem.requirements);
    let mut at = 0;
    while at < requirements.len() && requirements.len() > 1 {
        let mut fewer = requirements.clone();
        fewer.remove(at);
        match search(provider, &problem.with(fewer)) {
            Outcome::Solved => at += 1,
            // The smaller conflict may not need others, too, but it needs those before `at`:
            // without each of them there is a solution.
            Outcome::Failed(smaller) => {
                requirements.remove(at);
                requirements = smaller.involved(&requirements);
                graph = smaller;
            }
            Outcome::Stopped => break,
        }
    }
    Explanation {
        conflicting: requirements
            .iter()
            .map(|requirement| ConflictingSpec {
                spec: requirement.text.clone(),
                origin: requirement.origin,
            })
            .collect(),
        reasons: tree::reasons(&graph, &requirements),
        notes: tree::notes(&graph),
    }
}

/// Which of the specs at the root are part of a conflict.
pub(crate) fn involved(
    provider: &Provider<'_>,
    solver: &Solver<&Provider<'_>>,
    conflict: &Conflict,
    specs: &[VersionSetId],
) -> Vec<bool> {
    let graph = Graph::new(provider, conflict, solver);
    let root = &graph.nodes[graph.root];
    specs
        .iter()
        .map(|spec| root.requires.contains_key(spec))
        .collect()
}

enum Outcome<'a> {
    Solved,
    Failed(Graph<'a>),
    Stopped,
}

fn search<'a>(provider: &'a Provider<'a>, problem: &RootProblem) -> Outcome<'a> {
    let mut solver = Solver::new(provider);
    match solver.solve(problem.problem()) {
        Ok(_) => Outcome::Solved,
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            Outcome::Failed(Graph::new(provider, &conflict, &solver))
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => Outcome::Stopped,
    }
}
