//! One test for each rule.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rattler_conda_types::RepoDataRecord;
use taipan_channel::{IndexLimits, RepodataIndex};

use super::language::{channel, failed, names, repodata, request, solved, specs, virtual_packages};
use crate::{ChannelPriority, Orphans, SolveError, SolveRequest, SpecOrigin, UpdatePolicy, solve};

/// The records of these lines, as if they were installed.
fn installed(lines: &str, wanted: &[&str]) -> Vec<RepoDataRecord> {
    solve(&request(lines, wanted)).unwrap().records
}

fn explanation(request: &SolveRequest) -> (Vec<String>, String) {
    match failed(request) {
        SolveError::Unsatisfiable(explanation) => (
            explanation
                .conflicting
                .iter()
                .map(|conflicting| conflicting.spec.clone())
                .collect(),
            explanation.to_string(),
        ),
        other => panic!("{other}"),
    }
}

// Order ----------------------------------------------------------------------------------------

#[test]
fn the_newest_version_is_taken_in_condas_order() {
    let lines = "a 1.9\n a 1.10\n a 1.10rc1\n a 1.10.post1\n b 2.0\n b 1!0.1\n c 1.0\n c 1.0dev1";
    assert_eq!(
        solved(&request(lines, &["a", "b", "c"])),
        ["a 1.10.post1", "b 1!0.1", "c 1.0"]
    );
}

#[test]
fn the_highest_build_number_is_taken_then_the_latest_build() {
    let lines = "a 1.0 x_2 2\n a 1.0 x_10 10\n b 1.0 x @ timestamp=1500000000000
        b 1.0 y @ timestamp=1600000000000\n b 1.0 z";
    assert_eq!(
        solved(&request(lines, &["a", "b"])),
        ["a 1.0 x_10", "b 1.0 y"]
    );
}

#[test]
fn track_features_weigh_more_than_versions() {
    let lines = "a 2.0 @ track_features=\"x\"\n a 1.0\n b 1.0 @ track_features=\"x,y\"
        b 1.0 y @ track_features=\"x\"";
    assert_eq!(solved(&request(lines, &["a", "b"])), ["a 1.0", "b 1.0 y"]);
}

#[test]
fn of_equal_builds_the_one_for_newer_dependencies_is_taken() {
    let lines = "python 3.9.1\n python 3.10.2\n python 3.11.0
        a 1.0 py39 : python 3.9.* @ timestamp=1700000000000
        a 1.0 py310 : python 3.10.* @ timestamp=1600000000000
        a 1.0 py311 : python 3.11.*, python @ timestamp=1500000000000";
    assert_eq!(
        solved(&request(lines, &["a"])),
        ["a 1.0 py311", "python 3.11.0"]
    );
    assert_eq!(
        solved(&request(lines, &["a", "python <3.11"])),
        ["a 1.0 py310", "python 3.10.2"]
    );
}

#[test]
fn the_order_of_the_records_in_the_file_does_not_matter() {
    let lines = [
        "a 1.0 x : b",
        "a 1.0 y : b",
        "a 1.0 z : b",
        "b 1",
        "b 1 other",
        "b 0.9",
    ];
    let mut reversed = lines;
    reversed.reverse();
    let first = solved(&request(&lines.join("\n"), &["a"]));
    assert_eq!(first, solved(&request(&reversed.join("\n"), &["a"])));
}

#[test]
fn the_solution_is_in_topological_order() {
    let lines = "a 1 : b, c\n b 1 : d\n c 1 : d\n d 1\n python 3 : pip\n pip 1 : python";
    let solution = solve(&request(lines, &["a", "python"])).unwrap();
    let place = |name: &str| {
        let named = |record: &RepoDataRecord| record.package_record.name.as_normalized() == name;
        solution.records.iter().position(named).unwrap()
    };
    assert!(place("d") < place("b") && place("d") < place("c"));
    assert!(place("b") < place("a") && place("c") < place("a"));
    assert_eq!(solution.records.len(), 6);
}

#[test]
fn a_solution_is_plain_data() {
    let solution = solve(&request("a 1 : b\n b 1", &["a"])).unwrap();
    let text = serde_json::to_string(&solution).unwrap();
    assert_eq!(
        serde_json::from_str::<crate::Solution>(&text).unwrap(),
        solution
    );
}

// What specs match -----------------------------------------------------------------------------

#[test]
fn specs_match_versions_builds_numbers_hashes_and_places() {
    let md5 = "0123456789abcdef0123456789abcdef";
    let lines =
        format!("a 1.0 x_0\n a 1.5 y_3 3\n a 2.0 x_1 1\n a 2.1 z_0 @ md5=\"{md5}\"\n a 3.0 x_0");
    for (spec, expected) in [
        ("a", "a 3.0 x_0"),
        ("a=2", "a 2.1 z_0"),
        ("a 2.0", "a 2.0 x_1"),
        ("a==2", "a 2.0 x_1"),
        ("a 1.*", "a 1.5 y_3"),
        ("a>=1,<2", "a 1.5 y_3"),
        ("a<2|>=3", "a 3.0 x_0"),
        ("a~=2.0", "a 2.1 z_0"),
        ("a!=3.0", "a 2.1 z_0"),
        ("a * y_*", "a 1.5 y_3"),
        ("a=2.0=x_1", "a 2.0 x_1"),
        ("a[build_number=1]", "a 2.0 x_1"),
        ("a[build_number='>=2']", "a 1.5 y_3"),
        (&format!("a[md5={md5}]"), "a 2.1 z_0"),
        ("a[fn=a-1.0-x_0.conda]", "a 1.0 x_0"),
        ("alpha::a", "a 3.0 x_0"),
        ("https://example.org/alpha::a 1.*", "a 1.5 y_3"),
        ("alpha/linux-64::a", "a 3.0 x_0"),
        ("A", "a 3.0 x_0"),
    ] {
        assert_eq!(solved(&request(&lines, &[spec])), [expected], "{spec}");
    }
    for spec in ["alpha/noarch::a", "a 4", "a[sha256=00]", "a * nope"] {
        if let Ok(spec) = crate::parse_spec(spec) {
            let request = SolveRequest {
                specs: vec![spec],
                ..request(&lines, &[])
            };
            assert!(matches!(failed(&request), SolveError::Unsatisfiable(_)));
        }
    }
}

#[test]
fn specs_of_dependencies_match_channels_too() {
    let mut request = request("a 1 : beta::b", &["a"]);
    request.channels.push(channel("beta", "b 1"));
    assert_eq!(solved(&request), ["a 1", "b 1"]);
    request.channels[1] = channel("gamma", "b 1");
    assert!(matches!(failed(&request), SolveError::Unsatisfiable(_)));
}

#[test]
fn constrains_bind_what_is_installed_and_nothing_else() {
    let lines = "a 1 ; b <2\n b 1\n b 2\n c 1 : b";
    assert_eq!(solved(&request(lines, &["a"])), ["a 1"]);
    assert_eq!(solved(&request(lines, &["a", "c"])), ["a 1", "b 1", "c 1"]);
    let (conflicting, text) = explanation(&request(lines, &["a", "b>=2"]));
    assert_eq!(conflicting, ["a", "b >=2"]);
    assert!(text.contains("a 1 allows only b <2"), "{text}");
}

#[test]
fn the_search_goes_back_when_the_newest_does_not_fit() {
    let lines = "a 2 : c 2\n a 1 : c 1\n b 1 : c 1\n c 1\n c 2";
    assert_eq!(solved(&request(lines, &["a", "b"])), ["a 1", "b 1", "c 1"]);
}

#[test]
fn a_dependency_that_cannot_be_read_rules_out_its_record_alone() {
    let lines = "a 2 : b ==>1\n a 1 : b\n b 1\n c 1 ; d [oops";
    assert_eq!(solved(&request(lines, &["a"])), ["a 1", "b 1"]);
    let (_, text) = explanation(&request(lines, &["a 2"]));
    assert!(
        text.contains("a 2 has the invalid dependency `b ==>1`"),
        "{text}"
    );
    assert!(explanation(&request(lines, &["c"])).1.contains("`d [oops`"));
}

#[test]
fn conditions_and_extras_of_newer_indexes_rule_out_their_record() {
    let lines = "a 2 : b[when=\"python\"]\n a 1\n c 1 @ extra_depends={\"x\":[\"nowhere\"]}";
    assert_eq!(solved(&request(lines, &["a", "c"])), ["a 1", "c 1"]);
}

#[test]
fn records_may_speak_of_themselves() {
    let lines = "a 1 : a, b ; a <2\n b 2 : b <2\n b 1 : b\n c 1 ; c >1";
    assert_eq!(solved(&request(lines, &["a"])), ["a 1", "b 1"]);
    let (_, text) = explanation(&request(lines, &["c"]));
    assert!(
        text.contains("c 1 requires `c >1`, which it does not satisfy itself"),
        "{text}"
    );
}

#[test]
fn removed_records_are_not_chosen() {
    let text = repodata("a 1\n a 2").replacen('{', "{\"removed\":[\"a-2-h0.conda\"],", 1);
    let mut request = request("", &["a"]);
    let url = request.channels[0].url.clone();
    let subdir = url.join("linux-64/").unwrap();
    let index = RepodataIndex::from_json(
        text.into_bytes(),
        url.as_str(),
        &subdir,
        IndexLimits::default(),
    )
    .unwrap();
    request.channels[0].indexes = vec![index];
    assert_eq!(solved(&request), ["a 1"]);
}

#[test]
fn all_subdirs_of_a_channel_count_alike() {
    let mut request = request("a 1", &["a"]);
    let url = request.channels[0].url.clone();
    let text = repodata("a 2 @ noarch=\"python\" subdir=\"noarch\"").into_bytes();
    let subdir = url.join("noarch/").unwrap();
    let index =
        RepodataIndex::from_json(text, url.as_str(), &subdir, IndexLimits::default()).unwrap();
    request.channels[0].indexes.push(index);
    let solution = solve(&request).unwrap();
    assert_eq!(names(&solution), ["a 2"]);
    assert_eq!(
        solution.records[0].url.as_str(),
        "https://example.org/alpha/noarch/a-2-h0.conda"
    );
}

#[test]
fn pip_is_not_added_to_python() {
    assert_eq!(
        solved(&request("python 3.11\n pip 24 : python", &["python"])),
        ["python 3.11"]
    );
}

// Channels -------------------------------------------------------------------------------------

fn two_channels(wanted: &[&str], channel_priority: ChannelPriority) -> SolveRequest {
    SolveRequest {
        channels: vec![
            channel("first", "a 1 : b\n b 1 @ timestamp=1"),
            channel("second", "a 2 : b\n b 1 @ timestamp=2\n b 2\n c 1 : b 2"),
        ],
        specs: specs(wanted),
        channel_priority,
        ..SolveRequest::default()
    }
}

#[test]
fn strict_priority_hides_names_of_later_channels() {
    let request = two_channels(&["a"], ChannelPriority::Strict);
    assert_eq!(solved(&request), ["a 1", "b 1"]);
    let (conflicting, text) = explanation(&two_channels(&["c"], ChannelPriority::Strict));
    assert_eq!(conflicting, ["c"]);
    assert!(text.contains("the channel second has b"), "{text}");
    assert!(
        text.contains("first has b, too, and is preferred"),
        "{text}"
    );
}

#[test]
fn flexible_priority_prefers_earlier_channels_and_falls_back() {
    let request = two_channels(&["a"], ChannelPriority::Flexible);
    assert_eq!(solved(&request), ["a 1", "b 1"]);
    let request = two_channels(&["c"], ChannelPriority::Flexible);
    assert_eq!(solved(&request), ["b 2", "c 1"]);
}

#[test]
fn without_priority_versions_decide() {
    let request = two_channels(&["a"], ChannelPriority::Disabled);
    assert_eq!(solved(&request), ["a 2", "b 2"]);
    let mut request = two_channels(&["b 1"], ChannelPriority::Disabled);
    assert_eq!(
        solve(&request).unwrap().records[0].url.path(),
        "/second/linux-64/b-1-h0.conda"
    );
    request.channels = vec![channel("first", "b 1"), channel("second", "b 1")];
    assert_eq!(
        solve(&request).unwrap().records[0].url.path(),
        "/first/linux-64/b-1-h0.conda"
    );
}

#[test]
fn a_channel_in_a_spec_goes_before_priority() {
    let request = two_channels(&["second::a"], ChannelPriority::Strict);
    assert_eq!(solved(&request), ["a 2", "b 1"]);
    let request = two_channels(&["third::a"], ChannelPriority::Strict);
    assert_eq!(
        failed(&request).to_string(),
        "the channel third of the spec `third::a` is not one of the requested channels"
    );
    let request = two_channels(&["first::c"], ChannelPriority::Strict);
    assert_eq!(
        failed(&request).to_string(),
        "c is not in the channel first; did you mean second::c?"
    );
}

// The machine ----------------------------------------------------------------------------------

#[test]
fn virtual_packages_are_what_the_machine_has() {
    let lines = "a 2 : __glibc >=2.34\n a 1 : __glibc >=2.17,<3.0.a0\n g 1 : __cuda >=12";
    let mut request = request(lines, &["a"]);
    request.virtual_packages = virtual_packages(&["__glibc=2.31=0", "__unix=0=0"]);
    assert_eq!(solved(&request), ["a 1"]);
    request.specs = specs(&["a 2"]);
    let (_, text) = explanation(&request);
    assert!(
        text.contains("a 2 needs __glibc >=2.34 (this machine has __glibc 2.31)"),
        "{text}"
    );
    request.specs = specs(&["g"]);
    let (_, text) = explanation(&request);
    assert!(
        text.contains("g 1 needs __cuda >=12 (this machine has no __cuda)"),
        "{text}"
    );
    assert!(text.contains("CONDA_OVERRIDE_CUDA"), "{text}");
    request.specs = specs(&["__unix"]);
    assert!(solve(&request).unwrap().records.is_empty());
}

#[test]
fn constrains_bind_the_machine_too() {
    let mut request = request("a 2 ; __glibc >=2.34\n a 1", &["a"]);
    request.virtual_packages = virtual_packages(&["__glibc=2.31=0"]);
    assert_eq!(solved(&request), ["a 1"]);
    request.specs = specs(&["a 2"]);
    let (conflicting, text) = explanation(&request);
    assert_eq!(conflicting, ["a ==2"]);
    assert!(text.contains("a 2 allows only __glibc >=2.34"), "{text}");
    assert!(text.contains("this machine has __glibc 2.31"), "{text}");
}

#[test]
fn a_channel_cannot_supply_virtual_packages() {
    let request = request("__cuda 12\n a 1 : __cuda", &["a"]);
    assert!(matches!(failed(&request), SolveError::Unsatisfiable(_)));
}

#[test]
fn virtual_packages_of_this_machine_are_found() {
    let packages =
        crate::virtual_packages(rattler_conda_types::Subdir::current().unwrap()).unwrap();
    assert!(packages.is_sorted());
    if cfg!(target_os = "linux") {
        assert!(
            packages
                .iter()
                .any(|package| package.name.as_normalized() == "__linux")
        );
    }
}

// What is installed ----------------------------------------------------------------------------

const AGES: &str = "a 1 : b\n a 2 : b\n b 1\n b 2\n b 3\n c 1\n c 2\n d 1 : b >=3";

#[test]
fn installed_records_stay_unless_they_are_to_be_updated() {
    let mut request = request(AGES, &["a"]);
    request.installed = installed(AGES, &["a 1", "b 1", "c 1"]);
    assert_eq!(solved(&request), ["a 1", "b 1", "c 1"]);
    request.update = UpdatePolicy::UpdateNamed;
    assert_eq!(solved(&request), ["a 2", "b 1", "c 1"]);
    request.update = UpdatePolicy::UpdateAll;
    request.orphans = Orphans::Drop;
    assert_eq!(solved(&request), ["a 2", "b 3"]);
}

#[test]
fn installed_records_give_way_to_what_is_asked_for() {
    let mut request = request(AGES, &["a", "d"]);
    request.installed = installed(AGES, &["a 1", "b 1", "c 1"]);
    assert_eq!(solved(&request), ["a 1", "b 3", "c 1", "d 1"]);
    request.specs = specs(&["a 2"]);
    request.orphans = Orphans::Drop;
    assert_eq!(solved(&request), ["a 2", "b 1"]);
}

#[test]
fn installed_records_that_no_channel_has_any_more_can_stay() {
    let mut request = request("a 2", &["a", "gone"]);
    request.installed = installed("a 1\n gone 1", &["a", "gone"]);
    assert_eq!(solved(&request), ["a 1", "gone 1"]);
}

#[test]
fn pins_hold_for_what_is_installed_only() {
    let mut request = request(AGES, &["a"]);
    request.pins = specs(&["b <3", "d <0"]);
    assert_eq!(solved(&request), ["a 2", "b 2"]);
    request.specs = specs(&["d"]);
    let (_, text) = explanation(&request);
    assert!(
        text.contains("the pin `d <0`") || text.contains("the pin `b <3`"),
        "{text}"
    );
    let error = failed(&request);
    let SolveError::Unsatisfiable(explanation) = error else {
        panic!("{error}")
    };
    assert_eq!(
        explanation.conflicting.last().unwrap().origin,
        SpecOrigin::Pin
    );
}

#[test]
fn records_newer_than_the_limit_are_not_considered() {
    let lines = "a 1 @ timestamp=1500000000000\n a 2 @ timestamp=1600000000000\n a 0.5";
    let mut request = request(lines, &["a"]);
    request.exclude_newer = Some("2018-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(solved(&request), ["a 1"]);
    request.specs = specs(&["a 2"]);
    let (_, text) = explanation(&request);
    assert!(
        text.contains("a 2 is newer than the limit 2018-01-01T00:00:00Z"),
        "{text}"
    );
    request.installed = installed(lines, &["a"]);
    assert_eq!(solved(&request), ["a 2"]);
    request.exclude_newer = Some("1999-01-01T00:00:00Z".parse().unwrap());
    request.installed = Vec::new();
    request.specs = specs(&["a"]);
    assert_eq!(solved(&request), ["a 0.5"]);
}

// Giving up ------------------------------------------------------------------------------------

#[test]
fn a_search_can_be_cancelled_and_has_an_end() {
    let mut request = request("a 1", &["a"]);
    request.cancel = Some(Arc::new(AtomicBool::new(true)));
    assert!(matches!(failed(&request), SolveError::Cancelled));
    request.cancel = None;
    request.timeout = Some(Duration::ZERO);
    assert!(matches!(failed(&request), SolveError::Timeout { .. }));
}

// Errors ---------------------------------------------------------------------------------------

#[test]
fn unknown_names_come_with_suggestions() {
    let error = failed(&request("numpy 1\n scipy 1", &["nunpy", "qqq", "scipy"]));
    assert_eq!(
        error.to_string(),
        "nunpy is not in the channel alpha; did you mean numpy?\nqqq is not in the channel alpha"
    );
    let SolveError::UnknownPackage { packages } = error else {
        panic!()
    };
    assert_eq!(packages[0].suggestions, ["numpy"]);
    let mut request = request("", &["a"]);
    request.channels.push(channel("beta", ""));
    assert_eq!(
        failed(&request).to_string(),
        "a is in none of the channels alpha, beta"
    );
    request.channels.clear();
    assert_eq!(
        failed(&request).to_string(),
        "there are no channels to search"
    );
}

#[test]
fn unreadable_records_are_named_when_they_matter() {
    let error = failed(&request("a 1 @ sha256=\"beef\"\n b 1 : a", &["b"]));
    assert!(
        error.to_string().contains("no record of a can be read"),
        "{error}"
    );
}

#[test]
fn only_the_specs_in_conflict_are_named() {
    let lines = "a 1 : x 1\n b 1 : x 2\n c 1 : x\n x 1\n x 2\n d 1\n e 1 : x";
    let (conflicting, text) = explanation(&request(lines, &["d", "c", "a", "e", "b"]));
    assert_eq!(conflicting, ["a", "b"]);
    assert_eq!(
        text,
        "`a` and `b` cannot be met together\n  \
         a 1 needs x ==1\n  b 1 needs x ==2\n  \
         x is required as ==1 (for a) and ==2 (for b) at once"
    );
}

#[test]
fn a_ladder_of_versions_is_one_line() {
    let mut lines = String::from("python 3.12.0\n");
    for minor in 1..=30 {
        for python in 5..=9 {
            let _ = writeln!(
                lines,
                "tool 1.{minor} py3{python} : python >=3.{python},<3.{}.0a0, lib >={minor}",
                python + 1
            );
        }
        let _ = writeln!(lines, "lib {minor} : python <3.11");
        let _ = writeln!(lines, "python 3.{}.0", 5 + minor % 5);
    }
    let (conflicting, text) = explanation(&request(&lines, &["python 3.12.*", "tool"]));
    assert_eq!(conflicting, ["python 3.12.*", "tool"]);
    assert!(text.lines().count() <= 6, "{text}");
    assert!(
        text.contains("tool 1.1 to 1.30 (30 versions) needs"),
        "{text}"
    );
}

#[test]
fn deep_chains_are_cut_to_a_screen() {
    let mut lines = String::from("z 1\n z 2\n y 1 : z 1\n");
    for depth in 0..40 {
        for version in 1..=3 {
            let _ = writeln!(
                lines,
                "p{depth} {version} : p{} >={version}, q{depth}",
                depth + 1
            );
        }
        let _ = writeln!(lines, "q{depth} 1 : y");
    }
    for version in 1..=3 {
        let _ = writeln!(lines, "p40 {version} : z 2, y");
    }
    let (conflicting, text) = explanation(&request(&lines, &["p0"]));
    assert_eq!(conflicting, ["p0"]);
    assert!(text.lines().count() <= 24, "{text}");
    println!("{text}");
}

#[test]
fn dependencies_in_a_circle_end_the_explanation() {
    let lines = "a 1 : b\n b 1 : a, c 2\n c 1";
    let (conflicting, text) = explanation(&request(lines, &["a"]));
    assert_eq!(conflicting, ["a"]);
    assert!(text.contains("the channels have only c 1"), "{text}");
}

#[test]
fn an_exact_version_that_is_only_a_beginning_gets_a_hint() {
    let (_, text) = explanation(&request(
        "python 3.12.1\n python 3.12.4\n python 3.11.0",
        &["python==3.12"],
    ));
    assert_eq!(
        text,
        "`python ==3.12` cannot be met\n  the channels have 3 other versions, 3.11.0 to 3.12.4\n  \
         note: `python ==3.12` means exactly this version; `python 3.12.*` also allows 3.12.4"
    );
}

#[test]
fn a_missing_build_is_told_from_a_missing_version() {
    let lines = "a 1.0 py39_0\n a 1.0 py310_0\n a 2.0 py311_0";
    let (_, text) = explanation(&request(lines, &["a 1.0 py27*"]));
    assert!(
        text.contains("the channels have other builds: py310_0 and py39_0"),
        "{text}"
    );
    let (_, text) = explanation(&request(lines, &["a 3.0 py27*"]));
    assert!(
        text.contains("the channels have only a 1.0 and 2.0"),
        "{text}"
    );
}

#[test]
fn what_servers_say_does_not_command_the_terminal() {
    let error = failed(&request("a 1 : b @ depends=[\"x\\u001b[31m\\n\"]", &["a"]));
    assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
    assert!(error.is_unsatisfiable());
}

#[test]
fn an_explanation_is_plain_data() {
    let error = failed(&request("a 1 : b 2\n b 1", &["a"]));
    let SolveError::Unsatisfiable(explanation) = error else {
        panic!("{error}")
    };
    let json = serde_json::to_value(&*explanation).unwrap();
    assert_eq!(json["conflicting"][0]["spec"], "a");
    assert_eq!(json["conflicting"][0]["origin"], "requested");
    assert!(
        json["reasons"][0]["text"]
            .as_str()
            .unwrap()
            .contains("needs b")
    );
}

#[test]
fn nothing_asked_for_is_nothing_installed() {
    assert!(solve(&SolveRequest::default()).unwrap().records.is_empty());
}
