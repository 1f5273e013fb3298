use rattler_conda_types::{MatchSpec, PrefixRecord, RepoDataRecord};

use super::support::{Builder, Place};
use crate::transaction::Plan;
use crate::transaction::plan::DesiredPackage;

fn installed(record: &RepoDataRecord, specs: &[&str]) -> PrefixRecord {
    let mut record = PrefixRecord::from_repodata_record(record.clone(), Vec::new());
    record.requested_specs = specs.iter().map(|&spec| spec.to_owned()).collect();
    record
}

fn record(
    place: &Place,
    name: &str,
    version: &str,
    edit: impl FnOnce(Builder) -> Builder,
) -> RepoDataRecord {
    edit(place.package(name, version)).build().record
}

fn names<'a>(records: impl IntoIterator<Item = &'a RepoDataRecord>) -> Vec<String> {
    records
        .into_iter()
        .map(|record| crate::link::dist_name(&record.package_record))
        .collect()
}

#[test]
fn removal_is_ordered_against_and_linking_along_the_dependencies() {
    let place = Place::new();
    let of = |version: &str| {
        vec![
            record(&place, "app", version, |b| b.depends(&["lib", "base"])),
            record(&place, "base", version, |b| b),
            record(&place, "lib", version, |b| b.depends(&["base >=1"])),
        ]
    };
    let old: Vec<_> = of("1")
        .iter()
        .map(|record| installed(record, &[]))
        .collect();
    let wanted: Vec<_> = of("2").into_iter().map(DesiredPackage::new).collect();
    let plan = Plan::between(&old, &wanted).unwrap();
    assert_eq!(
        names(plan.unlink.iter().map(|r| &r.repodata_record)),
        ["app-1-0", "lib-1-0", "base-1-0"]
    );
    assert_eq!(
        names(plan.link.iter().map(|l| &l.record)),
        ["base-2-0", "lib-2-0", "app-2-0"]
    );
}

#[test]
fn the_same_build_is_untouched_unless_its_archive_was_replaced() {
    let place = Place::new();
    let mut a = record(&place, "a", "1", |b| {
        b.record(|r| r.sha256 = Some([1; 32].into()))
    });
    let old = [installed(&a, &["a"])];
    assert!(
        Plan::between(&old, &[DesiredPackage::new(a.clone())])
            .unwrap()
            .is_empty()
    );
    // The same build as another kind of archive has another digest.
    let mut other_kind = a.clone();
    other_kind.identifier = "a-1-0.tar.bz2".parse().unwrap();
    other_kind.package_record.sha256 = Some([2; 32].into());
    assert!(
        Plan::between(&old, &[DesiredPackage::new(other_kind)])
            .unwrap()
            .is_empty()
    );
    a.package_record.sha256 = Some([3; 32].into());
    let plan = Plan::between(&old, &[DesiredPackage::new(a)]).unwrap();
    assert_eq!((plan.unlink.len(), plan.link.len()), (1, 1));
    assert_eq!(
        plan.link[0].requested_specs,
        ["a"],
        "what was asked for is carried over"
    );
}

#[test]
fn requested_specs_change_without_linking() {
    let place = Place::new();
    let a = record(&place, "a", "1", |b| b);
    let old = [installed(&a, &["a 1.*"])];
    let wish = |specs: Option<Vec<String>>| {
        let wanted = DesiredPackage {
            record: a.clone(),
            requested_specs: specs,
        };
        Plan::between(&old, &[wanted]).unwrap()
    };
    assert!(wish(None).is_empty());
    assert!(wish(Some(vec!["a 1.*".to_owned()])).is_empty());
    let plan = wish(Some(Vec::new()));
    assert!(plan.link.is_empty() && plan.unlink.is_empty() && !plan.is_empty());
    assert_eq!(plan.respec[0].requested_specs, Vec::<String>::new());
}

#[test]
fn a_solution_keeps_the_installed_records_of_the_same_builds() {
    let place = Place::new();
    let with_digest = |name: &str, digest: u8| {
        let edit = |b: Builder| b.record(|r| r.sha256 = Some([digest; 32].into()));
        record(&place, name, "1", edit)
    };
    let (a, b) = (with_digest("a", 1), with_digest("b", 2));
    let mut rewritten = a.clone();
    rewritten.package_record.depends = vec!["c".to_owned()];
    let old = [installed(&a, &["a 1.*"])];
    let specs = ["b", "b >=1"].map(|spec| spec.parse::<MatchSpec>().unwrap());
    let plan = Plan::for_solution(&old, &[rewritten.clone(), b.clone()], &specs).unwrap();
    assert_eq!(plan.keep[0].repodata_record, a);
    assert!(plan.unlink.is_empty() && plan.respec.is_empty());
    assert_eq!(plan.records_to_link(), [b]);
    assert_eq!(plan.link[0].requested_specs, ["b", "b >=1"]);
    // Another archive of the same build is linked anew, with what was requested for the old one.
    rewritten.package_record.sha256 = Some([3; 32].into());
    let plan = Plan::for_solution(&old, &[rewritten], &[]).unwrap();
    assert_eq!((plan.unlink.len(), plan.link.len()), (1, 1));
    assert_eq!(plan.link[0].requested_specs, ["a 1.*"]);
}
