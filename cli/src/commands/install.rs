//! `taipan create` and `taipan install`.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use rattler_conda_types::{MatchSpec, Subdir};
use taipan_channel::{ChannelIndexes, RepodataCache, RepodataOptions, fetch_channels};
use taipan_installer::{
    LinkOptions, LockedPrefix, Plan, Prefix, Prepared, Preparer, Summary, Transaction,
};
use taipan_mirrors::decode_text;
use taipan_package::{ExtractLimits, Store};
use taipan_solver::{
    ChannelPriority, Solution, SolveRequest, UpdatePolicy, parse_spec, parse_spec_list, solve,
    virtual_packages,
};
use taipan_transfer::Engine;

use super::{
    command_line::command_line,
    install_platform::{is_of_this_machine, platform_of, remember},
    install_report::{InstallReport, Times},
};
use crate::{
    args::{InstallArgs, Priority},
    context::{ChannelSelection, Context},
    error::AppError,
    exit::Exit,
    interrupt::Interrupt,
    printer::Printer,
    progress::{Downloads, Links},
    settings::Settings,
};

/// The time limit of the solver. Real environments take well under a second.
const SOLVE_TIMEOUT: Duration = Duration::from_mins(5);

/// Runs the command. `creating` distinguishes `create` from `install`.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &InstallArgs,
    creating: bool,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let specs = read_specs(args)?;
    let active = settings.active_prefix.as_ref().filter(|_| !creating);
    let path = args.prefix.as_ref().or(active);
    let prefix = Prefix::open(path.ok_or(AppError::NoPrefix { creating })?)?;
    check_prefix(&prefix, creating)?;
    let context = interrupt.or(Context::new(settings, ChannelSelection::Settings, printer));
    let context = context.await.ok_or(AppError::Interrupted)??;
    let install = Install {
        settings,
        printer,
        args,
        interrupt,
        context,
    };
    let result = install.run(&prefix, &specs, creating).await;
    // What was learnt of the mirrors matters most when the command failed.
    install.context.save();
    result
}

struct Install<'a> {
    settings: &'a Settings,
    printer: &'a Arc<Printer>,
    args: &'a InstallArgs,
    interrupt: &'a Interrupt,
    context: Context,
}

impl Install<'_> {
    async fn run(
        &self,
        prefix: &Prefix,
        specs: &[MatchSpec],
        creating: bool,
    ) -> Result<Exit, AppError> {
        let started = Instant::now();
        let report = InstallReport::new(self.printer, creating);
        let locked = self.lock(prefix).await?;
        let installed = prefix.records()?;
        let platform = platform_of(&self.settings.platform, prefix.path(), &installed)?.value;
        let indexes = if specs.is_empty() && installed.is_empty() {
            // An empty environment needs no repodata.
            Vec::new()
        } else {
            self.interruptible(self.repodata(platform, &report))
                .await??
        };

        let solving = Instant::now();
        let pins = parse_spec_list(&prefix.pinned()?);
        let pins = pins.map_err(|error| spec_file_error(&prefix.pinned_file(), error))?;
        let request = SolveRequest {
            channels: indexes.clone(),
            virtual_packages: virtual_packages(platform)?,
            ..SolveRequest::for_environment(specs, &installed, pins)
        };
        let solution = self.solve(request).await?;
        let solve_time = solving.elapsed();

        let plan = Plan::for_solution(&installed, &solution.records, specs)?;
        let store = self.store().await?;
        let estimator = self.preparer(
            &store,
            self.context.engine(Arc::new(taipan_transfer::Silent)),
        );
        let (missing, size) = estimator.missing(&plan.records_to_link());
        report.plan(&plan, missing, size, solve_time);
        let Some(locked) = locked else {
            self.printer.say("Dry run: nothing was changed");
            return Ok(Exit::Done);
        };

        let fetching = Instant::now();
        let downloads = Downloads::new(self.printer, "download and extract", Some(size));
        let work = self.preparer(&store, self.context.engine(downloads.clone()));
        let prepared = self
            .interruptible(work.prepare(plan.records_to_link()))
            .await;
        downloads.finish();
        let prepared: Vec<Prepared> = prepared??;
        let fetch_time = fetching.elapsed();

        let linking = Instant::now();
        let transaction = Transaction::new(plan, &prepared, &indexes);
        let summary = self.link(transaction, locked, specs, platform).await?;
        remember(prefix.path(), platform)?;
        let times = Times {
            solve: solve_time.as_secs_f64(),
            fetch: fetch_time.as_secs_f64(),
            link: linking.elapsed().as_secs_f64(),
            total: started.elapsed().as_secs_f64(),
        };
        super::mirrors::show(self.printer, &self.context.channels);
        let downloaded = prepared.iter().filter(|it| it.fetched.is_some()).count();
        let received = downloads.received();
        report.summary(prefix.path(), &summary, downloaded, received, times);
        Ok(Exit::Done)
    }

    /// Locks the prefix, which repairs what a killed run left. This comes before the records are
    /// read: they must not change until they are linked. A dry run writes nothing, so it does not
    /// lock.
    async fn lock(&self, prefix: &Prefix) -> Result<Option<LockedPrefix>, AppError> {
        if self.args.dry_run {
            return Ok(None);
        }
        let (prefix, flag) = (prefix.clone(), self.flag());
        Ok(Some(blocking(move || prefix.lock(&flag)).await?))
    }

    /// The indexes of all channels, fetched at once.
    async fn repodata(
        &self,
        platform: Subdir,
        report: &InstallReport<'_>,
    ) -> Result<Vec<ChannelIndexes>, AppError> {
        let channels = &self.context.channels;
        if channels.is_empty() {
            return Err(AppError::NoChannel);
        }
        let subdirs = BTreeSet::from([platform.to_string(), "noarch".to_owned()]);
        let cache = RepodataCache::new(self.settings.cache_dir.value.join("repodata"));
        let options = RepodataOptions::default();
        let downloads = Downloads::new(self.printer, "repodata", None);
        let engine = self.context.engine(downloads.clone());
        let fetched = fetch_channels(&engine, channels, &subdirs, &cache, options).await;
        downloads.finish();
        let mut indexes = Vec::new();
        for (place, subdirs) in channels.iter().zip(fetched?) {
            let channel = &place.channel;
            for subdir in &subdirs {
                report.repodata(channel.name(), subdir);
            }
            indexes.push(ChannelIndexes {
                name: channel.name().to_owned(),
                url: channel.canonical_url(),
                indexes: subdirs.into_iter().map(|subdir| subdir.index).collect(),
            });
        }
        Ok(indexes)
    }

    async fn solve(&self, request: SolveRequest) -> Result<Solution, AppError> {
        let request = SolveRequest {
            channel_priority: match self.settings.channel_priority.value {
                Priority::Strict => ChannelPriority::Strict,
                Priority::Flexible => ChannelPriority::Flexible,
                Priority::Disabled => ChannelPriority::Disabled,
            },
            update: UpdatePolicy::KeepInstalled,
            timeout: Some(SOLVE_TIMEOUT),
            cancel: Some(self.flag()),
            ..request
        };
        Ok(blocking(move || solve(&request)).await?)
    }

    async fn store(&self) -> Result<Arc<Store>, AppError> {
        let root = self.settings.cache_dir.value.join("pkgs");
        Ok(Arc::new(blocking(move || Store::open(root)).await?))
    }

    fn preparer(&self, store: &Arc<Store>, engine: Engine) -> Preparer {
        Preparer {
            engine,
            store: Arc::clone(store),
            channels: self.context.channels.clone(),
            client: self.context.client.clone(),
            partial_dir: self.settings.cache_dir.value.join("partial"),
            limits: ExtractLimits::default(),
            jobs: self.context.jobs(),
        }
    }

    async fn link(
        &self,
        transaction: Transaction,
        locked: LockedPrefix,
        specs: &[MatchSpec],
        platform: Subdir,
    ) -> Result<Summary, AppError> {
        // Programs for another platform cannot be run here.
        let is_native = is_of_this_machine(platform);
        if !is_native {
            self.printer.say(&format!(
                "{platform} is not the platform of this machine: link scripts are not run, and Python \
                 sources not compiled"
            ));
        }
        let mut options = LinkOptions::default()
            .with_tool("taipan", env!("CARGO_PKG_VERSION"), command_line())
            .with_run_scripts(is_native && !self.args.no_scripts)
            .with_compile_pyc(is_native && !self.args.no_compile)
            .with_byte_code_cache(self.settings.cache_dir.value.join("pyc"))
            .with_update_specs(specs.iter().map(ToString::to_string).collect());
        if self.settings.always_copy.value {
            options = options.with_always_copy();
        }
        let links = Links::new(self.printer);
        let (observer, flag) = (Arc::clone(&links), self.flag());
        let result =
            blocking(move || transaction.execute(&locked, &options, &*observer, &flag)).await;
        links.finish();
        Ok(result?)
    }

    /// Runs `work` until it ends or the user interrupts it.
    async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T, AppError> {
        self.interrupt.or(work).await.ok_or(AppError::Interrupted)
    }

    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(self.interrupt.flag())
    }
}

/// The specs of the command line and of spec files.
fn read_specs(args: &InstallArgs) -> Result<Vec<MatchSpec>, AppError> {
    let mut specs = Vec::new();
    for text in &args.specs {
        specs.push(parse_spec(text)?);
    }
    for path in &args.files {
        let read = |source| AppError::ReadSpecs {
            path: path.clone(),
            source,
        };
        let bytes = std::fs::read(path).map_err(read)?;
        let text = decode_text(&bytes);
        let text = text.map_err(|error| read(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        if let Some(kind) = foreign_list(&text) {
            let path = path.clone();
            return Err(AppError::ForeignSpecs { path, kind });
        }
        specs.extend(parse_spec_list(&text).map_err(|error| spec_file_error(path, error))?);
    }
    Ok(specs)
}

/// What a file is that others install from, if it is no list of specs.
fn foreign_list(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim_end);
    let is_key = |line: &str| {
        let keys = [
            "dependencies:",
            "channels:",
            "name:",
            "prefix:",
            "variables:",
        ];
        // `name::x` is a spec with a channel.
        let rest = keys.iter().find_map(|key| line.strip_prefix(key));
        rest.is_some_and(|rest| !rest.starts_with(':'))
    };
    lines.find_map(|line| match line {
        "@EXPLICIT" => Some("an explicit list of package URLs"),
        line if is_key(line) => Some("an environment file in YAML"),
        _ => None,
    })
}

fn spec_file_error(path: &Path, error: taipan_solver::SpecListError) -> AppError {
    AppError::SpecFile {
        place: format!("{}:{}: `{}`", path.display(), error.line, error.text),
        source: error.source,
    }
}

fn check_prefix(prefix: &Prefix, creating: bool) -> Result<(), AppError> {
    let path = prefix.path().to_owned();
    match (creating, prefix.is_environment()) {
        (true, true) => Err(AppError::IsEnvironment { prefix: path }),
        (false, true) => Ok(()),
        // Taking the lock repairs what a killed run left.
        (_, false) if prefix.is_interrupted() => Ok(()),
        (true, false) if prefix.is_vacant() => Ok(()),
        (true, false) => Err(AppError::NotEmpty { prefix: path }),
        (false, false) => Err(AppError::NoEnvironment { prefix: path }),
    }
}

/// Runs `work`, which blocks, on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
