//! The state of a script: used rules and unexpected requests.

use std::fmt;

use crate::behaviour::{Behaviour, Fault, Times};

/// The unexpected requests and unused rules of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    /// `METHOD path` of each request that no rule matched; only a strict script collects them.
    pub unexpected: Vec<String>,
    /// Each rule of [`Times::N`] that was not used up, with the remaining times.
    pub unused: Vec<String>,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the script did not run as written")?;
        for request in &self.unexpected {
            write!(f, "\n  unexpected request: {request}")?;
        }
        for step in &self.unused {
            write!(f, "\n  unused step: {step}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ScriptError {}

#[derive(Debug, Default)]
pub(crate) struct Run {
    behaviour: Behaviour,
    used: Vec<u32>,
    unexpected: Vec<String>,
    /// The failures of earlier strict scripts.
    earlier: Vec<ScriptError>,
    /// Whether the script was verified since the last request.
    heard: bool,
}

impl Run {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self {
            used: vec![0; behaviour.script.rules.len()],
            behaviour,
            ..Self::default()
        }
    }

    /// Replaces the script.
    pub(crate) fn replace(&mut self, behaviour: Behaviour) {
        let unheard = self.unheard_verdict();
        let mut earlier = std::mem::take(&mut self.earlier);
        if unheard.is_some() {
            earlier.extend(self.own_verdict().err());
        }
        *self = Self {
            earlier,
            ..Self::new(behaviour)
        };
    }

    /// The failures of a strict script that were not reported yet.
    pub(crate) fn unheard_verdict(&self) -> Option<ScriptError> {
        let strict = self.behaviour.script.strict || !self.earlier.is_empty();
        (strict && !self.heard)
            .then(|| self.verdict().err())
            .flatten()
    }

    pub(crate) fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Finds the rule for a request and uses it once.
    pub(crate) fn decide(&mut self, method: &str, path: &str, ranged: bool) -> Fault {
        self.heard = false;
        for (rule, used) in self.behaviour.script.rules.iter().zip(&mut self.used) {
            let left = match rule.times {
                Times::Always => true,
                Times::N(n) => *used < n,
            };
            if left && rule.matches.matches(method, path, ranged) {
                *used = used.saturating_add(1);
                return rule.fault.clone();
            }
        }
        if self.behaviour.script.strict {
            self.unexpected.push(format!("{method} {path}"));
        }
        Fault::None
    }

    pub(crate) fn verify(&mut self) -> Result<(), ScriptError> {
        self.heard = true;
        self.verdict()
    }

    fn verdict(&self) -> Result<(), ScriptError> {
        let mut all = self.earlier.clone();
        all.extend(self.own_verdict().err());
        all.into_iter()
            .reduce(|mut sum, next| {
                sum.unexpected.extend(next.unexpected);
                sum.unused.extend(next.unused);
                sum
            })
            .map_or(Ok(()), Err)
    }

    fn own_verdict(&self) -> Result<(), ScriptError> {
        let unused: Vec<String> = self
            .behaviour
            .script
            .rules
            .iter()
            .zip(&self.used)
            .filter_map(|(rule, used)| match rule.times {
                Times::N(n) if *used < n => Some(format!(
                    "{:?} for {:?}: used {used} of {n}",
                    rule.fault, rule.matches
                )),
                _ => None,
            })
            .collect();
        if unused.is_empty() && self.unexpected.is_empty() {
            Ok(())
        } else {
            Err(ScriptError {
                unexpected: self.unexpected.clone(),
                unused,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{Matcher, Rule, Script};

    #[test]
    fn the_first_matching_rule_that_is_not_used_up_applies() {
        let script = Script::new()
            .rule(Rule::once(Matcher::suffix(".zst"), Fault::Html))
            .rule(Rule::times(2, Matcher::method("GET"), Fault::Hang))
            .strict();
        let mut run = Run::new(Behaviour::new().with_script(script));
        assert_eq!(run.decide("GET", "a.zst", false).name(), Some("html"));
        assert_eq!(run.decide("GET", "a.zst", false).name(), Some("hang"));
        assert_eq!(run.verify().unwrap_err().unused.len(), 1);
        assert_eq!(run.decide("GET", "b", false).name(), Some("hang"));
        assert_eq!(run.verify(), Ok(()));
        assert_eq!(run.decide("GET", "b", false).name(), None);
        assert_eq!(run.verify().unwrap_err().unexpected, ["GET b"]);
    }

    #[test]
    fn failures_of_a_strict_script_are_reported_once_and_survive_its_replacement() {
        let strict = || Behaviour::new().with_script(Script::new().strict());
        let mut run = Run::new(strict());
        assert_eq!(run.unheard_verdict(), None);
        run.decide("GET", "a", false);
        assert_eq!(run.unheard_verdict().unwrap().unexpected, ["GET a"]);
        run.replace(Behaviour::new());
        run.decide("GET", "b", false);
        assert_eq!(run.unheard_verdict().unwrap().unexpected, ["GET a"]);
        assert_eq!(run.verify().unwrap_err().unexpected, ["GET a"]);
        assert_eq!(run.unheard_verdict(), None);
        // A reported failure is not reported again by the next script.
        let mut run = Run::new(strict());
        run.decide("GET", "a", false);
        assert!(run.verify().is_err());
        run.replace(strict());
        assert_eq!(run.verify(), Ok(()));
    }

    #[test]
    fn a_script_that_is_not_strict_reports_no_failures() {
        let rule = Rule::once(Matcher::Any, Fault::Hang);
        let mut run = Run::new(Behaviour::new().with_rule(rule));
        assert_eq!(run.unheard_verdict(), None);
        assert_eq!(run.verify().unwrap_err().unused.len(), 1);
    }
}
