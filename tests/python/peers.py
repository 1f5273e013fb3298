#!/usr/bin/env python3
"""Another client's opinion of what taipan did.

    peers.py records PREFIX             every record of conda-meta is read by py-rattler
    peers.py solve CHANNEL_URL SPEC...  prints what py-rattler would install, one `name version build` a line
"""
import asyncio, os, sys
from pathlib import Path

import rattler


def records(prefix):
    files = sorted(Path(prefix).glob("conda-meta/*.json"))
    assert files, f"{prefix} has no records"
    for file in files:
        record = rattler.PrefixRecord.from_path(file)
        assert file.stem == f"{record.name.source}-{record.version}-{record.build}", file
        assert record.url and record.channel and record.sha256 and record.size, file
        assert len(record.files) == len(record.paths_data.paths), file
        missing = [path for path in record.files if not Path(prefix, path).exists() and not Path(prefix, path).is_symlink()]
        assert not missing, (file, missing[:3])
    print(len(files))


async def solve(url, *specs):
    solution = await rattler.solve([rattler.Channel(url)], list(specs), platforms=["linux-64", "noarch"],
                                   virtual_packages=rattler.VirtualPackage.detect())
    for record in sorted(solution, key=lambda record: record.name.normalized):
        print(record.name.normalized, record.version, record.build)


if sys.argv[1] == "records":
    records(sys.argv[2])
else:
    asyncio.run(solve(*sys.argv[2:]))
# About one run in forty, py-rattler's threads crash while the interpreter is taken down, after all
# is printed. An exception has ended the program before this line, with its own status.
sys.stdout.flush()
os._exit(0)
