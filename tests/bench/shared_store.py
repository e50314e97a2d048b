"""What a store in a bucket costs against one in a folder: seconds an entry and a MB, and a listing of 10,000 entries.

    python tests/bench/shared_store.py

The server is moto's, in a process of its own on this machine: the figures are those of the client and of that server,
without a network. Puts and fetches are taken in turns with those of the folder.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PACKAGES = TESTS.parent / ".cache/s3"
sys.path[:0] = [str(TESTS.parent / "workflow_scripts"), str(TESTS), str(TESTS / "support")]
sys.path.append(str(PACKAGES))

import s3_server  # noqa: E402
from core import tiers  # noqa: E402

SIZES = {"1 KB": 1_000, "10 MB": 10_000_000, "100 MB": 100_000_000}
ROUNDS = 5
LISTED = 10_000
SERVER = """
import logging, sys, time
sys.path[:0] = sys.argv[1:]
import s3_server
server = s3_server.start()
print(*server.get_host_and_port(), flush=True)
from moto.s3.models import s3_backends
for command in sys.stdin:
    bucket, count = command.split()
    backend = next(iter(s3_backends.values()))["aws"]
    for number in range(int(count)):
        key = f"{number:064x}"[::-1]
        backend.put_object(bucket, f"many/{key[:2]}/{key}.train.tar", b"x" * 1536)
    print("filled", flush=True)
"""


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(folder, remote, path):
    """Print the medians of puts and fetches of a file, in a folder and in a bucket."""
    times = {}
    for number in range(ROUNDS):
        for name, store in (("folder", folder), ("bucket", remote)):
            key = f"{number}{path.stat().st_size:063x}"[::-1]
            put = seconds(lambda store=store, key=key: store.put(key, {"made": str(path)}, {"command": "bench"}))
            out = {"made": f"{path}.out"}
            times.setdefault((name, "put"), []).append(put)
            fetch = seconds(lambda store=store, key=key, out=out: store.fetch(key, out))
            times.setdefault((name, "fetch"), []).append(fetch)
    return {what: statistics.median(several) for what, several in times.items()}


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    arguments = [str(TESTS / "support"), str(TESTS), str(TESTS.parent / "workflow_scripts")]
    with (
        tempfile.TemporaryDirectory() as temporary,
        subprocess.Popen([sys.executable, "-c", SERVER, *arguments], stdin=-1, stdout=-1, text=True) as server,
    ):
        os.environ.update(s3_server.variables(server.stdout.readline().split()))
        imported = seconds(lambda: __import__("boto3"))
        import boto3

        boto3.client("s3").create_bucket(Bucket="bench")
        folder, remote = tiers.at(f"{temporary}/store"), tiers.at("s3://bench/x")
        print(f"boto3 is imported in {imported:.2f} s; the first request: {seconds(remote.entries):.2f} s")
        for name, size in SIZES.items():
            path = Path(temporary) / name.replace(" ", "")
            path.write_bytes(os.urandom(size))
            for (where, what), median in compare(folder, remote, path).items():
                print(f"{name:>7} {what:<5} {where}: {1e3 * median:8.1f} ms, {size / 1e6 / median:7.1f} MB/s")
        print(f"bench {LISTED}", file=server.stdin, flush=True)
        server.stdout.readline()
        many = tiers.at("s3://bench/many")
        print(f"{LISTED} entries are listed in {seconds(lambda: [many.content(e.key) for e in many.entries()]):.2f} s")
        server.stdin.close()


if __name__ == "__main__":
    main()
