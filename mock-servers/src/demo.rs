//! The built-in channel: sufficient for a solve, parallel downloads and linking.

use crate::package::{
    ArchiveFormat, Noarch, PLACEHOLDER, Package, PackageBuilder, PackageFile, Placeholder,
};
use crate::repodata::channel_site;
use crate::site::Site;

/// The size of the demo channel.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DemoOptions {
    /// Bytes of data in `demo-corpus`, which do not compress.
    pub corpus_bytes: usize,
    /// Length of the chain `demo-link-01`, `demo-link-02`, …
    pub chain: usize,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            corpus_bytes: 6_000_000,
            chain: 12,
        }
    }
}

impl DemoOptions {
    #[must_use]
    pub fn with_corpus_bytes(self, corpus_bytes: usize) -> Self {
        Self {
            corpus_bytes,
            ..self
        }
    }

    #[must_use]
    pub fn with_chain(self, chain: usize) -> Self {
        Self { chain, ..self }
    }
}

/// A small channel for linux-64 and noarch. Deterministic.
///
/// `taipan-demo` depends on all other packages except `demo-greetings` 1.0 and 2.0 and
/// `demo-old-world`, which needs `demo-greetings <1.1` and so cannot be installed beside it.
#[derive(Debug, Clone)]
pub struct DemoChannel {
    packages: Vec<Package>,
    site: Site,
}

impl DemoChannel {
    pub fn build(options: &DemoOptions) -> Self {
        let mut packages = vec![
            program(options.chain),
            library(),
            corpus(options.corpus_bytes),
            legacy(),
            old_world(),
        ];
        packages.extend(["1.0", "1.1", "2.0"].map(greetings));
        packages.extend((1..=options.chain).map(link));
        let site = channel_site(&packages);
        Self { packages, site }
    }

    /// The files of the channel, below `linux-64/` and `noarch/`. Clones share changes; use [`Site::half`] for
    /// an independent mirror.
    pub fn site(&self) -> Site {
        self.site.clone()
    }

    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// A package by the beginning of its file name, such as `demo-corpus-`.
    pub fn package(&self, file_name_starts_with: &str) -> Option<&Package> {
        self.packages
            .iter()
            .find(|package| package.file_name.starts_with(file_name_starts_with))
    }
}

fn program(chain: usize) -> Package {
    // No line before the last depends on the environment being activated: the prefix comes from
    // the placeholder.
    let script = format!(
        "#!/bin/sh\n\
         # The prefix is written in when the package is linked.\n\
         prefix='{PLACEHOLDER}'\n\
         greeting=$(cat \"$prefix/share/demo-greetings/greeting.txt\") || exit 1\n\
         corpus=$(wc -c < \"$prefix/share/demo-corpus/corpus.bin\") || exit 1\n\
         echo \"$greeting\"\n\
         echo \"This environment is in $prefix\"\n\
         echo \"and holds a corpus of $((corpus)) bytes.\"\n"
    );
    let mut builder = PackageBuilder::new("taipan-demo", "1.0.0")
        .build_string("demo_0", 0)
        .depends("demo-greetings >=1.1,<2")
        .depends("demo-lib >=1.2")
        .depends("demo-corpus")
        .depends("demo-legacy")
        .script("bin/taipan-demo", script)
        .symlink("bin/taipan-demo-alias", "taipan-demo");
    if chain > 0 {
        builder = builder.depends(format!("demo-link-{chain:02} 1.*"));
    }
    builder.build()
}

fn greetings(version: &str) -> Package {
    let (text, timestamp) = match version {
        "1.0" => ("Hello, old world.\n", 1_690_000_000_000),
        "1.1" => (
            "Hello from an environment that came from many mirrors.\n",
            1_695_000_000_000,
        ),
        _ => (
            "Greetings have been reformed; programs for 1.x cannot use these.\n",
            1_705_000_000_000,
        ),
    };
    PackageBuilder::new("demo-greetings", version)
        .noarch(Noarch::Generic)
        .timestamp(timestamp)
        .file("share/demo-greetings/greeting.txt", text)
        .build()
}

/// A binary file with the placeholder twice, as in a library with compiled-in paths: padded with NULs,
/// followed by bytes that must not move.
fn library() -> Package {
    let mut bytes = b"\x7fDEMO\x02\x01\x01\0\0\0\0".to_vec();
    for tail in ["/share/demo-greetings", "/etc/demo-lib.conf"] {
        bytes.extend(PLACEHOLDER.bytes());
        bytes.extend(tail.bytes());
        bytes.extend([0; 9]);
        bytes.extend(noise(0x5EED, 64));
        bytes.push(0);
    }
    PackageBuilder::new("demo-lib", "1.2.3")
        .build_string("h0de3a11_4", 4)
        .depends("__linux")
        .constrains("demo-legacy >=0.9")
        .add_file(PackageFile {
            path: "lib/libdemo.so.1.2.3".to_owned(),
            bytes: bytes.into(),
            mode: 0o755,
            placeholder: Placeholder::Binary,
        })
        .symlink("lib/libdemo.so.1", "libdemo.so.1.2.3")
        .symlink("lib/libdemo.so", "libdemo.so.1")
        .file("include/demo.h", "int demo(void);\n")
        .hard_link("include/demo/demo.h", "include/demo.h")
        .build()
}

fn corpus(bytes: usize) -> Package {
    PackageBuilder::new("demo-corpus", "2024.1")
        .noarch(Noarch::Generic)
        .file("share/demo-corpus/corpus.bin", noise(0x0DD_BA11, bytes))
        .file(
            "share/demo-corpus/README.md",
            "Bytes of a fixed generator; they mean nothing.\n",
        )
        .build()
}

fn legacy() -> Package {
    PackageBuilder::new("demo-legacy", "0.9")
        .build_string("py_1", 1)
        .noarch(Noarch::Generic)
        .timestamp(1_500_000_000_000)
        .format(ArchiveFormat::TarBz2)
        .file(
            "share/demo-legacy/notes.txt",
            "Packed the old way, as .tar.bz2.\n",
        )
        .build()
}

fn old_world() -> Package {
    PackageBuilder::new("demo-old-world", "1.0")
        .noarch(Noarch::Generic)
        .depends("demo-greetings <1.1")
        .file(
            "share/demo-old-world/README.txt",
            "Needs greetings from before 1.1.\n",
        )
        .build()
}

/// Each package depends on the one before, so all of them are downloaded.
fn link(number: usize) -> Package {
    let mut builder = PackageBuilder::new(format!("demo-link-{number:02}"), format!("1.{number}"))
        .noarch(Noarch::Generic)
        .file(
            format!("share/demo-links/{number:02}.bin"),
            noise(number as u64, 20_000 + 7_000 * number),
        );
    if number > 1 {
        builder = builder.depends(format!("demo-link-{:02} >=1", number - 1));
    }
    builder.build()
}

/// Bytes that do not compress, from a fixed generator (xorshift64*).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    out.truncate(len);
    out
}
