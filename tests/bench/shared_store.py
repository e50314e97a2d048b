"""What a store in a bucket costs against one in a folder: seconds an entry and a MB, and a listing of 10,000 entries.

    python tests/bench/shared_store.py [--result results/LeViT-128S.int8_qat.cpu.json]

The server is moto's, in a process of its own on this machine: the figures are those of the client and of that server,
without a network. Puts and fetches are taken in turns with those of the folder. With --result, a folder makes a result
from nothing and shares it, a second takes the work from the bucket, a third from the local tier of the first.
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
from workflow import SNAKEMAKE, Workflow  # noqa: E402

SIZES = {"1 KB": 1_000, "10 MB": 10_000_000, "100 MB": 100_000_000}
ROUNDS = 5
LISTED = 10_000
MADE = ("*.pth", "*.onnx", "*.u8", "*.npy", "*.engine")
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


def run(name, folder, store, result):
    """Make a result in a folder of its own; print what that took and what its store has."""
    workflow = Workflow.fresh(folder)
    workflow.config(lambda config: config.update(store=store))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "LEVIT_PYTHON": sys.executable}
    began = time.perf_counter()
    done = subprocess.run([SNAKEMAKE, "--", result], cwd=folder, env=environment, capture_output=True, text=True)
    took, text = time.perf_counter() - began, done.stdout + done.stderr
    if done.returncode:
        sys.exit(text[-2000:])
    sizes = [entry.size for entry in tiers.at(store).entries()]
    print(f"{name}: {took:.1f} s, {text.count('from the store in')} jobs from the store", end="; ")
    print(f"the store has {len(sizes)} entries, {sum(sizes) / 1e6:.1f} MB", flush=True)


def runs(folder, result):
    """Run where nothing is shared yet, then where all of it is."""
    run("nothing is in the bucket", folder / "one", "s3://bench/run", result)
    run("all is in the bucket", folder / "other", "s3://bench/run", result)
    run("all is in a folder", folder / "third", str(folder / "one/.cache/store"), result)
    made = [path.relative_to(folder / "one") for kind in MADE for path in (folder / "one/results").rglob(kind)]
    differ = [name for name in made if (folder / "one" / name).read_bytes() != (folder / "other" / name).read_bytes()]
    print(f"{len(made)} files, {len(differ)} of which differ in the second folder {differ or ''}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result")
    args = parser.parse_args()
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
        if args.result:
            runs(Path(temporary), args.result)
        server.stdin.close()


if __name__ == "__main__":
    main()
