//! What the runs come to, as numbers, a table and JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::engine::Outcome;
use crate::policy::Name;
use crate::scenario::Scenario;

/// One policy in one scenario, over all seeds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) policy: &'static str,
    pub(crate) seeds: usize,
    pub(crate) files: usize,
    /// Files that were not had; each counts as 300 s.
    pub(crate) failed: usize,
    /// Seconds per file.
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) mean_ratio: f64,
    pub(crate) p99_ratio: f64,
    /// Seconds of a whole session, on average.
    pub(crate) session: f64,
    pub(crate) session_ratio: f64,
    /// Bytes fetched twice, over the bytes of the files.
    pub(crate) extra_bytes: f64,
    /// Of all mirrors the largest share of bytes over share of capacity, on average over the seeds.
    pub(crate) largest_load: f64,
    /// The same in the worst seed.
    pub(crate) largest_load_worst: f64,
    /// Seconds below which each twentieth of the files stays.
    #[serde(skip)]
    pub(crate) quantiles: Vec<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
pub(crate) fn summarise(
    scenario: &Scenario,
    name: Name,
    outcomes: &[Outcome],
    base: Option<&Row>,
) -> Row {
    let mut times: Vec<f32> = outcomes
        .iter()
        .flat_map(|o| o.times.iter().copied())
        .collect();
    times.sort_by(f32::total_cmp);
    let n = outcomes.len().max(1) as f64;
    let mean = times.iter().map(|&t| f64::from(t)).sum::<f64>() / times.len().max(1) as f64;
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = (share * times.len() as f64) as usize;
        times
            .get(index.min(times.len().saturating_sub(1)))
            .map_or(0.0, |&t| f64::from(t))
    };
    let sum = |f: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(f).sum::<f64>();
    let largest = |o: &Outcome| o.loads.iter().copied().fold(0.0, f64::max);
    let session = sum(&|o| o.session) / n;
    let ratio =
        |value: f64, of: &dyn Fn(&Row) -> f64| base.map_or(1.0, |row| value / of(row).max(1e-9));
    Row {
        scenario: scenario.name.clone(),
        policy: name.text(),
        seeds: outcomes.len(),
        files: times.len(),
        failed: outcomes.iter().map(|o| o.failed).sum(),
        mean,
        p50: at(0.5),
        p99: at(0.99),
        mean_ratio: ratio(mean, &|row| row.mean),
        p99_ratio: ratio(at(0.99), &|row| row.p99),
        session,
        session_ratio: ratio(session, &|row| row.session),
        extra_bytes: sum(&|o| o.wasted) / sum(&|o| o.needed).max(1.0),
        largest_load: sum(&largest) / n,
        largest_load_worst: outcomes.iter().map(largest).fold(0.0, f64::max),
        quantiles: (0..=100).map(|i| at(f64::from(i) / 100.0)).collect(),
    }
}

impl Row {
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names")
    }
}

pub(crate) fn render(scenario: &Scenario, rows: &[Row]) -> String {
    let mut text = format!("{}: {}\n", scenario.name, scenario.about);
    let _ = writeln!(
        text,
        "  {:<12} {:>8} {:>8} {:>8} {:>6} {:>6} {:>8} {:>6} {:>6} {:>6} {:>6}",
        "policy",
        "mean s",
        "p50 s",
        "p99 s",
        "×mean",
        "×p99",
        "session",
        "×sess",
        "extra",
        "load",
        "failed"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "  {:<12} {:>8.3} {:>8.3} {:>8.3} {:>6.2} {:>6.2} {:>8.2} {:>6.2} {:>5.1}% {:>6.2} {:>6}",
            row.policy,
            row.mean,
            row.p50,
            row.p99,
            row.mean_ratio,
            row.p99_ratio,
            row.session,
            row.session_ratio,
            row.extra_bytes * 100.0,
            row.largest_load,
            row.failed,
        );
    }
    text
}

/// What the library promises, scenario by scenario.
pub(crate) fn verdict(all: &[(Scenario, Vec<Row>)]) -> String {
    let mut text = format!(
        "{:<28} {:>6} {:>6} {:>9} {:>6}\n",
        "taipan against the bounds", "×mean", "×p99", "×best", "extra"
    );
    for (scenario, rows) in all {
        let Some(ours) = rows.iter().find(|row| row.policy == Name::Ours.text()) else {
            continue;
        };
        let mark = |value: f64, most: f64| if value <= most { ' ' } else { '!' };
        let rivals = rows.iter().filter(|row| {
            row.policy != Name::Ours.text() && row.policy != Name::Clairvoyant.text()
        });
        let best = rivals.map(|row| row.mean).fold(f64::INFINITY, f64::min);
        let of_best = ours.mean / best;
        let _ = writeln!(
            text,
            "{:<28} {:>5.2}{} {:>5.2}{} {:>8.2}{} {:>5.1}%{}",
            scenario.name,
            ours.mean_ratio,
            mark(ours.mean_ratio, 1.15),
            ours.p99_ratio,
            mark(ours.p99_ratio, 1.5),
            of_best,
            mark(of_best, 1.02),
            ours.extra_bytes * 100.0,
            mark(ours.extra_bytes, 0.05),
        );
    }
    text
}
