//! `taipan mirror probe`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use taipan_channel::MirroredChannel;
use taipan_channel::{looks_like_repodata, probe_candidates};
use taipan_mirrors::{
    Freshness, Location, MirrorId, MirrorReport, ProbeConfig, ProbeKind, ProbeResult, Verdict,
};
use taipan_transfer::{
    Engine, ProbeDetail, ProbeObserver, ProbeRanking, ProbeRound, Probed, Silent,
};

use super::mirror_list::milliseconds;
use crate::{
    args::ProbeArgs,
    context::{ChannelSelection, Context},
    error::AppError,
    exit::Exit,
    interrupt::Interrupt,
    printer::{Printer, bytes, clean, rate, table},
    settings::Settings,
};

/// The time for measuring the best mirrors a second time, in addition to the timeout per mirror.
const SECOND_MEASUREMENT: Duration = Duration::from_secs(1);

/// How many mirrors are in the table without `--verbose`.
const MAX_ROWS: usize = 30;

/// The maximum number of lines of the live table.
const MAX_LINES: usize = 24;

/// Measures and ranks the mirrors of channels, and saves the measurements.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &ProbeArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let wanted = if args.source.channels.is_empty() {
        ChannelSelection::Listed
    } else {
        ChannelSelection::Settings
    };
    let timeout = Duration::try_from_secs_f64(args.timeout)
        .ok()
        .filter(|timeout| (0.05..=600.0).contains(&timeout.as_secs_f64()))
        .ok_or(AppError::ProbeTimeout)?;
    let context = interrupt.or(Context::new(settings, wanted, printer)).await;
    let context = context.ok_or(AppError::Interrupted)??;
    let mut config = ProbeConfig {
        time: timeout + SECOND_MEASUREMENT,
        probe_time: timeout,
        ..ProbeConfig::default()
    };
    if args.all {
        config.fresh = Duration::ZERO;
    }
    let platform = settings.platform.value.to_string();
    let engine = context.engine(Arc::new(Silent));
    let rounds = async {
        let mut unusable = Vec::new();
        for place in &context.channels {
            if !round(printer, &engine, place, &platform, &config).await {
                unusable.push(place.channel.to_string());
            }
        }
        unusable
    };
    let unusable = interrupt.or(rounds).await;
    // Also after an interruption: the measurements remain valid.
    context.save();
    match unusable.ok_or(AppError::Interrupted)? {
        channels if channels.is_empty() => Ok(Exit::Done),
        channels => Err(AppError::NoUsableMirror { channels }),
    }
}

/// Probes the mirrors of one channel and prints the ranking. Returns whether any is usable.
async fn round(
    printer: &Printer,
    engine: &Engine,
    place: &MirroredChannel,
    platform: &str,
    config: &ProbeConfig,
) -> bool {
    let MirroredChannel { channel, mirrors } = place;
    let started = Instant::now();
    let names: Vec<String> = mirrors.reports().into_iter().map(|r| r.location).collect();
    let live = Live::new(printer, channel.name(), names);
    let upstream = Location::parse(channel.base().as_str()).ok();
    let candidates = probe_candidates(platform);
    let probes = ProbeRound {
        candidates: &candidates,
        looks_right: looks_like_repodata,
        upstream: upstream.as_ref(),
        config: config.clone(),
    };
    let ranking = engine.probe(mirrors, &probes, &live).await;
    drop(live);
    show(printer, place, &ranking, started.elapsed());
    ranking
        .results
        .iter()
        .any(|result| is_usable(result.verdict))
}

fn is_usable(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Good | Verdict::Known | Verdict::Behind)
}

fn show(printer: &Printer, place: &MirroredChannel, ranking: &ProbeRanking, took: Duration) {
    #[derive(Serialize)]
    struct ProbeObject<'a> {
        channel: &'a str,
        sample: Option<&'a str>,
        sample_bytes: Option<u64>,
        mirrors: usize,
        serving: usize,
        bytes: u64,
        seconds: f64,
    }
    let MirroredChannel { channel, mirrors } = place;
    let reports = mirrors.reports();
    printer.data(&match &ranking.sample {
        Some((path, size)) => {
            format!(
                "Mirrors of {channel}, measured on the first bytes of {path} ({}):",
                bytes(*size)
            )
        }
        None => format!("Mirrors of {channel}: none has repodata"),
    });
    let head = [
        "",
        "latency",
        "first byte",
        "throughput",
        "freshness",
        "verdict",
        "mirror",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut causes = Vec::new();
    // How many have each verdict, of those that are not in the table.
    let mut unlisted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut received = 0;
    for (place, result) in (1..).zip(&ranking.results) {
        let Some(report) = reports.get(result.mirror.index()) else {
            continue;
        };
        let detail = ranking.detail(result.mirror);
        received += detail.bytes;
        let line = Ranked::new(channel.name(), place, result, report, &detail);
        let is_listed = printer.is_verbose() || rows.len() <= MAX_ROWS;
        if is_listed {
            rows.push(line.row());
        } else {
            *unlisted.entry(line.verdict).or_insert(0_usize) += 1;
        }
        let cause = detail.cause.as_ref().filter(|_| !is_usable(result.verdict));
        if let Some(cause) = cause.filter(|_| is_listed) {
            causes.push(vec![line.verdict.to_owned(), cause.clone()]);
        }
        printer.object("ranked", &line);
    }
    printer.data(&table(&rows, &[4, 5, 6]));
    if !unlisted.is_empty() {
        let counts = unlisted
            .iter()
            .map(|(verdict, count)| format!("{count} {verdict}"));
        let counts: Vec<String> = counts.collect();
        printer.data(&format!("  and {} (-v lists all)", counts.join(", ")));
    }
    if !causes.is_empty() {
        printer.data("");
        printer.data(&table(&causes, &[1]));
    }
    let serving = ranking
        .results
        .iter()
        .filter(|r| is_usable(r.verdict))
        .count();
    let object = ProbeObject {
        channel: channel.name(),
        sample: ranking.sample.as_ref().map(|(path, _)| path.as_str()),
        sample_bytes: ranking.sample.as_ref().map(|(_, size)| *size),
        mirrors: ranking.results.len(),
        serving,
        bytes: received,
        seconds: took.as_secs_f64(),
    };
    printer.say(&format!(
        "{serving} of {} mirrors are usable; {} in {:.1} s",
        object.mirrors,
        bytes(received),
        object.seconds
    ));
    printer.object("probe", &object);
}

/// A mirror in the ranking.
#[derive(Serialize)]
struct Ranked<'a> {
    channel: &'a str,
    /// From 1; `None` when the mirror is not usable.
    place: Option<usize>,
    mirror: &'a str,
    origin: &'a str,
    verdict: &'static str,
    freshness: Option<Freshness>,
    latency_seconds: Option<f64>,
    first_byte_seconds: Option<f64>,
    /// In bytes per second.
    rate: Option<f64>,
    /// For a request of typical size, by all measurements.
    expected_seconds: f64,
    cause: Option<&'a str>,
}

impl<'a> Ranked<'a> {
    fn new(
        channel: &'a str,
        place: usize,
        result: &ProbeResult,
        report: &'a MirrorReport,
        detail: &'a ProbeDetail,
    ) -> Self {
        // A known mirror was measured by an earlier run.
        let is_known = result.verdict == Verdict::Known;
        let first_byte = result.first_byte.or(report.first_byte.filter(|_| is_known));
        Self {
            channel,
            place: is_usable(result.verdict).then_some(place),
            mirror: &report.location,
            origin: &report.provenance,
            verdict: verdict_text(result.verdict),
            freshness: detail.freshness,
            latency_seconds: detail.latency.map(|time| time.as_secs_f64()),
            first_byte_seconds: first_byte.map(|time| time.as_secs_f64()),
            rate: result.rate.or(report.rate.filter(|_| is_known)),
            expected_seconds: result.expected.as_secs_f64(),
            cause: detail.cause.as_deref(),
        }
    }

    fn row(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let time = |seconds: Option<f64>| {
            seconds.map_or_else(dash, |s| milliseconds(Duration::from_secs_f64(s)))
        };
        let freshness = match self.freshness {
            Some(Freshness::Current) => "current",
            Some(Freshness::Behind) => "behind",
            Some(Freshness::Differs) => "differs",
            None => "-",
        };
        vec![
            self.place.map_or_else(dash, |place| place.to_string()),
            time(self.latency_seconds),
            time(self.first_byte_seconds),
            rate(self.rate),
            freshness.to_owned(),
            self.verdict.to_owned(),
            self.mirror.to_owned(),
        ]
    }
}

fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Known => "recent",
        Verdict::Behind => "behind",
        Verdict::Throttled => "throttled",
        Verdict::NotHere => "not here",
        Verdict::NotProbed => "not measured",
        Verdict::Stalled => "stalled",
        Verdict::Denied => "denied",
        Verdict::Dead => "dead",
        Verdict::Corrupt => "corrupt",
    }
}

/// The live view: a table with a line per mirror on a terminal; objects in JSON mode.
struct Live<'a> {
    printer: &'a Printer,
    channel: &'a str,
    names: Vec<String>,
    lines: Vec<ProgressBar>,
}

impl<'a> Live<'a> {
    fn new(printer: &'a Printer, channel: &'a str, names: Vec<String>) -> Self {
        let style = ProgressStyle::with_template("  {wide_msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        let lines = match printer.bars() {
            Some(bars) => names
                .iter()
                .take(MAX_LINES)
                .map(|name| {
                    let line = bars.add(ProgressBar::new_spinner().with_style(style.clone()));
                    line.set_message(format!("{:26}{}", "waiting", clean(name)));
                    line
                })
                .collect(),
            None => Vec::new(),
        };
        Self {
            printer,
            channel,
            names,
            lines,
        }
    }

    fn line(&self, mirror: MirrorId, state: &str) {
        if let (Some(line), Some(name)) = (
            self.lines.get(mirror.index()),
            self.names.get(mirror.index()),
        ) {
            line.set_message(format!("{state:26}{}", clean(name)));
            line.tick();
        }
    }
}

impl ProbeObserver for Live<'_> {
    fn begun(&self, mirror: MirrorId, kind: ProbeKind) {
        let state = match kind {
            ProbeKind::Freshness => "comparing …",
            ProbeKind::Speed => "measuring …",
        };
        self.line(mirror, state);
    }

    fn ended(&self, probed: &Probed<'_>) {
        #[derive(Serialize)]
        struct ProbedObject<'a> {
            channel: &'a str,
            mirror: &'a str,
            what: &'static str,
            class: String,
            bytes: u64,
            first_byte_seconds: Option<f64>,
            seconds: f64,
            cause: Option<&'a str>,
        }
        let body = probed
            .duration
            .saturating_sub(probed.first_byte.unwrap_or_default());
        #[expect(clippy::cast_precision_loss, reason = "only a few digits are printed")]
        let speed = probed.bytes as f64 / body.as_secs_f64().max(1e-4);
        let state = match probed.first_byte {
            Some(time) if probed.cause.is_none() => {
                format!("{}, {}", milliseconds(time), rate(Some(speed)))
            }
            _ => probed.class.to_string(),
        };
        if probed.kind == ProbeKind::Speed || probed.cause.is_some() {
            self.line(probed.mirror, &state);
        }
        let mirror = self.names.get(probed.mirror.index());
        self.printer.object(
            "probed",
            &ProbedObject {
                channel: self.channel,
                mirror: mirror.map(String::as_str).unwrap_or_default(),
                what: match probed.kind {
                    ProbeKind::Freshness => "freshness",
                    ProbeKind::Speed => "speed",
                },
                class: probed.class.to_string(),
                bytes: probed.bytes,
                first_byte_seconds: probed.first_byte.map(|time| time.as_secs_f64()),
                seconds: probed.duration.as_secs_f64(),
                cause: probed.cause,
            },
        );
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        for line in &self.lines {
            line.finish_and_clear();
        }
    }
}
