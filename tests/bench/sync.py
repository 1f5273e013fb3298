#!/usr/bin/env python3
"""Times `taipan mirror sync` against rclone, skopeo and PyPI's oras, on loopback.

    sync.py [--runs 5] [--only PATTERN]... [--taipan BIN] [--s3s BIN] [--work DIR]

    s3-small, s3-large      2,000 x 20 KB and 5 x 100 MB to s3s-fs, from a directory: rclone --transfers 16
    oci-small, oci-large    500 x 20 KB and 5 x 100 MB to docker-registry, one blob and one shared configuration per package:
                            skopeo sync from another registry, and oras with 8 processes
    *-again                 the same once more, with nothing to do; measured once
    two                     s3-small to s3s-fs and a directory at once, against each alone

Programs alternate, each with a new server with empty storage. What each stored is counted after the clock has stopped. Prints
medians, ratios, and the peak memory of taipan. What is not installed is skipped, which is said.
"""
import argparse, fnmatch, hashlib, json, os, random, resource, shutil, socket, statistics, subprocess, sys, tempfile, time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--only", action="append", metavar="PATTERN")
parser.add_argument("--no-again", action="store_true", help="leave out the runs with nothing to do")
target = os.environ.get("CARGO_TARGET_DIR", "target")
parser.add_argument("--taipan", default=f"{target}/release/taipan")
parser.add_argument("--s3s", default=f"{target}/release/examples/s3s")
parser.add_argument("--work", type=Path, default=Path("/dev/shm"))
arguments = parser.parse_args()
KEYS = ("benchaccess", "benchsecret")
work = Path(tempfile.mkdtemp(prefix="taipan-bench-sync-", dir=arguments.work))
taipan, s3s = (str(Path(path).resolve()) for path in (arguments.taipan, arguments.s3s))


def say(text):
    print(text, file=sys.stderr, flush=True)


def wanted(name):
    return not arguments.only or any(fnmatch.fnmatch(name, pattern) for pattern in arguments.only)


def make_channel(name, count, size):
    """A channel of packages that only look like packages: their bytes do not matter."""
    root, records, seed = work / name, {}, random.Random(1)
    (root / "noarch").mkdir(parents=True)
    for number in range(count):
        # In pieces: the memory of a child is at least that of this process.
        file, sha256, md5 = f"package-{number:05}-1.0-0.conda", hashlib.sha256(), hashlib.md5()
        with open(root / "noarch" / file, "wb") as output:
            for start in range(0, size, 1 << 20):
                data = seed.randbytes(min(1 << 20, size - start))
                output.write(data), sha256.update(data), md5.update(data)
        records[file] = dict(name=f"package-{number:05}", version="1.0", build="0", build_number=0, depends=[],
                             subdir="noarch", size=size, sha256=sha256.hexdigest(),
                             md5=md5.hexdigest())
    index = dict(info=dict(subdir="noarch"), packages={}, repodata_version=1)
    (root / "noarch/repodata.json").write_text(json.dumps({**index, "packages.conda": records}))
    return root


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class S3:
    def __init__(self):
        self.root = Path(tempfile.mkdtemp(dir=work))
        (self.root / "bucket").mkdir()
        self.process = subprocess.Popen([s3s, self.root, *KEYS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def count(self):
        return sum(1 for path in self.root.rglob("*.conda"))

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.root)


class Registry:
    def __init__(self):
        self.root, self.port = Path(tempfile.mkdtemp(dir=work)), free_port()
        config = self.root / "config.yml"
        config.write_text(f"version: '0.1'\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{self.port}', secret: x}}\n"
                          f"storage: {{filesystem: {{rootdirectory: {self.root}/data}}}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.host = f"127.0.0.1:{self.port}"
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.05)

    def count(self):
        found = self.root.rglob("_manifests/tags/1.0-0")
        return sum(1 for _ in found)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.root)


class Directory:
    def __init__(self):
        self.root = Path(tempfile.mkdtemp(dir=work))

    def count(self):
        return sum(1 for path in self.root.rglob("*.conda"))

    def stop(self):
        shutil.rmtree(self.root)


def environment(**more):
    # rclone cannot read a bundle of certificates that is named for the AWS tools.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and "PROXY" not in name.upper()}
    return {**kept, "AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "AWS_REGION": "us-east-1",
            "TAIPAN_CACHE_DIR": str(work / "cache"), **more}


def timed(command, **more):
    """Seconds, and the peak memory of the process in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment(**more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[:3]} ended with {process.returncode}: {error.decode()[-2000:]}")
    return took, usage.ru_maxrss / 1000


def sync(source, *destinations, s3=None):
    command = [taipan, "mirror", "sync", "-q", f"file://{source}", "--subdir", "noarch", *destinations]
    return command + (["--s3-endpoint", s3.url] if s3 else [])


def rclone(source, s3):
    where = f":s3,provider=Other,env_auth=true,endpoint='{s3.url}',region=us-east-1,force_path_style=true:bucket/c"
    return ["rclone", "sync", "--transfers", "16", "--checkers", "16", "--config", "/dev/null", str(source), where]


ORAS = """
import sys, concurrent.futures, pathlib, oras.provider, logging
logging.disable(logging.CRITICAL)
host, root = sys.argv[1], pathlib.Path(sys.argv[2])
def push(files):
    registry = oras.provider.Registry(hostname=host, insecure=True, tls_verify=False)
    for file in files:
        name, version, build = file.name.removesuffix(".conda").rsplit("-", 2)
        registry.push(f"{host}/c/noarch/{name}:{version}-{build}", files=[f"{file}:application/vnd.conda.package.v2"],
                      disable_path_validation=True, quiet=True)
if __name__ == "__main__":
    files = sorted(root.glob("*.conda"))
    with concurrent.futures.ProcessPoolExecutor(8) as pool:
        list(pool.map(push, [files[part::8] for part in range(8)]))
"""


def skopeo(source, destination, images):
    config = work / "images.yml"
    lines = "\n".join(f'    "c/noarch/{name}": ["1.0-0"]' for name in images)
    config.write_text(f'"{source.host}":\n  tls-verify: false\n  images:\n{lines}\n')
    return ["skopeo", "sync", "--src", "yaml", "--dest", "docker", "--dest-tls-verify=false", str(config), destination.host + "/copy"]


results = {}


def compare(name, server, count, programs, again=True):
    """Runs all programs in alternation, each with a new server; and each once more with nothing to do."""
    for run in range(arguments.runs):
        for program, command in programs.items():
            place = server()
            took, memory = timed(command(place))
            stored = place.count()
            assert stored == count, (name, program, stored, count)
            results.setdefault(name, {}).setdefault(program, []).append((took, memory))
            # Once is enough: it is not close.
            if again and run == 0 and not arguments.no_again:
                took, memory = timed(command(place))
                results.setdefault(f"{name}-again", {}).setdefault(program, []).append((took, memory))
            place.stop()
            say(f"{name} {run + 1}/{arguments.runs} {program}")


try:
    small_count, large_count, images = 2000, 5, 500
    has = {name: shutil.which(name) for name in ("rclone", "skopeo", "docker-registry")}
    python = os.environ.get("TAIPAN_PY_ORAS")
    for name in [name for name, path in has.items() if not path] + ([] if python else ["oras (TAIPAN_PY_ORAS)"]):
        say(f"{name} is not installed: skipped")
    for name, count, size in (("s3-small", small_count, 20_000), ("s3-large", large_count, 100_000_000)):
        if wanted(name):
            source = make_channel(name, count, size)
            programs = {"taipan": lambda s3: sync(source, "s3://bucket/c", s3=s3)}
            if has["rclone"]:
                programs["rclone"] = lambda s3: rclone(source, s3)
            compare(name, S3, count, programs)
            shutil.rmtree(source)
    for name, count, size in (("oci-small", images, 20_000), ("oci-large", large_count, 100_000_000)):
        if wanted(name) and has["docker-registry"]:
            source = make_channel(name, count, size)
            programs = {"taipan": lambda registry: sync(source, f"oci+http://{registry.host}/c")}
            origin = None
            if has["skopeo"]:
                origin = Registry()
                timed(programs["taipan"](origin))
                names = [f"package-{number:05}" for number in range(count)]
                programs["skopeo"] = lambda registry: skopeo(origin, registry, names)
            if python:
                (work / "push.py").write_text(ORAS)
                programs["oras"] = lambda registry: [python, str(work / "push.py"), registry.host, str(source / "noarch")]
            compare(name, Registry, count, programs)
            if origin:
                origin.stop()
            shutil.rmtree(source)
    if wanted("two"):
        source = make_channel("two", small_count, 20_000)
        for run in range(arguments.runs):
            for program in ("s3 alone", "directory alone", "both"):
                s3, directory = S3(), Directory()
                places = {"s3 alone": ["s3://bucket/c"], "directory alone": [f"file://{directory.root}"]}
                places["both"] = places["s3 alone"] + places["directory alone"]
                results.setdefault("two", {}).setdefault(program, []).append(timed(sync(source, *places[program], s3=s3)))
                s3.stop(), directory.stop()
    print(f"\n{'scenario':16} {'program':16} {'median':>8} {'range':>16} {'taipan is':>12} {'memory':>8}")
    for name, programs in results.items():
        ours = statistics.median(took for took, _ in programs.get("taipan", [(float("nan"), 0)]))
        for program, runs in programs.items():
            times = [took for took, _ in runs]
            middle, memory = statistics.median(times), max(memory for _, memory in runs)
            ratio = "" if program == "taipan" or ours != ours else f"{middle / ours:.2f} x as fast"
            print(f"{name:16} {program:16} {middle:7.2f}s {min(times):7.2f}-{max(times):.2f}s {ratio:>16} {memory:6.0f} MB")
finally:
    shutil.rmtree(work, ignore_errors=True)
