//! The demo channel and mirrors files for it.

use std::{path::Path, process::Command};

use taipan_mock_servers::{DemoChannel, DemoOptions};

/// The URL of the channel. It has no server: all files come from mirrors.
pub const CHANNEL: &str = "https://channel.invalid/demo";

/// A channel whose largest package, `demo-corpus`, contains `corpus_bytes` bytes.
pub fn demo_channel(corpus_bytes: usize) -> DemoChannel {
    DemoChannel::build(&DemoOptions::default().with_corpus_bytes(corpus_bytes))
}

/// A mirrors file that names these mirrors of [`CHANNEL`] with equal priority.
pub fn mirrors_file(urls: &[String]) -> String {
    mirrors_file_of(
        &urls
            .iter()
            .map(|url| format!("{url:?}"))
            .collect::<Vec<_>>(),
    )
}

/// A mirrors file that names these mirrors of [`CHANNEL`], the first with the highest priority.
pub fn mirrors_file_in_order(urls: &[String]) -> String {
    let entry = |(priority, url)| format!("{{ url = {url:?}, priority = {priority} }}");
    mirrors_file_of(&urls.iter().enumerate().map(entry).collect::<Vec<_>>())
}

/// A mirrors file with these entries in TOML.
pub fn mirrors_file_of(entries: &[String]) -> String {
    let entries = entries.join(", ");
    format!("[[channel]]\nurl = \"{CHANNEL}\"\nmirrors = [{entries}]\n")
}

/// Runs the program of the package `taipan-demo` in an environment. It prints the prefix, which was
/// written into it when it was linked.
#[track_caller]
pub fn expect_demo_runs(prefix: &Path) {
    let output = Command::new(prefix.join("bin/taipan-demo"))
        .output()
        .expect("the program can be run");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("the program prints text");
    assert!(text.contains(&prefix.display().to_string()), "{text}");
}
