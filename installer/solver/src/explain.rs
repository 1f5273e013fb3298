//! From a failed search to an explanation that fits a screen.
//!
//! First the wishes are thinned out until each one left is needed for the failure: that names the
//! specs in conflict. Then what the search learned about those is told as a tree, in which
//! candidates of one name that fail for the same reason are one entry, however many versions they
//! are, and at last the names of which two candidates are wanted at once.

mod graph;
mod tree;

use std::time::{Duration, Instant};

use resolvo::{Solver, UnsolvableOrCancelled, VersionSetId, conflict::Conflict};

use crate::{
    error::{ConflictingSpec, Explanation},
    provider::Provider,
    question::Question,
};
use graph::Graph;

/// Thinning out is an extra: it may take this long beyond the search.
const THINNING: Duration = Duration::from_secs(2);

/// Explains why `question` has no solution.
pub(crate) fn explain(
    provider: &Provider<'_>,
    question: &Question,
    solver: &Solver<&Provider<'_>>,
    conflict: &Conflict,
) -> Explanation {
    let mut graph = Graph::new(provider, conflict, solver);
    provider.deadline.set(Some(Instant::now() + THINNING));
    let mut wishes = graph.involved(&question.wishes);
    let mut at = 0;
    while at < wishes.len() && wishes.len() > 1 {
        let mut fewer = wishes.clone();
        fewer.remove(at);
        match search(provider, &question.with(fewer)) {
            Outcome::Solved => at += 1,
            // The smaller conflict may do without others, too, but never without one of those
            // before `at`: without each of them there is a solution.
            Outcome::Failed(smaller) => {
                wishes.remove(at);
                wishes = smaller.involved(&wishes);
                graph = smaller;
            }
            Outcome::Stopped => break,
        }
    }
    Explanation {
        conflicting: wishes
            .iter()
            .map(|wish| ConflictingSpec {
                spec: wish.text.clone(),
                origin: wish.origin,
            })
            .collect(),
        reasons: tree::reasons(&graph, &wishes),
        notes: tree::notes(&graph),
    }
}

/// Which of the specs at the root have a part in a conflict.
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

fn search<'a>(provider: &'a Provider<'a>, question: &Question) -> Outcome<'a> {
    let mut solver = Solver::new(provider);
    match solver.solve(question.problem()) {
        Ok(_) => Outcome::Solved,
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            Outcome::Failed(Graph::new(provider, &conflict, &solver))
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => Outcome::Stopped,
    }
}
