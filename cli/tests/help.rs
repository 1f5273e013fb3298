//! Help, usage errors and completion scripts. As an integration test, this file also makes cargo
//! build the binary when the tests of the workspace run.

use std::process::Command;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_taipan"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The names in the list of commands of a help page.
fn subcommands(help: &str) -> Vec<&str> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != "help")
        .collect()
}

/// Snapshots the help page of a command and those of its subcommands.
fn snapshot_help(command: &[&str], pages: &mut Vec<String>) {
    let (code, stdout, stderr) = run(&[command, &["--help"]].concat());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{command:?}");
    let page = [&["taipan"], command].concat().join("_");
    insta::assert_snapshot!(page.as_str(), stdout);
    pages.push(page);
    for name in subcommands(&stdout) {
        snapshot_help(&[command, &[name]].concat(), pages);
    }
}

#[test]
fn every_command_has_a_help_page() {
    let mut pages = Vec::new();
    snapshot_help(&[], &mut pages);
    for page in ["taipan_fetch", "taipan_mirror_probe", "taipan_zck_delta"] {
        assert!(pages.iter().any(|other| other == page), "{page}: {pages:?}");
    }
}

#[test]
fn the_short_help_has_one_line_per_option() {
    let (code, stdout, _) = run(&["create", "-h"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(stdout);
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    let (code, stdout, stderr) = run(&["create", "--frobnicate"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("--frobnicate"), "{stderr}");
}

#[test]
fn a_completion_script_is_printed() {
    let (code, stdout, _) = run(&["completion", "bash"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("complete -F _taipan"), "{stdout}");
}
