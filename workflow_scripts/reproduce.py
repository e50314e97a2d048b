"""Build a result again from what it records, in an empty folder, and say what differs: status 1 where anything does.

    python workflow_scripts/reproduce.py results/LeViT-128S.int8_qat.cpu.json

The recorded commit is taken out of the repository, with the recorded rows in its config.yaml, and the result is built
there by the packages that are installed now, from the first image on: no artifact and no stored work is reused. What
took training is made first, with the recorded number of threads and processes and on the recorded kind of device.
Compared is all that the result says but its timings.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from core import sources
from core.files import UserError, one_line, read_json
from reporting import result_file

ROOT = sources.ROOT.parent
TIMINGS = ("benchmark", "paired_benchmark", "trtexec", "candidates", "engine.build_seconds", "provenance.git_commit")
FILES = (  # keys of rows that hold paths, which are relative to the repository
    ("dataset", "path"),
    ("dataset", "weights"),
    ("dataset", "from"),
    ("dataset", "drawing", "fonts"),
    ("precision", "fallback", "plan"),
    ("precision", "calibration", "import"),
)


def rebuild(result, folder, snakemake):
    """Build a result (parsed) again in an empty folder and return the new one; raise UserError where it cannot be."""
    commit = result["provenance"]["git_commit"]
    if result["chosen"]:
        raise UserError(f"{name_of(result)} chose another result: reproduce {name_of(result, result['chosen'])}")
    if not commit:
        raise UserError(f"{name_of(result)} was not built in a git repository: no commit says with what code")
    if commit.endswith("-dirty"):
        print(f"note: built with changes that were not committed: {commit[:12]} is taken without them")
    _extract(commit.partition("-")[0], folder)
    write_config(folder / "config.yaml", result)
    for path, options, environment in [*trainings(result), (name_of(result), [], {})]:
        command = [*snakemake, *options, "--quiet", "rules", "--", path]
        done = subprocess.run(command, cwd=folder, env={**_environment(), **environment})
        if not (folder / path).exists():
            raise UserError(f"{path} could not be built again: snakemake ended with status {done.returncode}")
    return read_json(folder / name_of(result))


def trainings(result):
    """Return (path, Snakemake's options, variables) of each artifact that took training, checkpoints first."""
    steps = []
    for path, made in sorted(result["provenance"].get("trained", {}).items()):
        context = made["context"]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if context.get("device") == "cpu" else {}
        options = ["--cores", str(context["threads"])] if context.get("threads") else []
        steps.append((path, options, {**hidden, "LEVIT_PROCESSES": str(context.get("processes") or "")}))
    return steps


def name_of(result, precision=None):
    """Return the path of a result, or of another precision's."""
    return f"results/{result['model']}.{precision or result['precision']}.{result['target']}.json"


def _environment():
    return {name: value for name, value in os.environ.items() if name not in ("LEVIT_STORE", "LEVIT_JOBS")}


def _extract(commit, folder):
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if archive.returncode:
        raise UserError(f"commit {commit} cannot be taken out of {ROOT}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as content:
        content.extractall(folder, filter="data")


def write_config(path, result):
    """Leave a result's recorded rows alone in a config.yaml; paths in them are made absolute."""
    import yaml

    recipe, config = result["provenance"]["recipe"], yaml.safe_load(path.read_text(encoding="utf-8"))
    for first, *keys in FILES:
        _make_absolute(recipe[first], keys)
    config.update(seed=recipe["seed"], dataset=result["dataset"]["name"], store=".cache/store", results={})
    config["datasets"] = {result["dataset"]["name"]: recipe["dataset"]}
    config["models"] = {result["model"]: recipe["model"]}
    config["precisions"] = {result["precision"]: {**recipe["precision"], "budget": result["accuracy"]["budget"]}}
    config["targets"] = {result["target"]: recipe["target"]}
    for name, row in recipe["graphs"].items():
        config["graphs"].setdefault(name, {"placement": []}).update(row)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def _make_absolute(row, keys):
    for key in keys[:-1]:
        row = row.get(key) if isinstance(row, dict) else None
    value = row.get(keys[-1]) if isinstance(row, dict) else None
    if isinstance(value, str) and value not in ("official", "train", "finetune"):
        row[keys[-1]] = str(ROOT / value)


def differences(recorded, rebuilt):
    """Return lines, each with a fact that two results do not share; timings are no facts."""
    one, other = flat(recorded), flat(rebuilt)
    return [
        f"{name}: recorded {one.get(name, 'nothing')}, now {other.get(name, 'nothing')}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name) and not name.startswith("provenance.recipe.")
    ]


def flat(value, name=""):
    """Return {dotted name: plain value} of a JSON value, without TIMINGS."""
    if name in TIMINGS:
        return {}
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = [flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in items]
    return {key: inner for part in parts for key, inner in part.items()}


def read(path):
    """Return a result to build again; raise UserError where it is none, or records too little."""
    result = result_file.read(path)
    missing = [name for name in ("dataset", "target", "graphs", "seed") if name not in result["provenance"]["recipe"]]
    if missing and not result["chosen"]:
        raise UserError(f"{path} does not record its {missing[0]}: {result_file.OLDER}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", help="results/{model}.{precision}.{target}.json")
    parser.add_argument("--keep", help="an empty folder to build in, which is kept")
    args = parser.parse_args()
    snakemake, recorded = [sys.executable, "-m", "snakemake"], read(args.result)
    if args.keep:
        Path(args.keep).mkdir(parents=True, exist_ok=True)
        found = differences(recorded, rebuild(recorded, Path(args.keep), snakemake))
    else:
        with tempfile.TemporaryDirectory(prefix="levit-") as folder:
            found = differences(recorded, rebuild(recorded, Path(folder), snakemake))
    for line in found:
        print(line)
    print(f"{args.result}: {len(found)} facts differ" if found else f"{args.result}: the same but for its timings")
    sys.exit(bool(found))


if __name__ == "__main__":
    one_line(main)
