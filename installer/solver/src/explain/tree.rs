//! Renders a conflict as text.

use std::collections::{BTreeMap, BTreeSet};

use rattler_conda_types::{EqualityOperator, PackageName, VersionSpec};
use resolvo::{NameId, SolvableId, VersionSetId};

use super::graph::{Graph, Leaf, Node};
use crate::{
    candidate::Spec,
    explanation::{Reason, SpecOrigin},
    provider::read_channel,
    root_problem::RootRequirement,
    spec::{is_virtual, tidy},
    suggest::suggestions,
};

/// Deeper chains of dependencies are cut.
const MAX_DEPTH: usize = 4;
/// Of more alternatives than this, the first and the last are named.
const MAX_ALTERNATIVES: usize = 3;
/// The largest number of names of which two candidates are required.
const MAX_CLASHES: usize = 4;

/// Candidates of one name that fail in the same way.
struct Group {
    nodes: Vec<usize>,
    /// What they require, by name: the different specs, and the candidates for those.
    requires: BTreeMap<NameId, (BTreeSet<VersionSetId>, BTreeSet<usize>)>,
}

/// The reasons why the requirements are in conflict.
pub(super) fn reasons(graph: &Graph<'_>, requirements: &[RootRequirement]) -> Vec<Reason> {
    let mut writer = Writer {
        graph,
        shown: BTreeSet::new(),
    };
    let mut reasons = Vec::new();
    for requirement in requirements
        .iter()
        .filter(|requirement| requirement.origin == SpecOrigin::Requested)
    {
        let Some(targets) = graph.nodes[graph.root]
            .requires
            .get(&requirement.version_set)
        else {
            continue;
        };
        if targets.is_empty() {
            let mut text = writer.missing(requirement.version_set);
            if requirements.len() > 1 {
                text = format!("{}: {text}", requirement.text);
            }
            reasons.push(Reason::new(text, Vec::new()));
            continue;
        }
        let mut groups = writer.candidates(&targets.iter().copied().collect(), 1);
        match groups.len() {
            0 => {}
            1 => reasons.append(&mut groups),
            _ => reasons.push(Reason::new(
                format!("{} leaves these:", requirement.text),
                groups,
            )),
        }
    }
    reasons.extend(writer.clashes());
    if reasons.is_empty() {
        // The graph has no reason to show; the specs are named anyway.
        reasons.push(Reason::new(
            "no choice of versions satisfies all of them",
            Vec::new(),
        ));
    }
    reasons
}

/// Hints.
pub(super) fn notes(graph: &Graph<'_>) -> Vec<String> {
    let request = graph.provider.request;
    let mut notes = Vec::new();
    let mut shown = BTreeSet::new();
    let specs = graph.nodes.iter().flat_map(|node| {
        node.requires
            .iter()
            .map(|(&spec, targets)| (spec, targets.is_empty()))
    });
    for (spec, is_missing) in specs {
        let id = graph.spec_name(spec);
        let name = graph.provider.name(id);
        let package = graph.provider.package(id);
        if is_virtual(name) {
            let variable = format!("CONDA_OVERRIDE_{}", name[2..].to_ascii_uppercase());
            if is_missing && shown.insert(name) {
                notes.push(format!("set {variable} to solve for another machine"));
            }
            continue;
        }
        if is_missing && let Some(note) = exact_version_note(graph, spec) {
            notes.push(note);
        }
        if is_missing && package.candidates.is_empty() && package.unreadable.is_empty() {
            let similar = suggestions(request, name);
            if shown.insert(name) && !similar.is_empty() {
                let similar = similar.join(", ");
                notes.push(format!("similar names: {similar}"));
            }
        }
        for &place in &package.hidden_in {
            let (channel, Spec(bounds)) = (
                &request.channels[place],
                graph.provider.pool.resolve_version_set(spec),
            );
            let (records, _) = read_channel(channel, &PackageName::new_unchecked(name));
            let fits = records
                .iter()
                .any(|record| rattler_conda_types::Matches::matches(bounds, record));
            if fits && shown.insert(name) {
                let first = package
                    .candidates
                    .first()
                    .map(|&it| graph.provider.candidate(it));
                let first = first.and_then(|candidate| request.channels.get(candidate.channel));
                let first = first.map_or("an earlier channel", |channel| channel.name.as_str());
                notes.push(format!(
                    "the channel {} has {}, but {first} has {name}, too, and is preferred (channel \
                     priority is strict)",
                    channel.name,
                    spec_text(graph, spec),
                ));
            }
        }
    }
    notes.truncate(MAX_CLASHES);
    notes
}

/// A hint that `python 3.12` means exactly this version.
fn exact_version_note(graph: &Graph<'_>, spec: VersionSetId) -> Option<String> {
    let Spec(bounds) = graph.provider.pool.resolve_version_set(spec);
    let Some(VersionSpec::Exact(EqualityOperator::Equals, exact)) = &bounds.version else {
        return None;
    };
    let id = graph.spec_name(spec);
    let package = graph.provider.package(id);
    let versions = package
        .candidates
        .iter()
        .map(|&it| graph.provider.candidate(it).version());
    let like_it: Vec<_> = versions
        .filter(|version| version.starts_with(exact))
        .collect();
    // Where the version itself is there, something else is missing.
    if like_it.contains(&exact) {
        return None;
    }
    let longer = like_it.into_iter().max()?;
    let name = graph.provider.name(id);
    let spec = spec_text(graph, spec);
    Some(format!(
        "`{spec}` means exactly this version; `{name} {exact}.*` also allows {longer}"
    ))
}

/// `numpy >=2`; only the name when the spec is nothing more.
fn spec_text(graph: &Graph<'_>, spec: VersionSetId) -> String {
    let name = graph.provider.name(graph.spec_name(spec));
    let bounds = bounds(graph, spec);
    if bounds == "*" {
        name.to_owned()
    } else {
        format!("{name} {bounds}")
    }
}

fn bounds(graph: &Graph<'_>, spec: VersionSetId) -> String {
    let Spec(spec) = graph.provider.pool.resolve_version_set(spec);
    tidy(&spec.to_string())
}

struct Writer<'a, 'graph> {
    graph: &'a Graph<'graph>,
    /// Groups that were shown, by their candidates.
    shown: BTreeSet<Vec<usize>>,
}

impl Writer<'_, '_> {
    /// A reason for each group of candidates that fails because of its dependencies. The others are
    /// part of [`Writer::clashes`].
    fn candidates(&mut self, targets: &BTreeSet<usize>, depth: usize) -> Vec<Reason> {
        let mut groups = self.group(targets);
        // The newest first, because it matters most.
        groups.sort_by_key(|group| std::cmp::Reverse(self.newest(&group.nodes)));
        let mut reasons = Vec::new();
        for group in groups {
            let versions = self.versions(&group.nodes);
            let node = &self.graph.nodes[group.nodes[0]];
            if let Some(reason) = node.excluded {
                let reason = self.graph.provider.pool.resolve_string(reason);
                reasons.push(Reason::new(format!("{versions} {reason}"), Vec::new()));
                continue;
            }
            if group.requires.is_empty() && node.constrains.is_empty() {
                continue;
            }
            if !self.shown.insert(group.nodes.clone()) {
                reasons.push(Reason::new(format!("{versions}: see above"), Vec::new()));
                continue;
            }
            reasons.push(self.needs(&versions, &group, depth));
        }
        reasons
    }

    fn needs(&mut self, versions: &str, group: &Group, depth: usize) -> Reason {
        let mut parts = Vec::new();
        let mut because = Vec::new();
        for (specs, targets) in group.requires.values() {
            let mut part = self.alternatives(specs);
            let missing = specs.iter().find(|&&spec| {
                let lacks = |&node: &usize| {
                    self.graph.nodes[node]
                        .requires
                        .get(&spec)
                        .is_some_and(Vec::is_empty)
                };
                group.nodes.iter().any(lacks)
            });
            if let Some(&spec) = missing {
                part = format!("{part} ({})", self.missing(spec));
            }
            parts.push(part);
            if targets.is_empty() {
                continue;
            }
            if depth < MAX_DEPTH {
                because.extend(self.candidates(targets, depth + 1));
            } else if targets
                .iter()
                .any(|&node| !self.graph.nodes[node].requires.is_empty())
            {
                because.push(Reason::new("...", Vec::new()));
            }
        }
        let constrains: BTreeSet<_> = group
            .nodes
            .iter()
            .flat_map(|&node| self.graph.nodes[node].constrains.iter().copied())
            .collect();
        let mut by_name: BTreeMap<NameId, BTreeSet<VersionSetId>> = BTreeMap::new();
        for spec in constrains {
            by_name
                .entry(self.graph.spec_name(spec))
                .or_default()
                .insert(spec);
        }
        let allows: Vec<_> = by_name
            .values()
            .map(|specs| self.alternatives(specs))
            .collect();
        let mut text = versions.to_owned();
        if !parts.is_empty() {
            text = format!("{text} needs {}", join(&parts));
        }
        if !allows.is_empty() {
            let and = if parts.is_empty() { "" } else { " and" };
            text = format!("{text}{and} allows only {}", join(&allows));
        }
        Reason::new(text, because)
    }

    /// Groups candidates by what they need (by name) and what that ends in.
    fn group(&self, targets: &BTreeSet<usize>) -> Vec<Group> {
        type Shape<'a> = (
            Option<NameId>,
            BTreeSet<NameId>,
            BTreeSet<NameId>,
            &'a BTreeSet<Leaf>,
            bool,
        );
        let names = |specs: &mut dyn Iterator<Item = &VersionSetId>| -> BTreeSet<NameId> {
            specs.map(|&spec| self.graph.spec_name(spec)).collect()
        };
        let mut groups: BTreeMap<Shape<'_>, Group> = BTreeMap::new();
        for &index in targets {
            let node: &Node = &self.graph.nodes[index];
            let shape = (
                self.graph.name_of(index),
                names(&mut node.requires.keys()),
                names(&mut node.constrains.iter()),
                &node.leaves,
                node.excluded.is_some(),
            );
            let group = groups.entry(shape).or_insert_with(|| Group {
                nodes: Vec::new(),
                requires: BTreeMap::new(),
            });
            group.nodes.push(index);
            for (&spec, targets) in &node.requires {
                let name = self.graph.spec_name(spec);
                let (specs, candidates) = group.requires.entry(name).or_default();
                specs.insert(spec);
                candidates.extend(targets);
            }
        }
        groups.into_values().collect()
    }

    fn newest(&self, nodes: &[usize]) -> Option<u32> {
        self.solvables(nodes)
            .map(|it| self.graph.provider.candidate(it).version_rank)
            .max()
    }

    fn solvables(&self, nodes: &[usize]) -> impl Iterator<Item = SolvableId> {
        nodes
            .iter()
            .filter_map(|&node| self.graph.nodes[node].solvable)
    }

    /// `numpy 1.26.4`, `numpy 1.20-1.26.4 (12 versions)`.
    fn versions(&self, nodes: &[usize]) -> String {
        let solvables: Vec<_> = self.solvables(nodes).collect();
        let Some(&first) = solvables.first() else {
            return String::new();
        };
        let id = self.graph.provider.pool.resolve_solvable(first).name;
        let name = self.graph.provider.name(id);
        format!("{name} {}", self.version_range(id, &solvables))
    }

    /// The oldest and the newest version, and how many different ones there are.
    fn span(&self, solvables: &[SolvableId]) -> (String, String, usize) {
        let versions: BTreeMap<u32, &SolvableId> = solvables
            .iter()
            .map(|it| (self.graph.provider.candidate(*it).version_rank, it))
            .collect();
        let show = |it: Option<(&u32, &&SolvableId)>| {
            it.map(|(_, it)| self.graph.provider.candidate(**it).version().to_string())
                .unwrap_or_default()
        };
        (
            show(versions.first_key_value()),
            show(versions.last_key_value()),
            versions.len(),
        )
    }

    fn version_range(&self, name: NameId, solvables: &[SolvableId]) -> String {
        let provider = self.graph.provider;
        let (oldest, newest, count) = self.span(solvables);
        match (count, solvables) {
            (1, &[one]) => {
                // One build of several is named by its build string.
                let rank = provider.candidate(one).version_rank;
                let all = &provider.package(name).candidates;
                let builds = all
                    .iter()
                    .filter(|&&it| provider.candidate(it).version_rank == rank)
                    .count();
                match provider.candidate(one).record() {
                    Some(record) if builds > 1 => {
                        format!("{oldest} {}", record.package_record.build)
                    }
                    _ => oldest,
                }
            }
            (0 | 1, _) => oldest,
            (2, _) => format!("{oldest} and {newest}"),
            (count, _) => format!("{oldest} to {newest} ({count} versions)"),
        }
    }

    /// The specs of one name: `numpy >=1.20 or >=1.26`.
    fn alternatives(&self, specs: &BTreeSet<VersionSetId>) -> String {
        let Some(&first) = specs.first() else {
            return String::new();
        };
        let name = self.graph.provider.name(self.graph.spec_name(first));
        let (bounds, count) = self.bounds(specs);
        match (bounds.as_str(), count) {
            ("*", _) => name.to_owned(),
            (bounds, count) if count > MAX_ALTERNATIVES => {
                format!("{name} {bounds} ({count} different bounds)")
            }
            (bounds, _) => format!("{name} {bounds}"),
        }
    }

    /// The same without the name, and how many there are.
    fn bounds(&self, specs: &BTreeSet<VersionSetId>) -> (String, usize) {
        let mut all: Vec<_> = specs.iter().map(|&spec| bounds(self.graph, spec)).collect();
        all.sort_by_key(|bounds| natural(bounds));
        all.dedup();
        let text = match all.as_slice() {
            [first, .., last] if all.len() > MAX_ALTERNATIVES => {
                format!("{first} or ... or {last}")
            }
            all => all.join(" or "),
        };
        (text, all.len())
    }

    /// Why there is no candidate for a spec, after a name or in brackets.
    fn missing(&self, spec: VersionSetId) -> String {
        let id = self.graph.spec_name(spec);
        let name = self.graph.provider.name(id);
        let package = self.graph.provider.package(id);
        if is_virtual(name) {
            return match package.candidates.as_slice() {
                [] => format!("this machine has no {name}"),
                all => format!("this machine has {name} {}", self.version_range(id, all)),
            };
        }
        if let Some(builds) = self.other_builds(spec) {
            return format!("the channels have other builds: {builds}");
        }
        match package.candidates.as_slice() {
            [] if !package.unreadable.is_empty() => package.unreadable.join("; "),
            [] => "no channel has it".to_owned(),
            all => match self.span(all) {
                (oldest, newest, count) if count > 2 => {
                    format!("the channels have {count} other versions, {oldest} to {newest}")
                }
                _ => format!(
                    "the channels have only {name} {}",
                    self.version_range(id, all)
                ),
            },
        }
    }

    /// The builds of the version that a spec asks for, where only its build is missing.
    fn other_builds(&self, spec: VersionSetId) -> Option<String> {
        let provider = self.graph.provider;
        let Spec(bounds) = provider.pool.resolve_version_set(spec);
        bounds.build.as_ref()?;
        let package = provider.package(self.graph.spec_name(spec));
        let builds: BTreeSet<_> = package
            .candidates
            .iter()
            .map(|&it| provider.candidate(it))
            .filter(|it| {
                bounds
                    .version
                    .as_ref()
                    .is_none_or(|version| version.matches(it.version()))
            })
            .filter_map(|it| Some(it.record()?.package_record.build.to_string()))
            .collect();
        let builds: Vec<_> = builds.into_iter().collect();
        (!builds.is_empty()).then(|| join(&builds))
    }

    /// The names of which two candidates are required, or one that is forbidden, and by which.
    fn clashes(&self) -> Vec<Reason> {
        let constrains = self.graph.nodes.iter().flat_map(|node| &node.constrains);
        let mut names: BTreeSet<_> = constrains.map(|&spec| self.graph.spec_name(spec)).collect();
        names.extend(&self.graph.clashes);
        let mut reasons = Vec::new();
        for name in names {
            let text = self.graph.provider.name(name);
            if is_virtual(text) {
                let all = &self.graph.provider.package(name).candidates;
                let offered = format!("this machine has {text} {}", self.version_range(name, all));
                reasons.push(Reason::new(offered, Vec::new()));
                continue;
            }
            let required = self.required(name);
            let different: BTreeSet<_> = required.values().flatten().collect();
            if different.len() < 2 {
                continue;
            }
            let parts: Vec<_> = required
                .iter()
                .map(|(who, specs)| match self.bounds(specs).0.as_str() {
                    "*" => format!("any ({who})"),
                    bounds => format!("{bounds} ({who})"),
                })
                .collect();
            let text = format!("{text} is required as {} at once", join(&parts));
            reasons.push(Reason::new(text, Vec::new()));
        }
        reasons.truncate(MAX_CLASHES);
        reasons
    }

    /// The dependents of a name → the specs they require.
    fn required(&self, name: NameId) -> BTreeMap<String, BTreeSet<VersionSetId>> {
        let mut by_dependent: BTreeMap<String, BTreeSet<VersionSetId>> = BTreeMap::new();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let who = |at_root: &str| match self.graph.name_of(index) {
                Some(name) => format!("for {}", self.graph.provider.name(name)),
                None => at_root.to_owned(),
            };
            let requires = node.requires.keys().map(|spec| (spec, "requested"));
            let constrains = node.constrains.iter().map(|spec| (spec, "pinned"));
            for (&spec, at_root) in requires.chain(constrains) {
                if self.graph.spec_name(spec) == name {
                    by_dependent.entry(who(at_root)).or_default().insert(spec);
                }
            }
        }
        by_dependent
    }
}

/// `a, b and c`; of many, some.
fn join(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if parts.len() <= MAX_CLASHES => {
            format!("{} and {last}", first.join(", "))
        }
        many => format!(
            "{} and {} more",
            many[..MAX_CLASHES - 1].join(", "),
            many.len() - MAX_CLASHES + 1
        ),
    }
}

/// A key for the natural order of bounds: `>=3.9` before `>=3.10`.
fn natural(text: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(letters);
        let digits = after
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after.len());
        let (number, after) = after.split_at(digits);
        parts.push((number.parse().unwrap_or(u64::MAX), word.to_owned()));
        rest = after;
    }
    parts
}
