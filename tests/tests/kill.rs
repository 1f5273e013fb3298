//! A download that is killed goes on where it was.
//!
//! The processes are killed by SIGKILL when the mirrors have sent a random number of bytes, from a
//! sequence that is the same in every run. `TAIPAN_KILLS=100` makes it a hundred kills of a file
//! of 200 MB instead of a dozen of 64 MB.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    pin::pin,
    process::Child,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::future::{self, Either};
use taipan_mirrors::SegmentConfig;
use taipan_mock_servers::{Behaviour, HttpServer, RequestLog, Site};
use taipan_tests::Sandbox;
use taipan_transfer::Sha256;

const NAME: &str = "large.bin";

/// Bytes per second of each mirror. What it sends must not pile up in the buffers of sockets: it
/// would count as sent although nobody has received it.
const RATE: u64 = 10_000_000;

const MIRRORS: usize = 3;

/// Numbers that look random, by the generator that is called `SplitMix64`.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..=most`.
    fn up_to(&mut self, most: u64) -> u64 {
        self.next() % (most + 1)
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

    /// Waits until they have sent so many bytes together since the last time that they were
    /// counted.
    async fn wait_for(&self, bytes: u64) {
        let counts: Vec<AtomicU64> = self.servers.iter().map(|_| AtomicU64::new(0)).collect();
        let sum = || {
            counts
                .iter()
                .map(|it| it.load(Ordering::SeqCst))
                .sum::<u64>()
        };
        // Each keeps its own count, so that whoever sends the last of these bytes sees it.
        let each = self.servers.iter().zip(&counts).map(|(server, count)| {
            Box::pin(server.wait_until(move |log| {
                count.store(sent(log), Ordering::SeqCst);
                sum() >= bytes
            }))
        });
        future::select_all(each).await;
    }

    /// How many bytes they have sent since the last call, after all connections have ended.
    async fn count(&self) -> u64 {
        let mut bytes = 0;
        for server in &self.servers {
            server
                .wait_until(|log| log.iter().all(|request| request.finished.is_some()))
                .await;
            bytes += sent(&server.requests());
            server.clear_requests();
        }
        bytes
    }
}

fn sent(log: &[RequestLog]) -> u64 {
    log.iter().map(|request| request.bytes_sent).sum()
}

fn is_there(path: &Path, file: &Bytes) -> bool {
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    assert!(bytes == *file, "{} has wrong bytes", path.display());
    true
}

/// Starts a download, and waits until it has come so far; one that ends before is also good.
async fn run_until(sandbox: &Sandbox, mirrors: &Mirrors, bytes: u64) -> Child {
    let mut child = sandbox.start(&["fetch", "--quiet", "large.meta4", "-d", "out"]);
    let mut stdout = child.stdout.take().unwrap();
    // Its stdout is open as long as it lives.
    let mut end = tokio::task::spawn_blocking(move || stdout.read_to_end(&mut Vec::new()));
    if let Either::Right((read, _)) = future::select(pin!(mirrors.wait_for(bytes)), &mut end).await
    {
        read.unwrap().unwrap();
    }
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_download_goes_on_where_it_was() {
    let (total, size) = match std::env::var("TAIPAN_KILLS") {
        Ok(kills) => (kills.parse().unwrap(), 200_000_000),
        Err(_) => (12, 64_000_000),
    };
    let mirrors = Mirrors::start(size).await;
    let size = size as u64;
    // A download that is killed has this much under way: on each connection a segment, and that
    // is given back in pieces of a MiB.
    let config = SegmentConfig::default();
    let per_kill = config.most_connections as u64 * config.least_bytes;
    // Of the last bytes a second copy may be fetched.
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
            // From before the first byte to after the last one.
            let moment = numbers.up_to(size - (sent.min(size)));
            moments.push(moment);
            let mut child = run_until(&sandbox, &mirrors, moment).await;
            child.kill().unwrap();
            child.wait().unwrap();
            at_stake += moment;
            sent += mirrors.count().await;
            allowed += per_kill;
            kills += 1;
            if is_there(&path, &mirrors.file) {
                break;
            }
        }
        sandbox
            .run(&["fetch", "large.meta4", "-d", "out"])
            .expect(0);
        sent += mirrors.count().await;
        assert!(is_there(&path, &mirrors.file));
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
    // If every download had begun again, this much would have been sent twice. It has to be far
    // more than what is allowed, or nothing was shown.
    assert!(at_stake > 2 * kills * per_kill, "only {at_stake} bytes");
    assert!(
        again <= kills * per_kill,
        "{again} bytes were sent twice, at {kills} kills"
    );
}
