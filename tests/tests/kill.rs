//! A killed download resumes.
//!
//! Processes are killed by SIGKILL when the mirrors have sent a random number of bytes; the sequence
//! of numbers is the same in every run. `TAIPAN_KILLS=100` means 100 kills of a file of 200 MB instead
//! of 12 kills of a file of 64 MB.

use std::{
    path::{Path, PathBuf},
    process::Child,
};

use bytes::Bytes;
use taipan_mirrors::SegmentConfig;
use taipan_mock_servers::{Behaviour, HttpServer, Site};
use taipan_tests::{Sandbox, bytes_sent, start_until_sent};
use taipan_transfer::Sha256;

const NAME: &str = "large.bin";

/// Bytes per second of each mirror. What it sends must not pile up in the buffers of sockets, where
/// it counts as sent but is not received.
const RATE: u64 = 10_000_000;

const MIRRORS: usize = 3;

/// Pseudo-random numbers by `SplitMix64`.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `0..=max`.
    fn up_to(&mut self, max: u64) -> u64 {
        self.next() % (max + 1)
    }
}

/// The file on its mirrors, and the metalink that names them.
struct Mirrors {
    file: Bytes,
    servers: Vec<HttpServer>,
}

impl Mirrors {
    async fn start(size: usize) -> Self {
        let mut numbers = Numbers(0xf11e);
        let words = std::iter::repeat_with(|| numbers.next().to_le_bytes());
        let file: Vec<u8> = words.take(size / 8).flatten().collect();
        let file = Bytes::from(file);
        let files = Site::new();
        files.insert(NAME, file.clone());
        let mut servers = Vec::new();
        for _ in 0..MIRRORS {
            let shaped = Behaviour::new().with_total_rate(RATE);
            let builder = HttpServer::builder(files.clone()).behaviour(shaped);
            servers.push(builder.start().await.unwrap());
        }
        Self { file, servers }
    }

    fn metalink(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(HttpServer::url).collect();
        let urls = urls.join(&format!("{NAME}</url><url>"));
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="{NAME}">
            <size>{}</size><hash type="sha-256">{}</hash><url>{urls}{NAME}</url>
            </file></metalink>"#,
            self.file.len(),
            Sha256::of(&self.file)
        )
    }

    /// The bytes that the mirrors have sent since the last call, after all connections have ended.
    async fn count(&self) -> u64 {
        let mut bytes = 0;
        for server in &self.servers {
            server
                .wait_until(|log| log.iter().all(|request| request.finished.is_some()))
                .await;
            bytes += bytes_sent(&server.requests());
            server.clear_requests();
        }
        bytes
    }
}

fn is_complete(path: &Path, file: &Bytes) -> bool {
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    assert!(bytes == *file, "{} has wrong bytes", path.display());
    true
}

/// Starts a download, and returns when the mirrors have sent this many bytes or it has ended.
async fn run_until(sandbox: &Sandbox, mirrors: &Mirrors, bytes: u64) -> Child {
    let arguments = ["fetch", "--quiet", "large.meta4", "-d", "out"];
    let servers: Vec<&HttpServer> = mirrors.servers.iter().collect();
    start_until_sent(sandbox, &arguments, &servers, bytes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_download_resumes() {
    let (total, size) = match std::env::var("TAIPAN_KILLS") {
        Ok(kills) => (kills.parse().unwrap(), 200_000_000),
        Err(_) => (12, 64_000_000),
    };
    let mirrors = Mirrors::start(size).await;
    let size = size as u64;
    // A killed download loses at most this much: the unrecorded part of each connection.
    let config = SegmentConfig::default();
    let per_kill = config.most_connections as u64 * config.least_bytes;
    // The last bytes may be fetched twice.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "sizes are far below 2^52"
    )]
    let copies = (size as f64 * config.extra_share) as u64;

    let mut numbers = Numbers(7);
    let (mut kills, mut at_stake, mut again) = (0, 0, 0);
    while kills < total {
        let sandbox = Sandbox::new();
        sandbox.write("large.meta4", &mirrors.metalink());
        std::fs::create_dir(sandbox.path("out")).unwrap();
        let path: PathBuf = sandbox.path("out").join(NAME);

        let (mut sent, mut allowed, mut moments) = (0, size + copies, Vec::new());
        for _ in 0..=numbers.up_to(2).min(total - kills - 1) {
            // From the first byte to the last one.
            let moment = numbers.up_to(size - (sent.min(size)));
            moments.push(moment);
            let mut child = run_until(&sandbox, &mirrors, moment).await;
            child.kill().unwrap();
            child.wait().unwrap();
            at_stake += moment;
            sent += mirrors.count().await;
            allowed += per_kill;
            kills += 1;
            if is_complete(&path, &mirrors.file) {
                break;
            }
        }
        sandbox
            .run(&["fetch", "large.meta4", "-d", "out"])
            .expect(0);
        sent += mirrors.count().await;
        assert!(is_complete(&path, &mirrors.file));
        assert!(
            sent <= allowed,
            "killed after {moments:?} bytes, the mirrors have sent {sent} bytes of a file of {size}"
        );
        again += sent.saturating_sub(size);
        let left: Vec<_> = std::fs::read_dir(sandbox.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, [NAME], "killed after {moments:?} bytes");
    }
    // Without resuming, this much would have been sent twice. It must be far more than what is
    // allowed for the test to be meaningful.
    assert!(at_stake > 2 * kills * per_kill, "only {at_stake} bytes");
    assert!(
        again <= kills * per_kill,
        "{again} bytes were sent twice, at {kills} kills"
    );
}
