//! What the binary says of itself. That this file is an integration test also makes cargo build
//! the binary whenever the tests of the workspace are run.

use std::process::Command;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_taipan"))
        .args(arguments)
        .env_remove("TAIPAN_MIRRORS")
        .env_remove("TAIPAN_CONFIG")
        .env_remove("TAIPAN_CACHE_DIR")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn help_is_on_stdout_and_succeeds() {
    let (code, stdout, stderr) = run(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!(stdout);
}

#[test]
fn the_help_of_create_names_every_option() {
    let (code, stdout, _) = run(&["create", "-h"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(stdout);
}

#[test]
fn the_help_of_the_mirror_commands_names_every_option() {
    for command in ["list", "probe"] {
        let (code, stdout, _) = run(&["mirror", command, "--help"]);
        assert_eq!(code, Some(0));
        insta::assert_snapshot!(format!("mirror_{command}"), stdout);
    }
}

#[test]
fn the_help_of_fetch_names_every_option() {
    let (code, stdout, _) = run(&["fetch", "--help"]);
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
