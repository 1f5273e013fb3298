#!/usr/bin/env python3
"""Times `taipan create` against `rattler create` on one channel served by nginx on loopback.

    create.py --channel DIR [--env large_env] [--runs 5] [--taipan BIN] [--rattler BIN]

DIR is a channel with a channel.json, whose `specs` hold the named list. Cold means an empty cache, warm a
cache that holds all packages; the prefix is new in every run. The two programs alternate, so that a
machine whose speed drifts is fair to both. Prints a row per figure: median, and the ratio of each pair of
runs (taipan / rattler) as minimum, median and maximum. Without a rattler binary it says so and times taipan
alone. Needs nginx.
"""
import argparse, json, os, shutil, signal, socket, statistics, subprocess, sys, tempfile, time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--channel", required=True, type=Path)
parser.add_argument("--env", default="large_env")
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--taipan", default=os.environ.get("CARGO_TARGET_DIR", "target") + "/release/taipan")
parser.add_argument("--rattler", default=shutil.which("rattler"))
parser.add_argument("--no-compile", action="store_true", help="taipan compiles no bytecode, as rattler does not")
arguments = parser.parse_args()
nginx = shutil.which("nginx") or "/usr/sbin/nginx"
if not os.access(nginx, os.X_OK):
    sys.exit("nginx is not installed")
specs = json.loads((arguments.channel / "channel.json").read_text())["specs"][arguments.env]


def serve(root, work):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = work / "nginx.conf"
    config.write_text(f"""
        {'user root;' if os.getuid() == 0 else ''} daemon off; pid {work}/nginx.pid; error_log {work}/error.log; worker_processes 1;
        events {{ worker_connections 1024; }}
        http {{ access_log off; sendfile on; default_type application/octet-stream;
          client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
          uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
          server {{ listen 127.0.0.1:{port}; root {root.resolve()}; }} }}""")
    server = subprocess.Popen([nginx, "-c", config, "-e", work / "error.log"])
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 0.1).close()
            return server, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nginx does not answer; see {work}/error.log")


def timed(command, environment, log):
    start = time.monotonic()
    with open(log, "ab") as out:
        child = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    if status:
        sys.exit(f"{command[0]} failed; see {log}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_mb": usage.ru_maxrss / 1000}


def run(program, url, work, cache):
    prefix = work / f"prefix-{program}"
    if program == "taipan":
        command = [arguments.taipan, "create", "--quiet", "-p", prefix, "-c", url, *specs] + ["--no-compile"] * arguments.no_compile
        environment = {"TAIPAN_CACHE_DIR": str(cache), "TAIPAN_CONFIG": str(work / "config.toml")}
    else:
        command = [arguments.rattler, "create", "-c", url, "--target-prefix", prefix, *specs]
        environment = {"RATTLER_CACHE_DIR": str(cache)}
    result = timed(command, environment, work / f"{program}.log")
    result["packages"] = len(list(prefix.glob("conda-meta/*.json")))
    shutil.rmtree(prefix)
    return result


with tempfile.TemporaryDirectory(prefix="taipan-bench-") as folder:
    work = Path(folder)
    (work / "config.toml").touch()
    server, url = serve(arguments.channel, work)
    try:
        programs = ["taipan"] + (["rattler"] if arguments.rattler else [])
        if not arguments.rattler:
            print("rattler is not installed: timing taipan alone")
        results = {}
        for heat in ("cold", "warm"):
            for number in range(arguments.runs + 1):
                for program in programs:
                    cache = work / f"cache-{program}"
                    if heat == "cold":
                        shutil.rmtree(cache, ignore_errors=True)
                    cache.mkdir(exist_ok=True)
                    result = run(program, url, work, cache)
                    if number:  # the first of each is a warm-up
                        results.setdefault((heat, program), []).append(result)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()

print(f"{arguments.env}: {len(specs)} specs, {results['cold', 'taipan'][0]['packages']} packages, {arguments.runs} runs each")
print("| | figure | taipan | rattler | ratio min | median | max |\n| --- | --- | --- | --- | --- | --- | --- |")
for heat in ("cold", "warm"):
    for figure in ("wall_s", "cpu_s", "rss_mb"):
        ours = [r[figure] for r in results[heat, "taipan"]]
        theirs = [r[figure] for r in results.get((heat, "rattler"), [])]
        row = [heat, figure, f"{statistics.median(ours):.2f}"]
        if theirs:
            ratios = [a / b for a, b in zip(ours, theirs)]
            row += [f"{statistics.median(theirs):.2f}"] + [f"{f(ratios):.2f}" for f in (min, statistics.median, max)]
        print("| " + " | ".join(row) + " |")
