//! Refuses requests that have no solution, as far as that is visible without a search.

use rattler_conda_types::RepoDataRecord;
use taipan_channel::ChannelIndexes;

use crate::{
    error::{SolveError, UnknownPackage},
    request::SolveRequest,
    spec::{exact_name, is_channel, is_virtual},
    suggest::suggestions,
};

/// Refuses what can be seen to have no solution without a search.
pub(crate) fn check(request: &SolveRequest) -> Result<(), SolveError> {
    for spec in request.specs.iter().chain(&request.pins) {
        if exact_name(spec).is_none() {
            return Err(SolveError::NotOneName {
                spec: spec.to_string(),
            });
        }
    }
    let mut packages = Vec::new();
    for spec in &request.specs {
        let allowed = |channel: &&ChannelIndexes| {
            spec.channel
                .as_ref()
                .is_none_or(|wanted| is_channel(wanted, channel))
        };
        let allowed: Vec<_> = request.channels.iter().filter(allowed).collect();
        if let Some(wanted) = spec.channel.as_ref().filter(|_| allowed.is_empty()) {
            return Err(SolveError::UnknownChannel {
                spec: spec.to_string(),
                channel: wanted.name().to_owned(),
            });
        }
        let Some(name) = exact_name(spec) else {
            continue;
        };
        let installed = |record: &RepoDataRecord| record.package_record.name == *name;
        if is_virtual(name.as_normalized())
            || allowed.iter().any(|channel| channel.contains(name))
            || request.installed.iter().any(installed)
        {
            continue;
        }
        let elsewhere = request
            .channels
            .iter()
            .filter(|channel| channel.contains(name));
        let mut suggestions: Vec<_> = elsewhere
            .map(|channel| format!("{}::{}", channel.name, name.as_source()))
            .collect();
        if suggestions.is_empty() {
            suggestions = self::suggestions(request, name.as_normalized());
        }
        packages.push(UnknownPackage {
            spec: spec.to_string(),
            name: name.as_source().to_owned(),
            channels: allowed.iter().map(|channel| channel.name.clone()).collect(),
            suggestions,
        });
    }
    if packages.is_empty() {
        Ok(())
    } else {
        Err(SolveError::UnknownPackage { packages })
    }
}
