//! The conflict as a graph of candidates and specs.

use std::collections::{BTreeMap, BTreeSet};

use resolvo::{
    NameId, Requirement, SolvableId, Solver, StringId, VersionSetId,
    conflict::{Conflict, ConflictCause, ConflictEdge, ConflictNode},
};

use crate::{explanation::SpecOrigin, provider::Provider, root_problem::RootRequirement};

/// The clauses that make a problem unsatisfiable: who requires what, and what forbids it.
pub(super) struct Graph<'a> {
    pub(super) provider: &'a Provider<'a>,
    pub(super) nodes: Vec<Node>,
    pub(super) root: usize,
    /// Names of which two candidates are required.
    pub(super) clashes: BTreeSet<NameId>,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    /// `None` for the root and for the nodes for "missing" and "excluded".
    pub(super) solvable: Option<SolvableId>,
    /// What it requires, with the candidates; none when there are none.
    pub(super) requires: BTreeMap<VersionSetId, Vec<usize>>,
    /// The specs by which it forbids others.
    pub(super) constrains: BTreeSet<VersionSetId>,
    /// Why it must not be chosen.
    pub(super) excluded: Option<StringId>,
    /// The ends of the chains of dependencies that begin here.
    pub(super) leaves: BTreeSet<Leaf>,
}

/// The end of a chain of dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Leaf {
    /// There is no candidate for a spec of this name.
    Missing(NameId),
    /// A candidate must not be chosen.
    Excluded(StringId),
    /// A candidate of this name can be chosen, but another one is required, too.
    Clash(NameId),
    /// Candidates of this name are forbidden.
    Forbids(NameId),
}

impl<'a> Graph<'a> {
    pub(super) fn new(
        provider: &'a Provider<'a>,
        conflict: &Conflict,
        solver: &Solver<&Provider<'_>>,
    ) -> Self {
        let graph = conflict.graph(solver);
        let (raw_nodes, raw_edges) = (graph.graph.raw_nodes(), graph.graph.raw_edges());
        let nodes = raw_nodes
            .iter()
            .map(|node| Node {
                solvable: match node.weight {
                    ConflictNode::Solvable(solvable) => Some(solvable),
                    _ => None,
                },
                requires: BTreeMap::new(),
                constrains: BTreeSet::new(),
                excluded: None,
                leaves: BTreeSet::new(),
            })
            .collect();
        let mut this = Self {
            provider,
            nodes,
            root: graph.root_node.index(),
            clashes: BTreeSet::new(),
        };
        for edge in raw_edges {
            let (source, target) = (edge.source().index(), edge.target().index());
            match edge.weight {
                ConflictEdge::Requires(Requirement::Single(spec)) => {
                    let targets = this.nodes[source].requires.entry(spec).or_default();
                    if !matches!(raw_nodes[target].weight, ConflictNode::UnresolvedDependency) {
                        targets.push(target);
                    }
                }
                // No dependency here is a union, and nothing is locked.
                ConflictEdge::Requires(Requirement::Union(_))
                | ConflictEdge::Conflict(ConflictCause::Locked(_)) => {}
                ConflictEdge::Conflict(ConflictCause::Excluded) => {
                    if let ConflictNode::Excluded(reason) = raw_nodes[target].weight {
                        this.nodes[source].excluded = Some(reason);
                    }
                }
                ConflictEdge::Conflict(ConflictCause::Constrains(spec)) => {
                    this.nodes[source].constrains.insert(spec);
                }
                ConflictEdge::Conflict(ConflictCause::ForbidMultipleInstances) => {
                    this.clashes.extend(this.name_of(source));
                }
            }
        }
        this.find_leaves();
        this
    }

    pub(super) fn name_of(&self, node: usize) -> Option<NameId> {
        let solvable = self.nodes[node].solvable?;
        Some(self.provider.pool.resolve_solvable(solvable).name)
    }

    pub(super) fn spec_name(&self, spec: VersionSetId) -> NameId {
        self.provider.pool.resolve_version_set_package_name(spec)
    }

    /// The requirements in the graph; all of them if there are none.
    pub(super) fn involved(&self, requirements: &[RootRequirement]) -> Vec<RootRequirement> {
        let root = &self.nodes[self.root];
        let involved: Vec<_> = requirements
            .iter()
            .filter(|requirement| match requirement.origin {
                SpecOrigin::Requested => root.requires.contains_key(&requirement.version_set),
                SpecOrigin::Pin => root.constrains.contains(&requirement.version_set),
            })
            .cloned()
            .collect();
        if involved.is_empty() {
            requirements.to_vec()
        } else {
            involved
        }
    }

    /// Propagates the ends of chains to their beginnings. Dependencies can form circles, so this is
    /// repeated until nothing changes.
    fn find_leaves(&mut self) {
        for node in 0..self.nodes.len() {
            let leaves = self.own_leaves(node);
            self.nodes[node].leaves = leaves;
        }
        loop {
            let mut changed = false;
            // Dependencies mostly follow their dependents, so backwards is faster.
            for node in (0..self.nodes.len()).rev() {
                let mut leaves = std::mem::take(&mut self.nodes[node].leaves);
                let before = leaves.len();
                for target in self.nodes[node].requires.values().flatten() {
                    leaves.extend(&self.nodes[*target].leaves);
                }
                changed |= leaves.len() != before;
                self.nodes[node].leaves = leaves;
            }
            if !changed {
                break;
            }
        }
    }

    fn own_leaves(&self, index: usize) -> BTreeSet<Leaf> {
        let node = &self.nodes[index];
        let mut leaves: BTreeSet<_> = node
            .requires
            .iter()
            .filter(|(_, targets)| targets.is_empty())
            .map(|(&spec, _)| Leaf::Missing(self.spec_name(spec)))
            .chain(
                node.constrains
                    .iter()
                    .map(|&spec| Leaf::Forbids(self.spec_name(spec))),
            )
            .chain(node.excluded.map(Leaf::Excluded))
            .collect();
        if leaves.is_empty() && node.requires.is_empty() {
            leaves.extend(self.name_of(index).map(Leaf::Clash));
        }
        leaves
    }
}
