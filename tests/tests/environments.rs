//! `taipan create`, `install`, `list` and `info`: platforms, channels, and the settings of conda.

use taipan_mock_servers::{Behaviour, Noarch, PackageBuilder, Site, channel_site};
use taipan_tests::{Finished, Sandbox, serve};

/// Writes a channel of small packages below the sandbox: `lib` for some platforms, `pure` for any, and `needs-cuda`.
fn write_channel(sandbox: &Sandbox, name: &str) {
    let site = channel();
    for path in site.paths() {
        let bytes = site.get(&path).unwrap();
        let path = sandbox.path(name).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn channel() -> Site {
    let mut packages = vec![
        PackageBuilder::new("pure", "1")
            .noarch(Noarch::Generic)
            .file("share/pure", "x")
            .build(),
    ];
    for (subdir, virtual_package) in [
        ("linux-64", "__glibc >=2.17"),
        ("linux-aarch64", "__glibc >=2.17"),
        ("osx-arm64", "__osx >=11"),
        ("win-64", "__win"),
    ] {
        let package = PackageBuilder::new("lib", "1")
            .subdir(subdir)
            .depends(virtual_package);
        packages.push(package.file("share/lib", subdir).build());
    }
    let package = PackageBuilder::new("needs-cuda", "1")
        .noarch(Noarch::Generic)
        .depends("__cuda >=12");
    packages.push(package.file("share/cuda", "x").build());
    channel_site(&packages)
}

fn run(sandbox: &Sandbox, arguments: &str) -> Finished {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    sandbox.run(&arguments)
}

fn setting(sandbox: &Sandbox, flags: &str, name: &str) -> (String, String) {
    let finished = run(sandbox, &format!("info --json{flags}")).expect(0);
    let settings = finished.objects_of("setting");
    let found = settings
        .iter()
        .find(|setting| setting["name"] == name)
        .unwrap();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("value"), text("origin"))
}

#[test]
fn another_platform_has_its_own_virtual_packages_and_is_remembered() {
    let sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    for platform in ["win-64", "osx-arm64", "linux-aarch64"] {
        let finished = run(
            &sandbox,
            &format!("create -p {platform} -c ./c --platform {platform} lib"),
        );
        finished.expect(0);
        assert_eq!(
            std::fs::read_to_string(sandbox.path(platform).join("share/lib")).unwrap(),
            platform
        );
        // Later commands stay with it.
        run(&sandbox, &format!("install -p {platform} -c ./c pure lib")).expect(0);
        let (value, origin) = setting(&sandbox, &format!(" -p {platform}"), "platform");
        assert_eq!((value.as_str(), origin.as_str()), (platform, "prefix"));
        let finished = run(
            &sandbox,
            &format!("install -p {platform} -c ./c --platform linux-64 pure"),
        );
        let finished = finished.expect(2);
        assert!(
            finished.stderr.contains(&format!("is for {platform}")),
            "{}",
            finished.stderr
        );
    }
    // Also before it has a package of the platform.
    run(&sandbox, "create -p empty --platform win-64").expect(0);
    run(&sandbox, "install -p empty -c ./c pure lib").expect(0);
    assert_eq!(
        std::fs::read_to_string(sandbox.path("empty/share/lib")).unwrap(),
        "win-64"
    );
}

#[test]
fn variables_override_the_virtual_packages_of_another_platform() {
    let mut sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    run(&sandbox, "create -p a -c ./c --platform win-64 needs-cuda").expect(3);
    sandbox.set("CONDA_OVERRIDE_CUDA", "12.4");
    run(&sandbox, "create -p a -c ./c --platform win-64 needs-cuda").expect(0);
    sandbox.set("CONDA_OVERRIDE_OSX", "10.9");
    run(&sandbox, "create -p b -c ./c --platform osx-arm64 lib").expect(3);
}

#[test]
fn an_empty_environment_needs_no_network() {
    let sandbox = Sandbox::new();
    run(&sandbox, "create -p env -c http://127.0.0.1:9/none").expect(0);
    assert!(sandbox.path("env/conda-meta/history").is_file());
    let finished = run(&sandbox, "create").expect(2);
    assert!(
        finished.stderr.contains("use --prefix"),
        "{}",
        finished.stderr
    );
    let finished = run(&sandbox, "list").expect(2);
    assert!(
        finished.stderr.contains("use --prefix, or activate one"),
        "{}",
        finished.stderr
    );
}

#[test]
fn channels_are_named_as_for_conda() {
    let sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    write_channel(&sandbox, "d");
    run(&sandbox, "create -p a -c ./c/linux-64 pure").expect(0);
    run(&sandbox, "create -p b -c nodefaults -c ./d,./c -y pure").expect(0);
    let list = run(&sandbox, "list -p b").expect(0);
    let url = format!(
        "file://{}/d",
        sandbox.path("").canonicalize().unwrap().display()
    );
    assert!(list.stdout.contains(&url), "{}", list.stdout);
    // By the end of its URL, as in `pkgs/main::pure`.
    run(&sandbox, "create -p f -c ./d,./c d::pure").expect(0);
    run(&sandbox, "create -p g -c ./d,./c e::pure").expect(2);
    let finished = run(&sandbox, "create -p e -c nodefaults pure").expect(2);
    assert!(
        finished.stderr.contains("no channel"),
        "{}",
        finished.stderr
    );
}

#[test]
fn settings_of_conda_are_read_and_come_after_those_of_taipan() {
    let mut sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    let here = sandbox.path("").canonicalize().unwrap();
    let here = here.display();
    sandbox.write(
        ".condarc",
        &format!(
            "channels: [own, defaults]\ndefault_channels: [file://{here}/c]\ncustom_channels: {{own: file://{here}}}\n\
             channel_priority: flexible\nsubdir: linux-64\nalways_copy: true\n"
        ),
    );
    let channels = setting(&sandbox, "", "channels");
    assert_eq!(
        channels,
        (
            format!("file://{here}/own, file://{here}/c"),
            "condarc".to_owned()
        )
    );
    for (name, value) in [
        ("channel priority", "flexible"),
        ("platform", "linux-64"),
        ("always copy", "true"),
    ] {
        assert_eq!(
            setting(&sandbox, "", name),
            (value.to_owned(), "condarc".to_owned())
        );
    }
    let (value, origin) = setting(&sandbox, " --no-condarc", "channels");
    assert_eq!(
        (value.as_str(), origin.as_str()),
        ("conda-forge", "default")
    );

    sandbox.set("CONDA_CHANNELS", &format!("file://{here}/c"));
    sandbox.set("CONDA_SUBDIR", "win-64");
    sandbox.set("CONDA_PKGS_DIRS", &format!("{here}/pkgs,/other"));
    sandbox.set("TAIPAN_CACHE_DIR", "");
    sandbox.set("CONDA_PREFIX", &format!("{here}/env"));
    for (name, value) in [
        ("channels", format!("file://{here}/c")),
        ("platform", "win-64".to_owned()),
        ("cache directory", format!("{here}/pkgs/taipan")),
    ] {
        assert_eq!(
            setting(&sandbox, "", name),
            (value, "conda-environment".to_owned())
        );
    }
    sandbox.set("TAIPAN_PLATFORM", "linux-64");
    assert_eq!(setting(&sandbox, "", "platform").1, "environment");
    // The active environment.
    run(&sandbox, "create -p env pure").expect(0);
    run(&sandbox, "install lib").expect(0);
    let list = run(&sandbox, "list").expect(0);
    assert!(
        list.stdout.contains("pure") && list.stdout.contains("lib"),
        "{}",
        list.stdout
    );
    assert!(sandbox.path("pkgs/taipan/pkgs").is_dir());
}

#[test]
fn a_condarc_that_cannot_be_used_is_a_warning_with_its_line() {
    let sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    sandbox.write(
        ".condarc",
        "channel_priority: best\nchannels:\n  - https://${TAIPAN_NONE_SUCH}/c\n",
    );
    let finished = run(&sandbox, "create -p env -c ./c pure").expect(0);
    assert!(
        finished.stderr.contains(".condarc:1"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("TAIPAN_NONE_SUCH"),
        "{}",
        finished.stderr
    );
    let finished = run(&sandbox, "create -p env2 -c ./c --no-condarc pure").expect(0);
    assert!(!finished.stderr.contains("condarc"), "{}", finished.stderr);
    run(&sandbox, "list -p env").expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrored_channels_of_the_condarc_are_used() {
    let server = serve(&channel(), Behaviour::new()).await;
    let sandbox = Sandbox::new();
    let url = server.url();
    sandbox.write(
        ".condarc",
        &format!("mirrored_channels:\n  conda-forge: [{url}]\n"),
    );
    run(&sandbox, "create -p env pure").expect(0);
    assert!(!server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_and_kept_nowhere_and_another_one_is_the_same_channel() {
    let site = Site::new();
    let plain = channel();
    for path in plain.paths() {
        for token in ["tk-one", "tk-two"] {
            site.insert(&format!("t/{token}/c/{path}"), plain.get(&path).unwrap());
        }
    }
    let server = serve(&site, Behaviour::new()).await;
    let sandbox = Sandbox::new();
    let channel = |token: &str| format!("{}t/{token}/c", server.url());
    let mut output = String::new();
    for flags in ["", " -vv", " --json"] {
        let url = channel("tk-one");
        let finished = run(
            &sandbox,
            &format!(
                "create -p env{} -c {url}{flags} {url}::pure lib",
                flags.trim()
            ),
        );
        let finished = finished.expect(0);
        output += &(finished.stdout + &finished.stderr);
    }
    server.clear_requests();
    let finished = run(
        &sandbox,
        &format!("install -p env -c {} pure", channel("tk-two")),
    )
    .expect(0);
    output += &(finished.stdout + &finished.stderr);
    let fetched: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert!(
        fetched.iter().all(|path| path.contains("repodata")),
        "{fetched:?}"
    );
    for command in [
        "mirror list -c {}",
        "info",
        "create -p none -c {} {}::nothere",
        "create -p none -c {}/none pure",
    ] {
        let finished = run(&sandbox, &command.replace("{}", &channel("tk-one")));
        output += &(finished.stdout + &finished.stderr);
    }
    assert!(
        !output.contains("tk-one") && !output.contains("tk-two"),
        "{output}"
    );
    let kept = std::process::Command::new("grep")
        .args(["-rlE", "tk-(one|two)"])
        .arg(sandbox.path(""))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
}

#[test]
fn a_pin_that_cannot_be_read_names_its_file_and_line() {
    let sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    run(&sandbox, "create -p env -c ./c pure").expect(0);
    sandbox.write("env/conda-meta/pinned", "# pins\n'lib 1.*'\n");
    let finished = run(&sandbox, "install -p env -c ./c lib").expect(2);
    assert!(
        finished.stderr.contains("conda-meta/pinned:2"),
        "{}",
        finished.stderr
    );
}

#[test]
fn an_environment_without_a_history_is_one() {
    let sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    run(&sandbox, "create -p env -c ./c pure").expect(0);
    std::fs::remove_file(sandbox.path("env/conda-meta/history")).unwrap();
    run(&sandbox, "create -p env -c ./c lib").expect(2);
    run(&sandbox, "install -p env -c ./c --platform linux-64 lib").expect(0);
    let list = run(&sandbox, "list -p env").expect(0);
    assert!(list.stdout.contains("pure"), "{}", list.stdout);
}

#[test]
fn a_command_that_does_not_exist_is_not_mistaken_for_another() {
    let sandbox = Sandbox::new();
    for (typed, tip) in [
        ("remove", None),
        ("uninstall", None),
        ("clean", None),
        ("instal", Some("'install'")),
        ("lsit", Some("'list'")),
    ] {
        let finished = run(&sandbox, typed).expect(2);
        assert_eq!(
            finished.stderr.contains("tip:"),
            tip.is_some(),
            "{}",
            finished.stderr
        );
        assert!(finished.stderr.contains(tip.unwrap_or_default()));
    }
}

#[test]
fn files_of_specs_are_read_or_told_apart() {
    let sandbox = Sandbox::new();
    write_channel(&sandbox, "c");
    let utf16 = |text: &str| -> Vec<u8> {
        let units = std::iter::once(0xFEFF).chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    };
    for (bytes, said) in [
        (b"# list\r\npure # why\r\n".to_vec(), None),
        (utf16("pure\r\n"), None),
        (b"pure\xff".to_vec(), Some("UTF-8")),
        (
            b"# platform: linux-64\n@EXPLICIT\nhttps://h.example/a-1-0.conda\n".to_vec(),
            Some("explicit list"),
        ),
        (
            b"name: x\ndependencies:\n  - pure\n".to_vec(),
            Some("environment file"),
        ),
    ] {
        std::fs::write(sandbox.path("specs"), bytes).unwrap();
        let finished = run(&sandbox, "create -p env -c ./c --dry-run -f specs");
        let finished = finished.expect(if said.is_some() { 2 } else { 0 });
        assert!(
            finished.stderr.contains(said.unwrap_or_default()),
            "{}",
            finished.stderr
        );
    }
    let finished = run(&sandbox, "create -p env -c ./c ./pure-1-0.conda").expect(2);
    assert!(
        finished.stderr.contains("`pure[fn='pure-1-0.conda']`"),
        "{}",
        finished.stderr
    );
}
