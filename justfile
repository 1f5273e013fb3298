# `just` lists these; CI runs `just ci` by way of .ci/run.

default:
    @just --list

# The main job, on embedded mirrors, with no network.
demo:
    cargo run --release -- demo

# All tests. Those against real servers say that they were skipped when a server is missing.
test:
    cargo test --workspace

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy --workspace --all-targets --no-default-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    cargo deny check licenses bans sources
    cargo machete --with-metadata

# Known vulnerabilities in dependencies. Needs the network.
advisories:
    cargo deny check advisories

# Build all fuzz targets, and run each for SECONDS from its seeds.
fuzz-smoke SECONDS="5":
    fuzz/smoke target/fuzz {{SECONDS}}

# What CI runs: it installs the real servers and other clients first.
ci:
    bash .ci/run

# What followers of a channel's history pay per update, for every history-*.tar.zst in DIR.
bench-zck DIR:
    cargo run --release -p taipan-zchunk --example history -- {{DIR}}

# Time packing and unpacking of FILE against the C tools, alternating.
bench-zck-speed FILE RUNS="5":
    cargo run --release -p taipan-zchunk --example speed -- compare {{FILE}} {{RUNS}}

# Time `taipan create` of a real channel against `rattler create`, cold and warm.
# DIR is a channel made by a generator of real packages, with a channel.json beside its subdirs.
bench-create DIR ENV="large_env" RUNS="5":
    cargo build --release
    python3 tests/bench/create.py --channel {{DIR}} --env {{ENV}} --runs {{RUNS}}

# How a sync behaves with a channel of N small artifacts, in process.
bench-sync-scale N="500000":
    cargo run --release -p taipan-channel --example sync_scale -- {{N}}

# Time `taipan mirror sync` against rclone, skopeo and oras, on loopback. Needs docker-registry, rclone and skopeo, and a Python
# with `oras` in TAIPAN_PY_ORAS.
bench-sync RUNS="5":
    cargo build --release
    cargo build --release -p taipan-tests --example s3s
    python3 tests/bench/sync.py --runs {{RUNS}}

# Time `taipan fetch` against aria2c, librepo and curl: on shaped mirrors (needs root), and on loopback.
# ONLY is a pattern of scenarios, like `file-*` or `loopback-set`.
bench-transfer RUNS="5" ONLY="*":
    cargo build --release
    python3 tests/bench/transfer.py --runs {{RUNS}} --only '{{ONLY}}'
