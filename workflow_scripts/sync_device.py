"""Carry results between the host and a device that runs the workflow itself (`site: device`), with rsync.

    python workflow_scripts/sync_device.py to   USER@DEVICE:FOLDER results/LeViT-128S.fp16.xavier.json  # on the host
    snakemake --workflow-profile profiles/device results/LeViT-128S.fp16.xavier.json                 # on the device
    python workflow_scripts/sync_device.py from USER@DEVICE:FOLDER results/LeViT-128S.fp16.xavier.json  # again

FOLDER holds a checkout of the same commit. `to` takes what the device's jobs read, and what Snakemake recorded of how
that was made, so that the device knows what became stale. `from` takes what the device made and none of its records;
it refuses what was made of other inputs or recipes than the host's, and tells Snakemake of the rest. Files are compared
by content and get the time at which they arrive: nothing depends on the clocks of the two.
"""

import argparse
import base64
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from core import provenance
from core.files import UserError, canonical, one_line, read_json, sha256_file
from device_kit import names_of, needs, tables_of, tell_snakemake
from snakefile import rule_facts
from snakefile.staleness import RECORDS

MADE = (
    "engines",
    "accuracy",
    "select",
    "benchmark",
    "paired_benchmark",
    "trtexec",
    "profile",
    "timeline",
    "bisect",
)  # folders of a target's
UNTIMED = ["--recursive", "--links", "--checksum", "--prune-empty-dirs"]


def single(results, tables):
    """Return results without those that choose, in place of which stand all that they choose from."""
    found = []
    for result in results:
        names = names_of(result, tables)
        chosen = names.precision in tables.choosing()
        several = tables.candidates(names.model, names.precision, names.target) if chosen else [names.precision]
        found += [f"results/{names.model}.{precision}.{names.target}.json" for precision in several]
    return list(dict.fromkeys(found))


def lineage(result, tables):
    """Return {key of a result's provenance: the file whose SHA-256 it is}."""
    names = names_of(result, tables)
    folder, label = f"results/{names.dataset}", f"{names.model}.{names.precision}"
    files = {
        "checkpoint_sha256": f"{folder}/checkpoints/{names.model}.pth",
        "graph_sha256": tables.engine_graph(names.dataset, names.model, names.precision, names.target),
    }
    if tables.is_calibrated(names.precision):
        files["calibration_sha256"] = f"{folder}/calibration/{label}.json"
    return files


def told(result, tables):
    """Return the paths of what a result tells of beside its engine and what that was made of."""
    names = names_of(result, tables)
    folder, label = f"results/{names.dataset}", f"{names.model}.{names.precision}"
    typed = [f"{folder}/typed/{label}.json"] if tables.is_predicted(names.precision, names.target) else []
    typed += [f"{folder}/models/{names.model}.json"]
    return typed + ([f"{folder}/dla/{label}.{names.target}.json"] if tables.is_dla(names.precision) else [])


def read_there(results, tables):
    """Return the sorted paths of the host's that a device's jobs for some results read."""
    several = single(results, tables)
    paths = {path for result in several for path in [*lineage(result, tables).values(), *told(result, tables)]}
    if several != list(results):  # what chooses looks at the select split
        for names in (names_of(result, tables) for result in several):
            folder = f"results/{names.dataset}"
            images = f"{folder}/data/{names.model}.select.u8"
            paths |= {images, f"{folder}/select/{names.model}.torch.npy"}
    return sorted(paths | set(needs(several, tables)))


def records():
    """Return the paths of what Snakemake recorded of the host's artifacts.

    A calibration cache's is left out: its version of TensorRT is a guess until the device has said its own.
    """
    found, elsewhere = [], rule_facts.built_elsewhere()
    for path in sorted(Path(RECORDS).glob("*")) if os.path.isdir(RECORDS) else []:
        made = base64.urlsafe_b64decode(path.name).decode("utf-8", "replace") if path.is_file() else ""
        if made and not made.endswith(".cache") and read_json(path).get("rule") not in elsewhere:
            found.append(str(path))
    return found


def to(place, results):
    """Copy what a device's jobs read; raise UserError where the host has not made it."""
    tables = tables_of()
    paths = read_there(results, tables)
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise UserError(f"{len(missing)} files are not there yet: run snakemake {' '.join(missing)}")
    provenance.check_all(paths)
    sent = rsync(
        [*UNTIMED, "--files-from=-", ".", _folder(place)], "\n".join(paths + provenance.recorded(paths) + records())
    )
    print(f"{place}: {len(paths)} files are there, {len([path for path in sent if path in paths])} of them are new")


def back(place, results):
    """Fetch what a device made of some results, if of the inputs and recipes that are here, and tell Snakemake."""
    tables = tables_of()
    several = single(results, tables)
    os.makedirs(".cache", exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="brought-", dir=".cache") as staging:
        rsync([*UNTIMED, *_only(dict.fromkeys([*several, *results]), tables), f"{_folder(place)}results", staging], "")
        for result in several:
            check(os.path.join(staging, result), result, tables)
        brought = {str(p): str(p.relative_to(staging)) for p in sorted(Path(staging).rglob("*")) if p.is_file()}
        made = sorted(name for name in brought.values() if not provenance.is_record(name))
        staged = [os.path.join(staging, name) for name in made]
        provenance.check_all(staged, "carry it again; where it is so on the device, delete it there and run again")
        for name in made:
            os.makedirs(os.path.dirname(name), exist_ok=True)
        provenance.take(brought)
    tell_snakemake(made)
    print(f"{len(made)} files; now: snakemake {' '.join(results)}")


def check(path, result, tables):
    """Raise UserError where a device's result was made of other files or rows than the host's."""
    from snakefile.params import Recipes

    if not os.path.exists(path):
        raise UserError(f"{result} is not made there: run snakemake --workflow-profile profiles/device {result} on it")
    made = read_json(path)
    told = made.get("provenance") if isinstance(made, dict) else None
    if not isinstance(told, dict) or "recipe" not in told:
        raise UserError(f"{result} there is no result that says what it was made of: delete it there and run it again")
    for key, file in lineage(result, tables).items():
        if not os.path.exists(file) or told.get(key) != sha256_file(file):
            raise UserError(f"{result} was made there of another {file}: carry it there, and run it again")
    if canonical(told["recipe"]) != canonical(Recipes(tables).lineage(names_of(result, tables))):
        raise UserError(f"{result} was made there with another config.yaml: make both alike, and run it again")


def _only(results, tables):
    """Return rsync's filters for what a device makes of some results, from the folder `results` on."""
    kept = ["/results/", "/results/targets/"]
    for names in (names_of(result, tables) for result in results):
        label = f"{names.model}.{names.precision}.{names.target}"
        kept += [f"/results/{label}.json*", f"/results/targets/{names.target}.json*", f"/results/{names.dataset}/"]
        kept += [f"/results/{names.dataset}/{folder}/" for folder in MADE]
        kept += [f"/results/{names.dataset}/{folder}/{label}.*" for folder in MADE]
    return [f"--include={pattern}" for pattern in dict.fromkeys(kept)] + ["--exclude=*"]


def _folder(place):
    return place if place.endswith("/") else f"{place}/"


def rsync(arguments, listed):
    """Run rsync with a list on its standard input; return the names that it copied, or raise UserError."""
    program = shutil.which("rsync")
    if program is None:
        raise UserError("rsync is not installed here: apt-get install rsync, here and on the device")
    done = subprocess.run([program, "--out-format=%n", *arguments], input=listed.encode(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        raise UserError(f"rsync failed with status {done.returncode}: {said[0]}")
    return done.stdout.decode("utf-8", "replace").splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direction", choices=["to", "from"])
    parser.add_argument("place", help="the device's folder, as rsync takes it")
    parser.add_argument("results", nargs="+")
    args = parser.parse_args()
    (to if args.direction == "to" else back)(args.place, args.results)


if __name__ == "__main__":
    one_line(main)
