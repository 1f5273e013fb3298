//! The text of each error.

use crate::{
    ConflictingSpec, Explanation, Reason, SolveError, SpecOrigin, UnknownPackage, parse_spec_list,
};

/// A sample of each variant, as text with its causes. A variant without a sample does not compile.
macro_rules! texts {
    ($error:ident { $($variant:ident => $sample:expr),* $(,)? }) => {{
        #[expect(dead_code, reason = "the compiler checks that all variants are listed")]
        fn exhaustive(error: &$error) {
            match error {
                $($error::$variant { .. } => (),)*
            }
        }
        let mut text = format!("{}\n", stringify!($error));
        $(
            let sample = $sample;
            assert!(matches!(sample, $error::$variant { .. }));
            text.push_str(&chain(stringify!($variant), &sample));
        )*
        text
    }};
}

fn chain(variant: &str, error: &dyn std::error::Error) -> String {
    let mut lines = vec![format!("  {variant}: {error}")];
    let mut cause = error.source();
    while let Some(error) = cause {
        lines.push(format!("    caused by: {error}"));
        cause = error.source();
    }
    lines.join("\n") + "\n"
}

#[test]
fn solve_errors() {
    let unknown = |channels: &[&str], suggestions: &[&str]| UnknownPackage {
        spec: "nunpy >=1".to_owned(),
        name: "nunpy".to_owned(),
        channels: channels.iter().map(|&it| it.to_owned()).collect(),
        suggestions: suggestions.iter().map(|&it| it.to_owned()).collect(),
    };
    let conflicting = |spec: &str, origin| ConflictingSpec {
        spec: spec.to_owned(),
        origin,
    };
    insta::assert_snapshot!(texts!(SolveError {
        Unsatisfiable => SolveError::Unsatisfiable(Box::new(Explanation {
            conflicting: vec![
                conflicting("a", SpecOrigin::Requested),
                conflicting("b <2", SpecOrigin::Pin),
            ],
            reasons: vec![Reason::new("a 1 needs b >=2", Vec::new())],
            notes: vec!["similar names: c".to_owned()],
        })),
        UnknownPackage => SolveError::UnknownPackage {
            packages: vec![
                unknown(&["main"], &["numpy", "numba"]),
                unknown(&["main", "other"], &["numpy"]),
                unknown(&[], &[]),
            ],
        },
        UnknownChannel => SolveError::UnknownChannel {
            spec: "third::a".to_owned(),
            channel: "third".to_owned(),
        },
        NotOneName => SolveError::NotOneName { spec: "py*".to_owned() },
        Timeout => SolveError::Timeout { after: std::time::Duration::from_secs(5) },
        Cancelled => SolveError::Cancelled,
    }));
}

#[test]
fn spec_errors() {
    let specs = [
        ">=1",
        "numpy@1",
        "num py*",
        "py*",
        "nümpy",
        "numpy >=",
        "numpy =>1",
        "numpy ^1",
        "numpy[version='>=1'",
        "numpy[colour=red]",
        "numpy[extras=[blas]]",
    ];
    let mut text = String::new();
    for spec in specs {
        if let Err(error) = parse_spec_list(spec) {
            text.push_str(&chain("SpecListError", &error));
        }
    }
    insta::assert_snapshot!(text);
}
