//! Fetches one file from several mirrors: `fetch PATH SHA256 SIZE OUT MIRROR...`.
//!
//! `PATH` is the path of the file below each mirror, `SIZE` its length in bytes (0 if it is not
//! known), and a mirror is `https://…`, `s3://…`, `oci://…` or `file:///…`.

use std::{error::Error, io::Write as _, path::Path, sync::Arc};

use taipan_mirrors::{Location, Mirror, Provenance, SelectorConfig};
use taipan_transfer::{
    Engine, EngineOptions, Expected, HttpClient, HttpOptions, Job, MirrorSet, Silent, Target,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, sha256, size, out, mirrors @ ..] = &arguments[..] else {
        return Err("fetch PATH SHA256 SIZE OUT MIRROR...".into());
    };
    let mirrors = mirrors
        .iter()
        .map(|url| Ok(Mirror::new(Location::parse(url)?, Provenance::CommandLine)))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let client = HttpClient::new(&HttpOptions::default())?;
    let set = MirrorSet::new(mirrors, SelectorConfig::default(), &client);
    let expected = Expected {
        size: Some(size.parse()?).filter(|size| *size > 0),
        sha256: Some(sha256.parse()?),
        ..Expected::default()
    };
    let job = Job::content(path, Target::path(path), expected);
    let engine = Engine::new(EngineOptions::default(), Arc::new(Silent));
    let started = std::time::Instant::now();
    let fetched = engine.fetch_file(&set, &job, Path::new(out)).await?;
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "{:.3} s, {} bytes wasted",
        started.elapsed().as_secs_f64(),
        fetched.wasted
    )?;
    for report in set.reports() {
        writeln!(stdout, "{:>12} bytes  {}", report.bytes, report.location)?;
    }
    Ok(())
}
