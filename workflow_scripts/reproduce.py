"""Rebuild a result from its provenance in an empty folder and print what differs; exit with status 1 if anything does.

    python workflow_scripts/reproduce.py results/LeViT-128S.int8_qat.cpu.json

The recorded commit is extracted from the repository, its config.yaml gets the recorded rows, and the installed packages
build the result there from the first image on: no artifact and no stored work is reused. Trained artifacts are built
first, with the recorded number of threads and processes and on the recorded kind of device. Everything in the result is
compared but its timings.
"""

from __future__ import annotations

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
from reporting.comparison import path_of

ROOT = sources.ROOT.parent
TIMINGS = ("benchmark", "paired_benchmark", "trtexec", "candidates", "engine.build_seconds", "provenance.git_commit")
FILES = (  # keys of rows whose values are paths, relative to the repository
    ("dataset", "path"),
    ("dataset", "weights"),
    ("dataset", "from"),
    ("dataset", "drawing", "fonts"),
    ("precision", "fallback", "plan"),
    ("precision", "calibration", "import"),
)


def rebuild(result: dict, folder: Path, snakemake: list[str]) -> dict:
    """Rebuild a parsed result in an empty folder and return the new one; raise UserError where that is impossible."""
    commit, path = result["provenance"]["git_commit"], path_of(result)
    if result["chosen"]:
        raise UserError(f"{path} chose another result: reproduce {path_of({**result, 'precision': result['chosen']})}")
    if not commit:
        raise UserError(f"{path} was not built in a git repository: its code is unknown")
    if commit.endswith("-dirty"):
        print(f"note: built with changes that were not committed: {commit[:12]} is built without them")
    _extract(commit.partition("-")[0], folder)
    write_config(folder / "config.yaml", result)
    inherited = {name: value for name, value in os.environ.items() if name not in ("LEVIT_STORE", "LEVIT_JOBS")}
    for output, options, environment in [*trainings(result), (path, [], {})]:
        command = [*snakemake, *options, "--quiet", "rules", "--", output]
        done = subprocess.run(command, cwd=folder, env={**inherited, **environment})
        if not (folder / output).exists():
            raise UserError(f"{output} was not rebuilt: snakemake ended with status {done.returncode}")
    return read_json(folder / path)


def trainings(result: dict) -> list[tuple[str, list[str], dict]]:
    """Return (path, Snakemake's options, environment variables) of each trained artifact, checkpoints first."""
    steps = []
    for path, record in sorted(result["provenance"].get("trained", {}).items()):
        context = record["context"]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if context.get("device") == "cpu" else {}
        options = ["--cores", str(context["threads"])] if context.get("threads") else []
        steps.append((path, options, {**hidden, "LEVIT_PROCESSES": str(context.get("processes") or "")}))
    return steps


def _extract(commit, folder):
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if archive.returncode:
        raise UserError(f"commit {commit} cannot be extracted from {ROOT}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as content:
        content.extractall(folder, filter="data")


def write_config(path: Path, result: dict) -> None:
    """Reduce a config.yaml to a result's recorded rows, with absolute paths."""
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


def differences(recorded: dict, rebuilt: dict) -> list[str]:
    """Return one line for each fact, timings excluded, in which two results differ."""
    one, other = flat(recorded), flat(rebuilt)
    return [
        f"{name}: recorded {one.get(name, 'nothing')}, now {other.get(name, 'nothing')}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name) and not name.startswith("provenance.recipe.")
    ]


def flat(value: object, name: str = "") -> dict[str, object]:
    """Return {dotted name: plain value} of a JSON value, without TIMINGS."""
    if name in TIMINGS:
        return {}
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = [flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in items]
    return {key: inner for part in parts for key, inner in part.items()}


def read(path: str) -> dict:
    """Return a result to rebuild; raise UserError where the file is not a result or lacks part of its provenance."""
    result = result_file.read(path)
    missing = [name for name in ("dataset", "target", "graphs", "seed") if name not in result["provenance"]["recipe"]]
    if missing and not result["chosen"]:
        raise UserError(f"{path} does not record its {missing[0]}: {result_file.OLDER}")
    return result


def main() -> None:
    """Parse the command line, rebuild and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", help="results/{model}.{precision}.{target}.json")
    parser.add_argument("--keep", help="an empty folder to build in and keep")
    args = parser.parse_args()
    snakemake, recorded = [sys.executable, "-m", "snakemake"], read(args.result)
    with tempfile.TemporaryDirectory(prefix="levit-") as temporary:
        folder = Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lines = differences(recorded, rebuild(recorded, folder, snakemake))
    for line in lines:
        print(line)
    print(f"{args.result}: {len(lines)} facts differ" if lines else f"{args.result}: the same but for its timings")
    sys.exit(bool(lines))


if __name__ == "__main__":
    one_line(main)
