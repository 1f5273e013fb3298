//! Compiles the modules of `noarch: python` packages with the python of the environment.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use super::method::Linker;
use super::process::{Ended, Running};
use crate::platform;

/// A module and where its byte code goes, both relative to the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) source: String,
    pub(crate) byte_code: String,
    /// Where its byte code is kept, if there is a cache.
    pub(crate) cached: Option<PathBuf>,
}

/// How a compilation ended. The files show which modules were compiled.
#[derive(Debug)]
pub(crate) enum Compilation {
    /// Every process succeeded. Single modules may have failed, as in conda.
    Done,
    /// A process failed, with the reason.
    Failed(String),
    Cancelled,
}

/// Reads pairs of names, module and byte code, and ignores modules that fail.
///
/// It must run on every python since 2.7. The names are relative to the prefix, also in the byte
/// code, so that it is the same in every prefix; python sets the real path at import. `-S` and an
/// isolated path prevent the import of packages that are not completely linked.
const SCRIPT: &str = "\
import sys, py_compile
read = getattr(sys.stdin, 'buffer', sys.stdin).read
names = read().decode('utf-8').split('\\0')[:-1]
for source, target in zip(names[0::2], names[1::2]):
    try:
        py_compile.compile(source, target, source, True)
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass
";

/// With fewer modules per process, another process costs more time than it saves.
const MIN_MODULES_PER_PROCESS: usize = 64;

/// A generous time limit, so that an interpreter that hangs does not block the install.
const BASE_TIME: Duration = Duration::from_mins(2);
const TIME_PER_MODULE: Duration = Duration::from_millis(200);

/// Compiles `modules` in at most `workers` processes of `python` (absolute).
pub(crate) fn compile(
    prefix: &Path,
    python: &Path,
    major: u64,
    modules: &[Module],
    workers: usize,
    cancel: &AtomicBool,
) -> Compilation {
    if modules.is_empty() {
        return Compilation::Done;
    }
    let workers = workers.clamp(1, modules.len().div_ceil(MIN_MODULES_PER_PROCESS));
    let count = u32::try_from(modules.len()).unwrap_or(u32::MAX);
    let deadline = Instant::now() + BASE_TIME + TIME_PER_MODULE.saturating_mul(count);
    let started: io::Result<Vec<Running>> = shares(prefix, modules, workers)
        .iter()
        .map(|share| start(prefix, python, major, share))
        .collect();
    let mut running = match started {
        Ok(running) => running,
        Err(error) => return Compilation::Failed(error.to_string()),
    };
    let mut failure = None;
    for child in &mut running {
        match child.wait(Some(deadline), cancel) {
            Ok(Ended::Cancelled) => return Compilation::Cancelled,
            Ok(Ended::Itself(status)) if status.success() => {}
            Ok(Ended::Itself(status)) => {
                let output = child.output().unwrap_or_default();
                let last = output
                    .lines()
                    .rfind(|line| !line.trim().is_empty())
                    .unwrap_or_default();
                failure = Some(format!("python ended with {status}: {last}"));
            }
            Ok(Ended::TooSlow) => failure = Some("python took too long".to_owned()),
            Err(error) => failure = Some(error.to_string()),
        }
    }
    failure.map_or(Compilation::Done, Compilation::Failed)
}

/// Distributes the modules by size, largest first, each to the smallest share.
fn shares<'a>(prefix: &Path, modules: &'a [Module], workers: usize) -> Vec<Vec<&'a Module>> {
    let mut sized: Vec<(u64, &Module)> = modules
        .iter()
        .map(|module| {
            let size = fs::metadata(prefix.join(&module.source)).map_or(0, |data| data.len());
            (size, module)
        })
        .collect();
    sized.sort_by(|one, other| (other.0, &one.1.source).cmp(&(one.0, &other.1.source)));
    let mut shares: Vec<(u64, Vec<&Module>)> = vec![(0, Vec::new()); workers];
    for (size, module) in sized {
        if let Some(share) = shares.iter_mut().min_by_key(|share| share.0) {
            // An empty module has a cost, too.
            share.0 += size + 1024;
            share.1.push(module);
        }
    }
    shares
        .into_iter()
        .map(|share| share.1)
        .filter(|share| !share.is_empty())
        .collect()
}

fn start(prefix: &Path, python: &Path, major: u64, share: &[&Module]) -> io::Result<Running> {
    let mut list: File = tempfile::tempfile()?;
    let mut text = Vec::new();
    for module in share {
        for path in [&module.source, &module.byte_code] {
            text.extend_from_slice(path.as_bytes());
            text.push(0);
        }
    }
    list.write_all(&text)?;
    list.seek(SeekFrom::Start(0))?;
    let mut command = Command::new(python);
    command.args(if major >= 3 {
        &["-I"][..]
    } else {
        &["-E", "-s"]
    });
    // With SOURCE_DATE_EPOCH, python would make byte code that is validated by hash.
    command
        .args(["-S", "-W", "ignore", "-c", SCRIPT])
        .current_dir(prefix)
        .env_remove("SOURCE_DATE_EPOCH");
    Running::start(&mut command, Stdio::from(list))
}

impl Module {
    /// Links cached byte code into the prefix. Returns false if there is none that python would
    /// accept for this module.
    pub(crate) fn reuse(&self, prefix: &Path, linker: &Linker) -> bool {
        let Some(cached) = self.cached.as_deref() else {
            return false;
        };
        if !is_current(cached, &prefix.join(&self.source)).unwrap_or(false) {
            return false;
        }
        let target = prefix.join(&self.byte_code);
        linker
            .methods(cached)
            .and_then(|methods| methods.link(linker.order(), cached, &target))
            .is_ok()
    }

    /// Adds new byte code to the cache. A failure is only logged.
    pub(crate) fn keep(&self, prefix: &Path) {
        if let Some(cached) = self.cached.as_deref()
            && let Err(error) = keep(&prefix.join(&self.byte_code), cached)
        {
            tracing::debug!(path = %cached.display(), %error, "cannot cache byte code");
        }
    }
}

/// Links or copies `made` to `cached`, which appears complete.
fn keep(made: &Path, cached: &Path) -> io::Result<()> {
    let directory = cached.parent().unwrap_or(cached);
    fs::create_dir_all(directory)?;
    match fs::hard_link(made, cached) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // It did not match the module, or it would have been used.
            fs::remove_file(cached)?;
            fs::hard_link(made, cached)
        }
        Err(error) if platform::try_another_method(&error) => {
            let staged = tempfile::NamedTempFile::new_in(directory)?;
            fs::copy(made, staged.path())?;
            staged
                .persist(cached)
                .map(drop)
                .map_err(|error| error.error)
        }
        result => result,
    }
}

/// PEP 552: byte code begins with a magic number, flags (0: validated by time and size), and time
/// and size of its module, four bytes each, little endian. The cache is organised by python build,
/// so the magic number matches.
fn is_current(byte_code: &Path, source: &Path) -> io::Result<bool> {
    let mut header = [0; 16];
    File::open(byte_code)?.read_exact(&mut header)?;
    let metadata = fs::metadata(source)?;
    let time = metadata
        .modified()?
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(io::Error::other)?;
    // python truncates both to 32 bits.
    let low = |value: u64| (value & 0xffff_ffff).to_le_bytes();
    Ok(header[4..8] == [0; 4]
        && header[8..12] == low(time.as_secs())[..4]
        && header[12..16] == low(metadata.len())[..4])
}
