//! The root of a problem: what is asked, so that parts of it can be left out.

use resolvo::{ConditionalRequirement, VersionSetId};

use super::SpecOrigin;

/// A thing that the user wants, as the solver knows it.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) origin: SpecOrigin,
    pub(super) text: String,
    pub(super) version_set: VersionSetId,
}

/// Everything at the root of a problem. Leaving wishes out makes an easier problem, which is how
/// the guilty ones are found.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// What the machine has. It is always part of a solution, so that `constrains` of a virtual
    /// package is enforced.
    pub(super) machine: Vec<VersionSetId>,
    pub(super) wishes: Vec<Wish>,
}

impl Question {
    pub(super) fn requirements(&self) -> Vec<ConditionalRequirement> {
        let requested = self
            .wishes
            .iter()
            .filter(|wish| wish.origin == SpecOrigin::Requested);
        self.machine
            .iter()
            .copied()
            .chain(requested.map(|wish| wish.version_set))
            .map(ConditionalRequirement::from)
            .collect()
    }

    pub(super) fn constraints(&self) -> Vec<VersionSetId> {
        let pins = self
            .wishes
            .iter()
            .filter(|wish| wish.origin == SpecOrigin::Pin);
        pins.map(|wish| wish.version_set).collect()
    }

    /// The same with some of the wishes.
    pub(super) fn with(&self, wishes: Vec<Wish>) -> Self {
        Self {
            machine: self.machine.clone(),
            wishes,
        }
    }
}
