//! What a scenario file says.

use std::path::Path;

use serde::Deserialize;

/// Mirrors, clients and what befalls them. Times are in seconds from the start of the session,
/// rates in bytes per second.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// One sentence for the page.
    pub(crate) about: String,
    pub(crate) clients: Clients,
    pub(crate) mirrors: Vec<Group>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clients {
    #[serde(default = "one")]
    pub(crate) count: usize,
    /// They arrive evenly over this time.
    #[serde(default)]
    pub(crate) arrive_over: f64,
    /// Files per client.
    pub(crate) files: usize,
    /// Files under way at a time.
    pub(crate) parallel: usize,
    /// The median size of a file, in bytes.
    pub(crate) bytes: f64,
    /// Sizes are log-normal with this standard deviation of the logarithm.
    #[serde(default)]
    pub(crate) spread: f64,
    /// No file is larger, in bytes.
    pub(crate) most_bytes: f64,
    /// The share of files that change under their name.
    #[serde(default)]
    pub(crate) metadata: f64,
    /// What a client's own line carries.
    pub(crate) line: Option<f64>,
    /// How differently far the same mirror is from different clients: standard deviation of the
    /// logarithm of its latency.
    #[serde(default)]
    pub(crate) distance: f64,
    /// What the clients know beforehand.
    #[serde(default)]
    pub(crate) state: State,
}

/// What clients know at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// What a session of an hour ago has learnt.
    #[default]
    Earlier,
    /// Nothing.
    None,
    /// What a session of an hour ago has learnt, in a network where everything was as `elsewhere`
    /// says.
    OtherNetwork,
}

/// Mirrors of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: String,
    #[serde(default = "one")]
    pub(crate) count: usize,
    /// The mean time to the first byte.
    pub(crate) first_byte: f64,
    /// Standard deviation of the logarithm of the same.
    #[serde(default = "usual_jitter")]
    pub(crate) jitter: f64,
    /// What one connection carries at the most.
    pub(crate) per_connection: f64,
    /// What all connections together carry.
    pub(crate) capacity: f64,
    /// When given, the capacities of the group rise evenly (as logarithms) to this.
    pub(crate) capacity_to: Option<f64>,
    /// Whether the list tells the capacity as a weight, as that of a mirror network does.
    #[serde(default)]
    pub(crate) weighted: bool,
    #[serde(default)]
    pub(crate) faults: Faults,
    /// What it was like in the network of the earlier session.
    pub(crate) elsewhere: Option<Elsewhere>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Elsewhere {
    pub(crate) first_byte: f64,
    pub(crate) per_connection: f64,
}

/// What goes wrong. Shares are of requests, unless said otherwise.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    /// Answered with an error of the server.
    pub(crate) errors: f64,
    /// Reset somewhere in the body.
    pub(crate) resets: f64,
    /// Without another byte from somewhere in the body on.
    pub(crate) stalls: f64,
    /// Never answered.
    pub(crate) hangs: f64,
    /// Files (not requests) that it does not have.
    pub(crate) lacks: f64,
    /// Files (not requests) of which it has a wrong body.
    pub(crate) lies: f64,
    /// Whether its metadata is old.
    pub(crate) behind: bool,
    /// From when to when it is down; requests then hang.
    pub(crate) down: Vec<(f64, f64)>,
    /// It comes and goes; requests are refused while it is gone.
    pub(crate) flapping: Option<Flapping>,
    /// From each time on it has this share of its speed.
    pub(crate) speed: Vec<(f64, f64)>,
    /// It answers 429 to a client that asks for more.
    pub(crate) limit: Option<Limit>,
    /// Beyond this number of connections its capacity falls with the square of their number, and it
    /// refuses some.
    pub(crate) collapses_at: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flapping {
    /// The time from one failure to the next.
    pub(crate) period: f64,
    /// The share of it in which it works.
    pub(crate) up: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    /// Connections per client.
    pub(crate) connections: Option<usize>,
    /// Requests per second and client.
    pub(crate) per_second: Option<f64>,
    /// What it asks for, if anything.
    pub(crate) retry_after: Option<f64>,
}

fn one() -> usize {
    1
}

fn usual_jitter() -> f64 {
    0.25
}

impl Scenario {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let scenario: Self =
            toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        scenario
            .check()
            .map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(scenario)
    }

    /// A scenario that cannot be simulated is refused here rather than run forever.
    fn check(&self) -> Result<(), &'static str> {
        let clients = &self.clients;
        if clients.count == 0 || clients.files == 0 || clients.parallel == 0 {
            return Err("there must be clients, files, and some under way at a time");
        }
        if !(clients.bytes >= 1.0 && clients.most_bytes >= 1.0) {
            return Err("files have at least one byte");
        }
        if self.mirrors.iter().all(|group| group.count == 0) {
            return Err("there must be mirrors");
        }
        for group in &self.mirrors {
            let rates = [group.per_connection, group.capacity, group.first_byte];
            if rates.iter().any(|&x| !(x > 0.0 && x.is_finite())) {
                return Err("a mirror's rates and times are above zero");
            }
            if group
                .faults
                .flapping
                .as_ref()
                .is_some_and(|f| f.period.is_nan() || f.period <= 0.01)
            {
                return Err("a period is longer than 0.01 seconds");
            }
        }
        Ok(())
    }
}
