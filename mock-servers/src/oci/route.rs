//! Paths of the distribution API.

/// What a path below `/v2/` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Manifest { name: String, reference: String },
    Blob { name: String, digest: String },
    UploadStart { name: String },
    Upload { name: String, id: String },
    Tags { name: String },
    Referrers { name: String, digest: String },
}

impl Route {
    /// Repository names contain slashes, so a path is parsed from its end.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v2")?;
        if path.is_empty() || path == "/" {
            return Some(Self::Base);
        }
        let path = path.strip_prefix('/')?;
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Some(Self::Tags { name: valid(name)? });
        }
        if let Some(name) = path
            .strip_suffix("/blobs/uploads/")
            .or_else(|| path.strip_suffix("/blobs/uploads"))
        {
            return Some(Self::UploadStart { name: valid(name)? });
        }
        let (rest, last) = path.rsplit_once('/')?;
        let last = last.to_owned();
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            return Some(Self::Upload {
                name: valid(name)?,
                id: last,
            });
        }
        if let Some(name) = rest.strip_suffix("/blobs") {
            return Some(Self::Blob {
                name: valid(name)?,
                digest: last,
            });
        }
        if let Some(name) = rest.strip_suffix("/manifests") {
            return Some(Self::Manifest {
                name: valid(name)?,
                reference: last,
            });
        }
        let name = rest.strip_suffix("/referrers")?;
        Some(Self::Referrers {
            name: valid(name)?,
            digest: last,
        })
    }

    pub(crate) fn repository(&self) -> Option<&str> {
        match self {
            Self::Base => None,
            Self::Manifest { name, .. }
            | Self::Blob { name, .. }
            | Self::UploadStart { name }
            | Self::Upload { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
        }
    }
}

/// The grammar of repository names (distribution spec, "Pulling manifests"): components of
/// lower-case alphanumerics, separated inside by one `.`, one or two `_`, or any number of `-`.
fn valid(name: &str) -> Option<String> {
    let component = |component: &str| {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        component.starts_with(alphanumeric)
            && component.ends_with(alphanumeric)
            && component
                .split(alphanumeric)
                .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
    };
    (name.len() <= 255 && name.split('/').all(component)).then(|| name.to_owned())
}

/// The grammar of tags.
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// The hexadecimal part of a well-formed SHA-256 digest, the only algorithm served here.
pub(crate) fn sha256_hex(digest: &str) -> Option<&str> {
    let digits = digest.strip_prefix("sha256:")?;
    let valid = digits.len() == 64
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    valid.then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_may_contain_the_words_of_the_api() {
        assert_eq!(Route::of("/v2/"), Some(Route::Base));
        assert_eq!(
            Route::of("/v2/a/blobs/blobs/x"),
            Some(Route::Blob {
                name: "a/blobs".to_owned(),
                digest: "x".to_owned()
            })
        );
        assert_eq!(
            Route::of("/v2/ns/linux-64/repodata.json/manifests/latest"),
            Some(Route::Manifest {
                name: "ns/linux-64/repodata.json".to_owned(),
                reference: "latest".to_owned()
            })
        );
        assert_eq!(
            Route::of("/v2/a/blobs/uploads/"),
            Some(Route::UploadStart {
                name: "a".to_owned()
            })
        );
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for name in ["_a", "a_", "a___b", "a..b", "a_-b", "A", "", "a//b", "é"] {
            assert_eq!(Route::of(&format!("/v2/{name}/tags/list")), None, "{name}");
        }
        for name in ["a__b", "a--b", "a.b", "zzz_libgcc_mutex", "a/b/c"] {
            assert!(
                Route::of(&format!("/v2/{name}/tags/list")).is_some(),
                "{name}"
            );
        }
    }

    #[test]
    fn tags_outside_the_grammar_are_refused() {
        assert!(is_tag("1.0__p__3-h_0"));
        assert!(!is_tag("1.0+3") && !is_tag("-a") && !is_tag("") && !is_tag(&"a".repeat(129)));
    }

    proptest! {
        #[test]
        fn any_path_is_survived(path in "/v2/[a-z_./:-]{0,30}(/blobs/|/manifests/|/tags/list)?.{0,9}") {
            if let Some(route) = Route::of(&path) {
                prop_assert!(path.contains(route.repository().unwrap_or("/v2")));
            }
        }
    }
}
