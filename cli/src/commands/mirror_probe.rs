//! `taipan mirror probe`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use taipan_channel::MirroredChannel;
use taipan_mirrors::{MirrorId, MirrorReport, ProbeConfig, ProbeResult, Verdict};

use super::mirror_list::milliseconds;
use crate::{
    args::ProbeArgs,
    context::{ChannelSelection, Context},
    error::AppError,
    exit::Exit,
    freshness::Freshness,
    interrupt::Interrupt,
    printer::{Printer, bytes, clean, rate, table},
    prober::{Detail, Probed, Ranking, Watch, probe},
    settings::Settings,
};

/// So much longer than one mirror all of them may take: the best are asked twice.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// The most lines of the live table.
const LINES: usize = 24;

/// Measures the mirrors of channels and ranks them. What is learnt is kept for the next run.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &ProbeArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let wanted = if args.places.channels.is_empty() {
        ChannelSelection::Listed
    } else {
        ChannelSelection::Settings
    };
    let patience = Duration::try_from_secs_f64(args.timeout)
        .ok()
        .filter(|patience| (0.05..=600.0).contains(&patience.as_secs_f64()))
        .ok_or(AppError::ProbeTimeout)?;
    let context = interrupt.or(Context::new(settings, wanted, printer)).await;
    let context = context.ok_or(AppError::Interrupted)??;
    let mut config = ProbeConfig {
        time: patience + SECOND_LOOK,
        probe_time: patience,
        ..ProbeConfig::default()
    };
    if args.all {
        config.fresh = Duration::ZERO;
    }
    let platform = settings.platform.value.to_string();
    let rounds = async {
        let mut without = Vec::new();
        for place in &context.channels {
            if !round(printer, place, &platform, &config).await {
                without.push(place.channel.to_string());
            }
        }
        without
    };
    let without = interrupt.or(rounds).await;
    // Also when it was interrupted: what is known is known.
    context.save();
    match without.ok_or(AppError::Interrupted)? {
        without if without.is_empty() => Ok(Exit::Done),
        channels => Err(AppError::NoMirrorServes { channels }),
    }
}

/// Probes the mirrors of one channel and shows the ranking; tells whether any serves.
async fn round(
    printer: &Printer,
    place: &MirroredChannel,
    platform: &str,
    config: &ProbeConfig,
) -> bool {
    let MirroredChannel { channel, mirrors } = place;
    let started = Instant::now();
    let names: Vec<String> = mirrors.reports().into_iter().map(|r| r.location).collect();
    let live = Live::new(printer, channel.name(), names);
    let ranking = probe(mirrors, channel, platform, config.clone(), &live).await;
    drop(live);
    show(printer, place, &ranking, started.elapsed());
    ranking.results.iter().any(|result| serves(result.verdict))
}

fn serves(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Good | Verdict::Known | Verdict::Behind)
}

fn show(printer: &Printer, place: &MirroredChannel, ranking: &Ranking, took: Duration) {
    #[derive(Serialize)]
    struct Round<'a> {
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
                "Mirrors of {channel}, by the beginning of {path} ({}):",
                bytes(*size)
            )
        }
        None => format!("Mirrors of {channel}, none of which has repodata:"),
    });
    let head = [
        "",
        "latency",
        "first byte",
        "rate",
        "freshness",
        "verdict",
        "mirror",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut causes = Vec::new();
    let mut received = 0;
    for (place, result) in (1..).zip(&ranking.results) {
        let Some(report) = reports.get(result.mirror.index()) else {
            continue;
        };
        let detail = ranking.detail(result.mirror);
        received += detail.bytes;
        let line = Ranked::new(channel.name(), place, result, report, &detail);
        rows.push(line.row());
        if let Some(cause) = detail.cause.as_ref().filter(|_| !serves(result.verdict)) {
            causes.push(vec![line.verdict.to_owned(), cause.clone()]);
        }
        printer.object("ranked", &line);
    }
    printer.data(&table(&rows, &[4, 5, 6]));
    if !causes.is_empty() {
        printer.data("");
        printer.data(&table(&causes, &[1]));
    }
    let serving = ranking.results.iter().filter(|r| serves(r.verdict)).count();
    let round = Round {
        channel: channel.name(),
        sample: ranking.sample.as_ref().map(|(path, _)| path.as_str()),
        sample_bytes: ranking.sample.as_ref().map(|(_, size)| *size),
        mirrors: ranking.results.len(),
        serving,
        bytes: received,
        seconds: took.as_secs_f64(),
    };
    printer.say(&format!(
        "{serving} of {} serve; {} in {:.1} s",
        round.mirrors,
        bytes(received),
        round.seconds
    ));
    printer.object("probe", &round);
}

/// A mirror in the ranking.
#[derive(Serialize)]
struct Ranked<'a> {
    channel: &'a str,
    /// Its place, from 1; `None` when it does not serve.
    place: Option<usize>,
    mirror: &'a str,
    origin: &'a str,
    verdict: &'static str,
    freshness: Option<Freshness>,
    latency_seconds: Option<f64>,
    first_byte_seconds: Option<f64>,
    /// In bytes per second.
    rate: Option<f64>,
    /// For a request of the usual size, by all that is known.
    expected_seconds: f64,
    cause: Option<&'a str>,
}

impl<'a> Ranked<'a> {
    fn new(
        channel: &'a str,
        place: usize,
        result: &ProbeResult,
        report: &'a MirrorReport,
        detail: &'a Detail,
    ) -> Self {
        // What was not measured now was measured before.
        let is_known = result.verdict == Verdict::Known;
        let first_byte = result.first_byte.or(report.first_byte.filter(|_| is_known));
        Self {
            channel,
            place: serves(result.verdict).then_some(place),
            mirror: &report.location,
            origin: &report.origin,
            verdict: word(result.verdict),
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

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Known => "served lately",
        Verdict::Behind => "behind",
        Verdict::Throttled => "throttled",
        Verdict::NotHere => "not here",
        Verdict::NotProbed => "not asked",
        Verdict::Stalled => "stalled",
        Verdict::Denied => "denied",
        Verdict::Dead => "dead",
        Verdict::Corrupt => "corrupt",
    }
}

/// The live table: a line per mirror, on a terminal; and objects in JSON mode.
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
                .take(LINES)
                .map(|name| {
                    let line = bars.add(ProgressBar::new_spinner().with_style(style.clone()));
                    line.set_message(format!("{:26}{}", "waits", clean(name)));
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

impl Watch for Live<'_> {
    fn asked(&self, mirror: MirrorId, is_freshness: bool) {
        self.line(
            mirror,
            if is_freshness {
                "compares …"
            } else {
                "measures …"
            },
        );
    }

    fn probed(&self, probed: &Probed<'_>) {
        #[derive(Serialize)]
        struct Line<'a> {
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
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let speed = probed.bytes as f64 / body.as_secs_f64().max(1e-4);
        let state = match probed.first_byte {
            Some(time) if probed.cause.is_none() => {
                format!("{}, {}", milliseconds(time), rate(Some(speed)))
            }
            _ => probed.class.to_string(),
        };
        if !probed.is_freshness || probed.cause.is_some() {
            self.line(probed.mirror, &state);
        }
        let mirror = self.names.get(probed.mirror.index());
        self.printer.object(
            "probed",
            &Line {
                channel: self.channel,
                mirror: mirror.map(String::as_str).unwrap_or_default(),
                what: if probed.is_freshness {
                    "freshness"
                } else {
                    "speed"
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
