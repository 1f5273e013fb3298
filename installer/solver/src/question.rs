//! The root of a problem: what is asked, so that parts of it can be left out.

use resolvo::{Problem, VersionSetId};

use crate::error::SpecOrigin;

/// A thing that the user wants, as the solver knows it.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) origin: SpecOrigin,
    pub(crate) text: String,
    pub(crate) version_set: VersionSetId,
}

/// Everything at the root of a problem. Leaving wishes out makes an easier problem, which is how
/// the guilty ones are found.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// What the machine has. It is always part of a solution, so that `constrains` of a virtual
    /// package is enforced.
    pub(crate) machine: Vec<VersionSetId>,
    pub(crate) wishes: Vec<Wish>,
    /// What is installed and should stay if it can.
    pub(crate) orphans: Vec<VersionSetId>,
}

impl Question {
    pub(crate) fn problem(&self) -> Problem {
        let of = |origin| {
            let wishes = self.wishes.iter().filter(move |wish| wish.origin == origin);
            wishes.map(|wish| wish.version_set)
        };
        let requirements = self.machine.iter().copied();
        let requirements = requirements.chain(of(SpecOrigin::Requested));
        let requirements = requirements.chain(self.orphans.iter().copied());
        Problem::new()
            .requirements(requirements.map(Into::into).collect())
            .constraints(of(SpecOrigin::Pin).collect())
    }

    /// The same with some of the wishes and without orphans.
    pub(crate) fn with(&self, wishes: Vec<Wish>) -> Self {
        Self {
            machine: self.machine.clone(),
            wishes,
            orphans: Vec::new(),
        }
    }

    /// Takes the last orphan away of which `is_involved` holds. Whether there was one.
    pub(crate) fn drop_orphan(
        &mut self,
        is_involved: impl Fn(&[VersionSetId]) -> Vec<bool>,
    ) -> bool {
        let found = is_involved(&self.orphans)
            .iter()
            .rposition(|&involved| involved);
        if let Some(found) = found {
            self.orphans.remove(found);
        }
        found.is_some()
    }
}
