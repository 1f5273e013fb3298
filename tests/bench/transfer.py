#!/usr/bin/env python3
"""Times `taipan fetch` against aria2c, librepo and curl, all of them reading the same metalink.

    transfer.py [--runs 5] [--only PATTERN]... [--program NAME]... [--taipan BIN] [--work DIR]

Shaped: three mirrors of 200, 100 and 40 Mbit/s, each an nginx in a network namespace of its own behind a
token bucket. `file-*` is one file of 200 MB, `set-*` are 300 files of 105 MB in sum.
    *-sound     all mirrors are in order
    *-without   the mirror of 100 Mbit/s is not in the list
    *-frozen    what that mirror sends is lost from 1 s after the start on
    *-flipped   each of that mirror's files has flipped bytes
The metalink names the slowest mirror first and gives all the same priority.
Loopback, not shaped: `loopback-file` is one file of 1 GB (against curl), `loopback-set` 5,000 files of 20 KB.

Programs alternate, so that a machine whose speed drifts is fair to all. A run counts when it ends with 0, and
all files are there with their SHA-256 and nothing else; that is checked after the clock has stopped. A line of
JSON is printed for each run, then tables. With --baseline an older taipan runs in alternation with this one. What is not installed is skipped, which is said. Shaping needs root,
iproute2 and nginx; the namespaces and servers made here are removed however this ends, except by a SIGKILL,
after which `--clean` removes them.
"""
import argparse, contextlib, fnmatch, functools, hashlib, json, os, random, shutil, signal, socket, statistics
import subprocess, sys, tempfile, threading, time
from pathlib import Path

RATES = (200, 100, 40)  # Mbit/s
BAD = 1  # the mirror that freezes or lies
FREEZE_AFTER = 1.0  # s
NAMESPACE = "taipan-bench-"
NETWORK = "10.88"
LIMIT = 240  # s, after which a run is given up
PORTS = {"sound": 8080, "flipped": 8081}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--only", action="append", metavar="PATTERN", help="a scenario, like `file-*`; may be repeated")
parser.add_argument("--program", action="append", metavar="NAME", help="only this program; may be repeated")
parser.add_argument("--baseline", metavar="BIN", help="another taipan, which runs in every scenario too")
parser.add_argument("--taipan", default=os.environ.get("CARGO_TARGET_DIR", "target") + "/release/taipan")
parser.add_argument("--work", type=Path, help="where files are made and fetched to; memory if there is enough")
parser.add_argument("--clean", action="store_true", help="remove what a killed run has left, and end")
arguments = parser.parse_args()


def default_work():
    """Disks that others use as well would drown what is measured here: making a file in advance takes longer
    on them than fetching it."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 5e9:
        return memory
    say(f"files are fetched to the disk below {tempfile.gettempdir()}: there is too little memory in {memory}")
    return None


def say(text):
    print(text, file=sys.stderr, flush=True)


def which(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")


# ---- files


def write_random(path, size, seed):
    """Bytes that do not compress; gives their SHA-256."""
    source, digest = random.Random(seed), hashlib.sha256()
    with open(path, "wb") as out:
        for start in range(0, size, 1 << 20):
            piece = source.randbytes(min(1 << 20, size - start))
            digest.update(piece)
            out.write(piece)
    return digest.hexdigest()


def flip(source, target):
    """A copy with one bit flipped in each MiB, so that none of its large ranges is right."""
    data = bytearray(source.read_bytes())
    for start in range(0, len(data), 1 << 20):
        data[(start + len(data[start : start + (1 << 20)]) // 2)] ^= 1
    target.write_bytes(data)


def make(folder, sizes, seed, lie=False):
    """Files below folder/sound, and below folder/flipped their lies; gives name -> (size, digest)."""
    files = {}
    for side in ("sound", "flipped"):
        (folder / side).mkdir(parents=True)
    for number, size in enumerate(sizes):
        name = f"f{number:05}.bin"
        files[name] = (size, write_random(folder / "sound" / name, size, f"{seed}-{number}"))
        if lie:
            flip(folder / "sound" / name, folder / "flipped" / name)
    return files


def spread(count, total, seed):
    """This number of sizes, most of them small and a few large, with this sum."""
    source = random.Random(seed)
    weights = [source.lognormvariate(0, 1.2) for _ in range(count)]
    sizes = [max(1, int(total * weight / sum(weights))) for weight in weights]
    sizes[0] += total - sum(sizes)
    return sizes


def metalink(path, files, roots):
    """RFC 5854. All mirrors have the same priority: which is the fastest is for the client to find out."""
    text = ['<?xml version="1.0" encoding="UTF-8"?>', '<metalink xmlns="urn:ietf:params:xml:ns:metalink">']
    for name, (size, digest) in files.items():
        urls = "".join(f'<url priority="1">{root}/{name}</url>' for root in roots)
        text.append(f'<file name="{name}"><size>{size}</size><hash type="sha-256">{digest}</hash>{urls}</file>')
    path.write_text("\n".join(text + ["</metalink>", ""]))


def fault(folder, files):
    """What is wrong with the files that should be in a folder; None if nothing is."""
    present = {path.name for path in folder.rglob("*") if path.is_file()}
    if missing := files.keys() - present:
        return f"{len(missing)} missing, as {min(missing)}"
    for name, (size, digest) in files.items():
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{name} is wrong"
    if extra := present - files.keys():
        return f"{len(extra)} left over, as {min(extra)}"
    return None


# ---- servers


def nginx_config(work, listens):
    servers = " ".join(f"server {{ listen {address}; root {root}; }}" for address, root in listens)
    temporary = " ".join(
        f"{kind}_temp_path {work}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # One process, so that there is one to end.
    return f"""{'user root;' if os.getuid() == 0 else ''} daemon off; master_process off; pid {work}/pid;
        error_log {work}/error.log;
        events {{ worker_connections 2048; }}
        http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
          default_type application/octet-stream; {temporary} {servers} }}"""


@contextlib.contextmanager
def nginx(work, listens, prefix=()):
    work.mkdir(parents=True)
    config = work / "nginx.conf"
    config.write_text(nginx_config(work, listens))
    command = [*prefix, which("nginx"), "-c", config, "-e", work / "error.log"]
    # Not in our process group: the terminal's Ctrl-C is for us, who end it when all else has ended.
    server = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        host, port = listens[0][0].rsplit(":", 1)
        for _ in range(500):
            try:
                socket.create_connection((host, int(port)), 0.2).close()
                break
            except OSError:
                if server.poll() is not None:
                    break
                time.sleep(0.02)
        if server.poll() is not None:
            raise RuntimeError("nginx does not start: " + (work / "error.log").read_text())
        yield
    finally:
        server.kill()
        server.wait()


def ip(*words, check=True):
    result = subprocess.run([which("ip"), *map(str, words)], capture_output=True, text=True)
    if check and result.returncode:
        raise RuntimeError(f"ip {' '.join(map(str, words))}: {result.stderr.strip()}")
    return result.returncode == 0


def remove_namespaces():
    """Removes those of a run that was killed, with the servers inside."""
    for number in range(len(RATES)):
        name = f"{NAMESPACE}{number}"
        listed = subprocess.run([which("ip"), "netns", "pids", name], capture_output=True, text=True)
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", name, check=False)
        ip("link", "del", f"tpbh{number}", check=False)


class Mirror:
    """An nginx behind a link of limited rate."""

    def __init__(self, number):
        self.number, self.name = number, f"{NAMESPACE}{number}"
        self.ours, self.address = f"{NETWORK}.{number}.1", f"{NETWORK}.{number}.2"

    @contextlib.contextmanager
    def up(self, rate, work, roots):
        ip("netns", "add", self.name)
        here, there, inside = f"tpbh{self.number}", f"tpbp{self.number}", ("netns", "exec", self.name)
        try:
            ip("link", "add", here, "type", "veth", "peer", "name", there)
            ip("link", "set", there, "netns", self.name)
            ip("addr", "add", f"{self.ours}/24", "dev", here)
            ip("link", "set", here, "up")
            ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", there)
            ip("-n", self.name, "link", "set", there, "up")
            ip("-n", self.name, "link", "set", "lo", "up")
            # What the mirror sends waits in a bucket; a tenth of a second of it at most.
            ip(*inside, which("tc"), "qdisc", "add", "dev", there, "root", "tbf",
               "rate", f"{rate}mbit", "burst", "16kb", "latency", "100ms")  # fmt: skip
            listens = [(f"{self.address}:{PORTS[side]}", root) for side, root in roots.items()]
            with nginx(work, listens, [which("ip"), *inside]):
                yield self
        finally:
            # The pair of links goes with the namespace, as soon as no process holds a socket in it.
            ip("link", "del", here, check=False)
            ip("netns", "del", self.name, check=False)

    def freeze(self):
        ip("-n", self.name, "route", "add", "blackhole", f"{self.ours}/32")

    def thaw(self):
        ip("-n", self.name, "route", "del", "blackhole", f"{self.ours}/32", check=False)


# ---- clients

LIBREPO = """
import sys, librepo, xml.etree.ElementTree as tree
ns = {"m": "urn:ietf:params:xml:ns:metalink"}
files = tree.parse(sys.argv[1]).getroot().findall("m:file", ns)
handle = librepo.Handle()
handle.urls = [url.text.rsplit("/", 1)[0] for url in files[0].findall("m:url", ns)]
handle.repotype = librepo.YUMREPO
targets = [librepo.PackageTarget(f.get("name"), dest=sys.argv[2], checksum_type=librepo.SHA256, handle=handle,
    checksum=f.find("m:hash", ns).text, expectedsize=int(f.find("m:size", ns).text)) for f in files]
librepo.download_packages(targets, failfast=False)
errors = [t.err for t in targets if t.err]
sys.exit(errors[0] if errors else 0)
"""


def has_fetch(taipan):
    return subprocess.run([taipan, "fetch", "--help"], capture_output=True).returncode == 0


@functools.cache
def programs():
    """Name -> command for a metalink, a folder and an empty folder for its own use."""
    found = {}
    taipan = shutil.which(arguments.taipan)
    if not taipan:
        say(f"skipped taipan: {arguments.taipan} is not there; `cargo build --release` makes it")
    elif not has_fetch(taipan):
        say(f"skipped taipan: {taipan} has no `fetch`")
    else:
        found["taipan"] = lambda task, out, _: [taipan, "fetch", "--quiet", task.metalink, "-d", out]
    if arguments.baseline:
        baseline = shutil.which(arguments.baseline) or sys.exit(f"{arguments.baseline} is not a program")
        found["baseline"] = lambda task, out, _: [baseline, "fetch", "--quiet", task.metalink, "-d", out]
    if aria2c := which("aria2c"):
        common = [aria2c, "--no-conf", "--console-log-level=error", "--show-console-readout=false", "-x16"]
        many = lambda task: ["-j16"] if len(task.files) > 1 else ["-s16", "-k1M"]
        found["aria2c"] = lambda task, out, _: [*common, *many(task), "-d", out, "-M", task.metalink]
    else:
        say("skipped aria2c: it is not installed")
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import librepo"], capture_output=True).returncode == 0:
            found["librepo"] = lambda task, out, _: [python, "-c", LIBREPO, task.metalink, out]
            break
    else:
        say("skipped librepo: no python can import it (Debian: python3-librepo)")
    if curl := which("curl"):
        found["curl"] = lambda task, out, _: [
            curl, "-q", "-sS", "-f", "-o", out / next(iter(task.files)), f"{task.roots[0]}/{next(iter(task.files))}"
        ]  # fmt: skip
    else:
        say("skipped curl: it is not installed")
    return {name: found[name] for name in found if not arguments.program or name in arguments.program}


class Task:
    """Files, and where they are."""

    def __init__(self, folder, name, files, roots):
        self.files, self.roots, self.metalink = files, roots, folder / f"{name}.meta4"
        self.bytes = sum(size for size, _ in files.values())
        metalink(self.metalink, files, roots)


def peak_rss(pid):
    """In MB; what the kernel has noted so far of a process that still runs."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1000
    except OSError:
        pass
    return 0.0


def run(program, task, work, meanwhile=None):
    """One run of a program. `meanwhile` is called FREEZE_AFTER s after its start."""
    out, own = work / "out", work / "own"
    for folder in (out, own):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (own / "config.toml").touch()
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HOME": str(own), "TAIPAN_CACHE_DIR": str(own / "cache"), "TAIPAN_CONFIG": str(own / "config.toml")}
    command = programs()[program](task, out, own)
    log = work / f"{program}.log"
    with open(log, "wb") as output:
        start = time.monotonic()
        child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        timer = threading.Timer(FREEZE_AFTER, meanwhile) if meanwhile else None
        try:
            if timer:
                timer.start()
            rss, ended = 0.0, threading.Event()
            # Waiting in a thread tells the end at once, however seldom the memory is looked at.
            end = []
            waiter = threading.Thread(target=lambda: (child.wait(), end.append(time.monotonic()), ended.set()))
            waiter.start()
            while not ended.wait(0.02) and time.monotonic() < start + LIMIT:
                rss = max(rss, peak_rss(child.pid))
        finally:
            late = child.poll() is None
            if late:
                child.kill()
            waiter.join()
            if timer:
                timer.cancel()
                timer.join()
    problem = None
    if late:
        problem = f"not ready after {LIMIT} s"
    elif child.returncode:
        text = [line for line in log.read_text(errors="replace").splitlines() if "error" in line.lower()]
        problem = f"exit code {child.returncode}: {text[0].strip()[:200] if text else 'it does not say why'}"
    else:
        problem = fault(out, task.files)
    return {"seconds": round(end[0] - start, 3), "rss_mb": round(rss, 1), "problem": problem}


# ---- scenarios


def measure(scenario, task, names, work, results, meanwhile=None, afterwards=None):
    names = [name for name in ("baseline", *names) if name in programs()]
    for number in range(arguments.runs):
        for name in names:
            try:
                result = run(name, task, work, meanwhile)
            finally:
                if afterwards:
                    afterwards()
            result = {"scenario": scenario, "program": name, "run": number, "bytes": task.bytes} | result
            print(json.dumps(result), flush=True)
            results.append(result)


def ideal(scenario, size):
    """Seconds that the bandwidth of the sound mirrors allows."""
    kind, bits = scenario.split("-")[1], size * 8 / 1e6
    rest = sum(RATES) - RATES[BAD]
    if kind == "sound":
        return bits / sum(RATES)
    if kind == "frozen":
        return FREEZE_AFTER + max(0.0, bits - sum(RATES) * FREEZE_AFTER) / rest
    return bits / rest


def wanted(scenario):
    return not arguments.only or any(fnmatch.fnmatch(scenario, pattern) for pattern in arguments.only)


def shaped(work, results):
    kinds = ("sound", "without", "frozen", "flipped")
    sizes = {"file": [200_000_000], "set": spread(300, 105_000_000, "set")}
    chosen = [(name, kind) for name in sizes for kind in kinds if wanted(f"{name}-{kind}")]
    if not chosen:
        return
    missing = [name for name in ("ip", "tc", "nginx") if not which(name)]
    if missing or os.getuid() != 0:
        why = f"not installed: {', '.join(missing)}" if missing else "network namespaces need root"
        return say(f"skipped the shaped mirrors: {why}")
    listed = subprocess.run([which("ip"), "netns", "list"], capture_output=True, text=True).stdout
    if NAMESPACE in listed:
        raise RuntimeError("its namespaces are there: a benchmark is running, or was killed (then use --clean)")
    try:
        time_shaped(work, results, sizes, chosen)
    finally:
        # Each mirror removes its own. This is for a signal that came between making one and noting it.
        remove_namespaces()


def time_shaped(work, results, sizes, chosen):
    for name in sizes:
        if any(name == other for other, _ in chosen):
            folder = work / name
            files = make(folder, sizes[name], name, lie=True)
            with contextlib.ExitStack() as stack:
                roots = {side: folder / side for side in PORTS}
                mirrors = [
                    stack.enter_context(Mirror(number).up(rate, work / f"{name}-nginx-{number}", roots))
                    for number, rate in enumerate(RATES)
                ]
                for scenario in (f"{name}-{kind}" for other, kind in chosen if other == name):
                    sides = ["flipped" if scenario.endswith("flipped") and m.number == BAD else "sound" for m in mirrors]
                    urls = [f"http://{m.address}:{PORTS[side]}" for m, side in zip(mirrors, sides)]
                    if scenario.endswith("without"):
                        del urls[BAD]
                    # The slowest comes first in the list, which shows who just takes the first.
                    urls.reverse()
                    frozen = scenario.endswith("frozen")
                    measure(
                        scenario, Task(work, scenario, files, urls), ("taipan", "aria2c", "librepo"), work, results,
                        meanwhile=mirrors[BAD].freeze if frozen else None,
                        afterwards=mirrors[BAD].thaw if frozen else None,
                    )  # fmt: skip
            shutil.rmtree(folder)


def loopback(work, results):
    plans = {
        "loopback-file": ([1_000_000_000], ("taipan", "curl")),
        "loopback-set": ([20_000] * 5000, ("taipan", "aria2c")),
    }
    for scenario, (sizes, names) in plans.items():
        if not wanted(scenario):
            continue
        if not which("nginx"):
            return say("skipped loopback: nginx is not installed")
        folder = work / scenario
        files = make(folder, sizes, scenario)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with nginx(folder / "nginx", [(address, folder / "sound")]):
            measure(scenario, Task(work, scenario, files, [f"http://{address}"]), names, work, results)
        shutil.rmtree(folder)


# ---- tables


def report(results):
    scenarios = list(dict.fromkeys(result["scenario"] for result in results))

    def good(scenario, program, figure="seconds"):
        return {
            r["run"]: r[figure]
            for r in results
            if (r["scenario"], r["program"], r["problem"]) == (scenario, program, None)
        }

    def median(scenario, program, figure="seconds"):
        values = list(good(scenario, program, figure).values())
        return statistics.median(values) if values else None

    print("\n| scenario | program | good runs | median s | min | max | MB/s | peak MB | ideal s | of ideal |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for scenario in scenarios:
        of = [r for r in results if r["scenario"] == scenario]
        for program in dict.fromkeys(r["program"] for r in of):
            runs = [r for r in of if r["program"] == program]
            times = list(good(scenario, program).values())
            row = [scenario, program, f"{len(times)}/{len(runs)}"]
            if times:
                middle = statistics.median(times)
                row += [f"{value:.2f}" for value in (middle, min(times), max(times))]
                row += [f"{runs[0]['bytes'] / 1e6 / middle:.1f}", f"{max(r['rss_mb'] for r in runs):.0f}"]
                if not scenario.startswith("loopback"):
                    best = ideal(scenario, runs[0]["bytes"])
                    row += [f"{best:.2f}", f"{middle / best:.2f}"]
            print("| " + " | ".join(row + ["–"] * (10 - len(row))) + " |")
    for problem in dict.fromkeys((r["scenario"], r["program"], r["problem"]) for r in results if r["problem"]):
        print(f"\n{problem[0]}, {problem[1]}: {problem[2]}")

    lines = []

    def judge(what, value, bar, at_least=False):
        met = value >= bar if at_least else value <= bar
        lines.append(f"| {what} | {value:.2f} | {'≥' if at_least else '≤'} {bar} | {'yes' if met else 'no'} |")

    def pairs(scenario, other):
        ours, theirs = good(scenario, "taipan"), good(scenario, other)
        return [ours[run] / theirs[run] for run in ours if run in theirs]

    for scenario in scenarios:
        ours = median(scenario, "taipan")
        if ours is None:
            continue
        name, kind = scenario.split("-")
        size = next(r["bytes"] for r in results if r["scenario"] == scenario)
        if ratios := pairs(scenario, "baseline"):
            judge(f"{scenario}: time / the baseline's, median of pairs", statistics.median(ratios), 1.03)
        if kind == "sound" and (ratios := pairs(scenario, "aria2c")):
            judge(f"{scenario}: time / aria2c's, median of pairs", statistics.median(ratios), 1.05)
        if kind == "frozen":
            judge(f"{scenario}: time / what the remaining bandwidth allows", ours / ideal(scenario, size), 1.25)
        for reference in ("sound", "without"):
            if kind == "flipped" and (base := median(f"{name}-{reference}", "taipan")):
                judge(f"{scenario}: time / that of {name}-{reference}", ours / base, 1.4)
        if scenario == "loopback-file":
            if ratios := pairs(scenario, "curl"):
                judge(f"{scenario}: rate / curl's, median of pairs", 1 / statistics.median(ratios), 0.9, at_least=True)
            peak = max(r["rss_mb"] for r in results if (r["scenario"], r["program"]) == (scenario, "taipan"))
            judge(f"{scenario}: peak resident memory, MB", peak, 60)
        if scenario == "loopback-set" and (ratios := pairs(scenario, "aria2c")):
            judge(f"{scenario}: time / aria2c's, median of pairs", statistics.median(ratios), 1.0)
    if lines:
        print("\n| taipan | is | bar | met |\n| --- | --- | --- | --- |")
        print("\n".join(lines))


def interrupted(number, _):
    # Once: a second signal must not break off the cleaning up.
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main():
    if arguments.clean:
        return remove_namespaces()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    results = []
    if not programs():
        sys.exit("there is nothing to time")
    with tempfile.TemporaryDirectory(prefix="taipan-bench-", dir=arguments.work or default_work()) as folder:
        # nginx reads it as root, or as us.
        work = Path(folder).resolve()
        try:
            shaped(work, results)
            loopback(work, results)
        except RuntimeError as error:
            sys.exit(str(error))
        finally:
            if results:
                report(results)


main()
