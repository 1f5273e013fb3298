use super::{
    error::Explanation,
    provider::{Provider, Question},
};
use resolvo::{Solver, conflict::Conflict};
pub(super) fn explain(
    provider: &Provider<'_>,
    question: &Question,
    solver: Solver<&Provider<'_>>,
    conflict: Conflict,
) -> Explanation {
    let text = conflict.display_user_friendly(&solver).to_string();
    let _ = (provider, question);
    Explanation {
        conflicting: vec![],
        reasons: vec![super::Reason::new(text, vec![])],
        notes: vec![],
    }
}
