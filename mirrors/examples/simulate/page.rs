//! One HTML page with charts, which needs nothing else to be seen.

use std::fmt::Write;

use crate::scenario::Scenario;
use crate::table::Row;

const COLOURS: [&str; 7] = [
    "#222222", "#0b7a4b", "#c0392b", "#d68910", "#2471a3", "#7d3c98", "#808b96",
];
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 220.0;

pub(crate) fn render(all: &[(Scenario, Vec<Row>)], seeds: u64) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Choosing mirrors</title>\n<style>\n\
         body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 2em auto; padding: 0 1em; color: #222 }\n\
         section { border-top: 1px solid #ddd; padding: 1em 0 } .charts { display: flex; flex-wrap: wrap; gap: 1em }\n\
         table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: 0 .8em; text-align: right }\n\
         td:first-child, th:first-child { text-align: left; padding-left: 0 } svg { max-width: 100%; height: auto } \
         svg text { font: 11px system-ui, sans-serif }\n</style>\n<h1>Choosing mirrors</h1>\n",
    );
    let _ = writeln!(
        page,
        "<p>Seconds per file, over {seeds} seeds. A ratio is to the clairvoyant, who knows the true state. \
         Curves: the share of files that were there within a time (logarithmic).</p>"
    );
    for (scenario, rows) in all {
        let _ = writeln!(
            page,
            "<section><h2>{}</h2>\n<p>{}</p>\n{}<div class=\"charts\">\n{}{}</div></section>",
            escape(&scenario.name),
            escape(&scenario.about),
            table(rows),
            bars(rows),
            curves(rows),
        );
    }
    page.push_str("</html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "<table><tr><th>policy<th>mean<th>p50<th>p99<th>×mean<th>×p99<th>session<th>extra bytes<th>largest load<th>failed</tr>\n",
    );
    for (i, row) in rows.iter().enumerate() {
        let _ = writeln!(
            text,
            "<tr><td><span style=\"color:{}\">■</span> {}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:.2}<td>{:.2}<td>{:.1}<td>{:.1} %<td>{:.2}<td>{}</tr>",
            colour(i),
            row.policy,
            row.mean,
            row.p50,
            row.p99,
            row.mean_ratio,
            row.p99_ratio,
            row.session,
            row.extra_bytes * 100.0,
            row.largest_load,
            row.failed
        );
    }
    text + "</table>\n"
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// Mean (full) and 99th percentile (pale) as ratios to the clairvoyant, on a logarithmic axis.
fn bars(rows: &[Row]) -> String {
    const LEFT: f64 = 90.0;
    let most = rows
        .iter()
        .map(|row| row.mean_ratio.max(row.p99_ratio))
        .fold(2.0, f64::max);
    let x =
        |ratio: f64| LEFT + (WIDTH - LEFT - 50.0) * (ratio.max(0.5) / 0.5).ln() / (most / 0.5).ln();
    let mut svg = open("Mean and 99th percentile over the clairvoyant's");
    for (i, row) in (0_u32..).zip(rows) {
        let y = 14.0 + f64::from(i) * 28.0;
        let colour = colour(i as usize);
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">{}</text>",
            y + 13.0,
            row.policy
        );
        for (ratio, dy, opacity) in [(row.mean_ratio, 0.0, 1.0), (row.p99_ratio, 11.0, 0.45)] {
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" fill=\"{colour}\" opacity=\"{opacity}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{ratio:.2}</text>",
                y + dy,
                x(ratio) - LEFT,
                x(ratio) + 4.0,
                y + dy + 9.0,
            );
        }
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"8\" y2=\"{1:.1}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/></svg>",
        x(1.0),
        HEIGHT - 8.0
    );
    svg
}

/// The share of files that were there within a time.
fn curves(rows: &[Row]) -> String {
    const LEFT: f64 = 34.0;
    let all = || {
        rows.iter()
            .flat_map(|row| row.quantiles.iter().copied())
            .filter(|&t| t > 0.0)
    };
    let least = all().fold(f64::INFINITY, f64::min).max(1e-3);
    let most = all().fold(least * 10.0, f64::max);
    let x =
        |t: f64| LEFT + (WIDTH - LEFT - 10.0) * (t.max(least) / least).ln() / (most / least).ln();
    let y = |share: f64| HEIGHT - 24.0 - share * (HEIGHT - 34.0);
    let mut svg = open("Share of files had within a time");
    for share in [0.0, 0.5, 0.99] {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"0\" y=\"{1:.1}\">{2:.0} %</text>",
            y(share),
            y(share) + 4.0,
            share * 100.0
        );
    }
    for exponent in -3_i32..=2 {
        for factor in [1.0, 3.0] {
            let t = factor * 10_f64.powi(exponent);
            if t >= least && t <= most {
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{t} s</text>",
                    x(t),
                    HEIGHT - 8.0
                );
            }
        }
    }
    for (i, row) in rows.iter().enumerate() {
        let mut points = String::new();
        for (percent, &t) in (0_u32..).zip(&row.quantiles) {
            let _ = write!(points, "{:.1},{:.1} ", x(t), y(f64::from(percent) / 100.0));
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"/>",
            colour(i),
            if i < 2 { 2.2 } else { 1.2 }
        );
    }
    svg + "</svg>\n"
}

fn open(label: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n"
    )
}
