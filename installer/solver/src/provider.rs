//! What resolvo needs: candidates, which of them a spec matches, and their dependencies.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    fmt::Display,
    rc::Rc,
    sync::atomic::Ordering as AtomicOrdering,
    time::Instant,
};

use rattler_conda_types::{
    Channel, MatchSpec, Matches, NamelessMatchSpec, PackageName, ParseMatchSpecOptions,
    RepoDataRecord,
};
use resolvo::{
    Candidates, Condition, ConditionId, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, NameId, SolvableId, SolverCache,
    StringId, VersionSetId, VersionSetUnionId, utils::Pool,
};
use taipan_channel::ChannelIndexes;

use crate::{
    candidate::{Best, Candidate, DependencySpecs, Kind, Package, Spec},
    explanation::SpecOrigin,
    request::{ChannelPriority, Orphans, SolveRequest, UpdatePolicy},
    root_problem::{RootProblem, RootRequirement},
    spec::{exact_name, is_channel, is_virtual, tidy},
};

/// Why a search was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancelled,
    Timeout,
}

/// Supplies searches with candidates. Several searches can share one provider, and what it has read
/// and parsed.
pub(crate) struct Provider<'request> {
    pub(crate) request: &'request SolveRequest,
    pub(crate) pool: Pool<Spec, String>,
    packages: RefCell<HashMap<NameId, Rc<Package>>>,
    /// The text of a dependency → the spec, or the error.
    parsed: RefCell<HashMap<String, Result<VersionSetId, StringId>>>,
    /// For each spec, which of its name's candidates it matches, by [`Candidate::index`].
    matching: RefCell<HashMap<VersionSetId, Rc<[bool]>>>,
    pub(crate) best: RefCell<HashMap<VersionSetId, Option<Best>>>,
    /// Name → the channels of the user's specs for it.
    channel_of: HashMap<String, Vec<std::sync::Arc<Channel>>>,
    pub(crate) deadline: Cell<Option<Instant>>,
}

impl<'request> Provider<'request> {
    pub(crate) fn new(request: &'request SolveRequest, deadline: Option<Instant>) -> Self {
        let mut channel_of: HashMap<String, Vec<_>> = HashMap::new();
        for spec in &request.specs {
            if let (Some(name), Some(channel)) = (exact_name(spec), &spec.channel) {
                let name = name.as_normalized().to_owned();
                channel_of.entry(name).or_default().push(channel.clone());
            }
        }
        Self {
            request,
            pool: Pool::new(),
            packages: RefCell::default(),
            parsed: RefCell::default(),
            matching: RefCell::default(),
            best: RefCell::default(),
            channel_of,
            deadline: Cell::new(deadline),
        }
    }

    /// The root of the problem that the request describes.
    pub(crate) fn root_problem(&self) -> RootProblem {
        let request = self.request;
        let requirement = |origin, spec: &MatchSpec| {
            Some(RootRequirement {
                origin,
                text: tidy(&spec.to_string()),
                version_set: self.intern(spec)?,
            })
        };
        let any = |name: &PackageName| {
            let name = self.pool.intern_package_name(name.as_normalized());
            self.pool
                .intern_version_set(name, Spec(NamelessMatchSpec::default()))
        };
        let requested = request.specs.iter();
        let requested = requested.filter_map(|spec| requirement(SpecOrigin::Requested, spec));
        let pins = request.pins.iter();
        let pins = pins.filter_map(|spec| requirement(SpecOrigin::Pin, spec));
        let orphans = match request.orphans {
            Orphans::Keep => request.installed.as_slice(),
            Orphans::Drop => &[],
        };
        RootProblem {
            virtual_packages: request
                .virtual_packages
                .iter()
                .map(|package| any(&package.name))
                .collect(),
            requirements: requested.chain(pins).collect(),
            orphans: orphans
                .iter()
                .map(|record| &record.package_record.name)
                .filter(|name| !self.is_requested(name))
                .map(any)
                .collect(),
        }
    }

    fn is_requested(&self, name: &PackageName) -> bool {
        let mut specs = self.request.specs.iter();
        specs.any(|spec| exact_name(spec) == Some(name))
    }

    fn intern(&self, spec: &MatchSpec) -> Option<VersionSetId> {
        let name = self
            .pool
            .intern_package_name(exact_name(spec)?.as_normalized());
        let (_, spec) = spec.clone().into_nameless();
        Some(self.pool.intern_version_set(name, Spec(spec)))
    }

    pub(crate) fn record(&self, solvable: SolvableId) -> Option<RepoDataRecord> {
        self.candidate(solvable).record().cloned()
    }

    pub(crate) fn candidate(&self, solvable: SolvableId) -> &Candidate {
        &self.pool.resolve_solvable(solvable).record
    }

    pub(crate) fn name(&self, name: NameId) -> &str {
        self.pool.resolve_package_name(name)
    }

    /// The candidates of a name, which are read when they are first needed.
    pub(crate) fn package(&self, name: NameId) -> Rc<Package> {
        if let Some(package) = self.packages.borrow().get(&name) {
            return package.clone();
        }
        let package = Rc::new(if is_virtual(self.name(name)) {
            self.read_virtual(name)
        } else {
            self.read(name)
        });
        self.packages.borrow_mut().insert(name, package.clone());
        package
    }

    fn read_virtual(&self, name: NameId) -> Package {
        let found: Vec<_> = self
            .request
            .virtual_packages
            .iter()
            .filter(|package| package.name.as_normalized() == self.name(name))
            .map(|package| Found {
                kind: Kind::Virtual(package.clone()),
                channel: 0,
                excluded: None,
            })
            .collect();
        Package {
            candidates: self.add(name, found),
            ..Package::default()
        }
    }

    fn read(&self, name: NameId) -> Package {
        let package_name = PackageName::new_unchecked(self.name(name));
        let mut package = Package::default();
        let mut found = self.read_channels(&package_name, &mut package);
        let installed = self.find_or_add_installed(&package_name, &mut found);
        package.candidates = self.add(name, found);
        package.favored = installed
            .filter(|_| self.favors_installed(&package_name))
            .map(|index| package.candidates[index]);
        package
    }

    /// The records that the channels have of a name. Channels that are hidden by strict priority,
    /// and records that cannot be read, are noted in `package`.
    fn read_channels(&self, name: &PackageName, package: &mut Package) -> Vec<Found> {
        let limited_to = self.channel_of.get(name.as_normalized());
        let is_allowed = |channel: &ChannelIndexes| {
            limited_to.is_none_or(|wanted| wanted.iter().any(|wanted| is_channel(wanted, channel)))
        };
        let mut found = Vec::new();
        let mut is_found = false;
        for (place, channel) in self.request.channels.iter().enumerate() {
            if !is_allowed(channel) || !channel.contains(name) {
                continue;
            }
            if is_found && self.request.channel_priority == ChannelPriority::Strict {
                package.hidden_in.push(place);
                continue;
            }
            is_found = true;
            let (records, errors) = read_channel(channel, name);
            package.unreadable.extend(errors);
            found.extend(records.into_iter().map(|record| Found {
                excluded: self.newer_than_allowed(&record),
                kind: Kind::Record(Box::new(record)),
                channel: place,
            }));
        }
        found
    }

    /// The index of the installed record in `found`, to which it is added if no channel has it.
    fn find_or_add_installed(&self, name: &PackageName, found: &mut Vec<Found>) -> Option<usize> {
        let mut installed = self.request.installed.iter();
        let installed = installed.find(|record| record.package_record.name == *name)?;
        let known = found.iter().position(
            |found| matches!(&found.kind, Kind::Record(record) if is_same_file(record, installed)),
        );
        let index = known.unwrap_or_else(|| {
            found.push(Found {
                kind: Kind::Record(Box::new(installed.clone())),
                channel: self.request.channels.len(),
                excluded: None,
            });
            found.len() - 1
        });
        // It is installed already, so its age is no reason against it.
        found[index].excluded = None;
        Some(index)
    }

    /// Whether the installed record of a name is tried first.
    fn favors_installed(&self, name: &PackageName) -> bool {
        match self.request.update {
            UpdatePolicy::KeepInstalled => true,
            UpdatePolicy::UpdateNamed => !self.is_requested(name),
            UpdatePolicy::UpdateAll => false,
        }
    }

    fn newer_than_allowed(&self, record: &RepoDataRecord) -> Option<StringId> {
        let limit = self.request.exclude_newer?;
        let built = record.package_record.timestamp.as_ref()?.jiff_timestamp();
        (built > limit).then(|| {
            self.pool
                .intern_string(format!("is newer than the limit {limit}"))
        })
    }

    /// Makes solvables of what was found, in that order.
    fn add(&self, name: NameId, found: Vec<Found>) -> Vec<SolvableId> {
        let mut candidates: Vec<_> = found
            .into_iter()
            .enumerate()
            .map(|(index, found)| Candidate {
                kind: found.kind,
                index,
                channel: found.channel,
                version_rank: 0,
                excluded: found.excluded,
                dependencies: OnceCell::new(),
            })
            .collect();
        let mut by_version: Vec<usize> = (0..candidates.len()).collect();
        by_version.sort_by(|&a, &b| candidates[a].version().cmp(candidates[b].version()));
        for pair in 1..by_version.len() {
            let (lower, higher) = (by_version[pair - 1], by_version[pair]);
            // By order, not by equality: 1.0 and 1.0.0 are one version, written differently.
            let step = u32::from(candidates[lower].version() < candidates[higher].version());
            candidates[higher].version_rank = candidates[lower].version_rank + step;
        }
        candidates
            .into_iter()
            .map(|candidate| self.pool.intern_solvable(name, candidate))
            .collect()
    }

    /// Which candidates of its name a spec matches, by [`Candidate::index`].
    pub(crate) fn matching(&self, version_set: VersionSetId) -> Rc<[bool]> {
        if let Some(matching) = self.matching.borrow().get(&version_set) {
            return matching.clone();
        }
        let Spec(spec) = self.pool.resolve_version_set(version_set);
        let package = self.package(self.pool.resolve_version_set_package_name(version_set));
        // Comparing versions is expensive, and many candidates share one.
        let mut versions: HashMap<u32, bool> = HashMap::new();
        let matching: Rc<[bool]> = package
            .candidates
            .iter()
            .map(|&solvable| {
                let candidate = self.candidate(solvable);
                let version = spec.version.as_ref().is_none_or(|version| {
                    *versions
                        .entry(candidate.version_rank)
                        .or_insert_with(|| version.matches(candidate.version()))
                });
                version && self.matches_apart_from_version(spec, candidate)
            })
            .collect();
        self.matching
            .borrow_mut()
            .insert(version_set, matching.clone());
        matching
    }

    /// For each of the user's specs for a name, which candidates it matches.
    pub(crate) fn requested(&self, name: NameId) -> Vec<Rc<[bool]>> {
        let specs = self.request.specs.iter().filter(|spec| {
            exact_name(spec).is_some_and(|exact| exact.as_normalized() == self.name(name))
        });
        specs
            .filter_map(|spec| Some(self.matching(self.intern(spec)?)))
            .collect()
    }

    fn matches_apart_from_version(&self, spec: &NamelessMatchSpec, candidate: &Candidate) -> bool {
        match &candidate.kind {
            Kind::Virtual(package) => spec
                .build
                .as_ref()
                .is_none_or(|build| build.matches(package.build_string.as_str())),
            Kind::Record(record) => {
                let channel = spec.channel.as_ref().is_none_or(|wanted| {
                    match self.request.channels.get(candidate.channel) {
                        Some(channel) => is_channel(wanted, channel),
                        None => record.channel.as_deref().is_some_and(|url| {
                            url.trim_end_matches('/')
                                == wanted.canonical_name().trim_end_matches('/')
                        }),
                    }
                });
                let subdir = &record.package_record.subdir;
                channel
                    && spec.subdir.as_ref().is_none_or(|wanted| wanted == subdir)
                    && spec
                        .file_name
                        .as_ref()
                        .is_none_or(|wanted| *wanted == record.identifier.to_file_name())
                    && without_version(spec).matches(&**record)
            }
        }
    }

    /// The parsed dependencies of a candidate, or the error.
    pub(crate) fn dependencies(&self, solvable: SolvableId) -> Result<&DependencySpecs, StringId> {
        let candidate = self.candidate(solvable);
        let dependencies = candidate.dependencies.get_or_init(|| {
            let Some(record) = candidate.record() else {
                return Ok(DependencySpecs::default());
            };
            let parse = |texts: &[String]| {
                texts
                    .iter()
                    .map(|text| self.parse(text))
                    .collect::<Result<Vec<_>, _>>()
            };
            let mut dependencies = DependencySpecs {
                requires: parse(&record.package_record.depends)?,
                constrains: parse(&record.package_record.constrains)?,
            };
            self.resolve_self_dependencies(solvable, &mut dependencies)?;
            Ok(dependencies)
        });
        dependencies.as_ref().map_err(|&reason| reason)
    }

    /// Removes dependencies on the candidate's own name, which resolvo does not support. A
    /// candidate that does not satisfy its own dependency can never be chosen.
    fn resolve_self_dependencies(
        &self,
        solvable: SolvableId,
        dependencies: &mut DependencySpecs,
    ) -> Result<(), StringId> {
        let name = self.pool.resolve_solvable(solvable).name;
        let index = self.candidate(solvable).index;
        for specs in [&mut dependencies.requires, &mut dependencies.constrains] {
            let is_own =
                |&spec: &VersionSetId| self.pool.resolve_version_set_package_name(spec) == name;
            if let Some(spec) = specs
                .iter()
                .copied()
                .filter(is_own)
                .find(|&spec| !self.matching(spec)[index])
            {
                let Spec(bounds) = self.pool.resolve_version_set(spec);
                let text = tidy(&format!("{} {bounds}", self.name(name)));
                return Err(self.pool.intern_string(format!(
                    "requires `{text}`, which it does not satisfy itself"
                )));
            }
            specs.retain(|spec| !is_own(spec));
        }
        Ok(())
    }

    fn parse(&self, text: &str) -> Result<VersionSetId, StringId> {
        if let Some(parsed) = self.parsed.borrow().get(text) {
            return *parsed;
        }
        let parsed = MatchSpec::from_str(text, ParseMatchSpecOptions::lenient())
            .map_err(|error| error.to_string())
            .and_then(|spec| {
                self.intern(&spec)
                    .ok_or_else(|| "it does not name one package".to_owned())
            })
            .map_err(|error| {
                let reason = format!("has the invalid dependency `{text}`: {error}");
                self.pool.intern_string(reason)
            });
        self.parsed.borrow_mut().insert(text.to_owned(), parsed);
        parsed
    }
}

/// A future candidate.
struct Found {
    kind: Kind,
    /// The index of its channel in the request.
    channel: usize,
    /// Why it must not be chosen.
    excluded: Option<StringId>,
}

/// The readable records of one channel, and the errors of the others.
pub(crate) fn read_channel(
    channel: &ChannelIndexes,
    name: &PackageName,
) -> (Vec<RepoDataRecord>, Vec<String>) {
    let mut records = Vec::new();
    let mut errors = Vec::new();
    for index in &channel.indexes {
        match index.records(name) {
            Ok((found, _)) => records.extend(found),
            Err(error) => errors.push(with_causes(&error)),
        }
    }
    (records, errors)
}

/// The text of an error and of its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn is_same_file(record: &RepoDataRecord, installed: &RepoDataRecord) -> bool {
    let (a, b) = (&record.package_record, &installed.package_record);
    record.identifier == installed.identifier
        && a.subdir == b.subdir
        && match (a.sha256, b.sha256, a.md5, b.md5) {
            (Some(a), Some(b), ..) => a == b,
            (_, _, Some(a), Some(b)) => a == b,
            _ => record.url == installed.url,
        }
}

fn without_version(spec: &NamelessMatchSpec) -> std::borrow::Cow<'_, NamelessMatchSpec> {
    if spec.version.is_none() {
        return std::borrow::Cow::Borrowed(spec);
    }
    std::borrow::Cow::Owned(NamelessMatchSpec {
        version: None,
        ..spec.clone()
    })
}

impl Interner for &Provider<'_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        self.candidate(solvable)
    }

    fn display_name(&self, name: NameId) -> impl Display + '_ {
        self.name(name)
    }

    fn display_version_set(&self, version_set: VersionSetId) -> impl Display + '_ {
        &self.pool.resolve_version_set(version_set).0
    }

    fn display_string(&self, string: StringId) -> impl Display + '_ {
        self.pool.resolve_string(string)
    }

    fn version_set_name(&self, version_set: VersionSetId) -> NameId {
        self.pool.resolve_version_set_package_name(version_set)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        self.pool.resolve_solvable(solvable).name
    }

    fn version_sets_in_union(
        &self,
        union: VersionSetUnionId,
    ) -> impl Iterator<Item = VersionSetId> {
        self.pool.resolve_version_set_union(union)
    }

    fn resolve_condition(&self, condition: ConditionId) -> Condition {
        self.pool.resolve_condition(condition).clone()
    }
}

impl DependencyProvider for &Provider<'_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        version_set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let matching = self.matching(version_set);
        candidates
            .iter()
            .copied()
            .filter(|&solvable| matching[self.candidate(solvable).index] != inverse)
            .collect()
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let package = self.package(name);
        let excluded = package
            .candidates
            .iter()
            .filter_map(|&solvable| Some((solvable, self.candidate(solvable).excluded?)))
            .collect();
        Some(Candidates {
            candidates: package.candidates.clone(),
            favored: package.favored,
            excluded,
            // With fewer known dependencies the search is faster, but more often finds older
            // versions.
            hint_dependencies_available: HintDependenciesAvailable::All,
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _solver: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        self.sort(solvables);
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        match self.dependencies(solvable) {
            Ok(dependencies) => Dependencies::Known(KnownDependencies {
                requirements: dependencies
                    .requires
                    .iter()
                    .copied()
                    .map(Into::into)
                    .collect(),
                constrains: dependencies.constrains.clone(),
            }),
            Err(reason) => Dependencies::Unknown(reason),
        }
    }

    fn should_cancel_with_value(&self) -> Option<Box<dyn Any>> {
        let cancel = self.request.cancel.as_ref();
        if cancel.is_some_and(|cancel| cancel.load(AtomicOrdering::Relaxed)) {
            return Some(Box::new(Stop::Cancelled));
        }
        let late = self
            .deadline
            .get()
            .is_some_and(|deadline| Instant::now() >= deadline);
        late.then(|| Box::new(Stop::Timeout) as Box<dyn Any>)
    }
}
