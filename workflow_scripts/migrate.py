"""Adopt what an earlier version of this project trained, so that upgrading to this one trains nothing: `make migrate`.

    python workflow_scripts/migrate.py

Earlier versions (up to commit 4f3b3bb) wrote no records beside their artifacts. A checkpoint or a QAT checkpoint is
adopted where a result has its hash and the rows that it was trained by, config.yaml still has those rows, and the
dataset's new index has the same images, classes and splits. Indexes and the inputs of a QAT's calibration are built
again first; everything else took no training, and the next run builds it again. Refusals are printed with their reason.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

from configuration import checks
from configuration.tables import Tables
from core import provenance, trained
from core.files import canonical, one_line, read_json, sha256_file, write_json
from devices.result_jobs import run_snakemake
from snakefile.params import lineage

FOLDER = ".cache/migrate"  # earlier files that become outputs of their jobs


class Refused(Exception):
    """A file is not adopted; the text is the reason."""


def earlier_results() -> dict[str, dict]:
    """Return {path: result} of the results here that record their recipe."""
    parsed = {str(path): read_json(path) for path in sorted(Path("results").glob("*.json"))}
    provenances = {path: result.get("provenance") for path, result in parsed.items() if isinstance(result, dict)}
    return {path: parsed[path] for path, recorded in provenances.items() if recorded and recorded.get("recipe")}


def candidates(tables: Tables) -> list[tuple]:
    """Return [(dataset, model, precision or None, path)] of trained artifacts without a record."""
    trained_files: list[tuple] = []
    for name in sorted(tables.names("dataset")):
        if tables.source(name) in ("train", "finetune"):
            paths = sorted(Path(f"results/{name}/checkpoints").glob("*.pth"))
            trained_files += [(name, path.stem, None, str(path)) for path in paths]
        paths = sorted(Path(f"results/{name}/qat").glob("*.pth"))
        trained_files += [(name, *path.stem.split(".", 1), str(path)) for path in paths]
    return [one for one in trained_files if not os.path.exists(provenance.beside(one[3]))]


def training_result(dataset: str, model: str, precision: str | None, path: str, results: dict[str, dict]) -> dict:
    """Return the result that records what trained a file, and with which versions; raise Refused without one."""
    for result in results.values():
        if (result["model"], result["dataset"]["name"]) != (model, dataset):
            continue
        if precision is None and result["provenance"]["checkpoint_sha256"] == sha256_file(path):
            return result
        if precision == result["precision"] and _is_made_of(result, dataset, path):
            return result
    raise Refused("no result records its hash and the rows that it was trained by")


def _is_made_of(result, dataset, path):
    """Return whether a QAT checkpoint lies beside a result's own calibration and graph, and is older than the graph."""
    recorded, label = result["provenance"], f"{result['model']}.{result['precision']}"
    folder = f"results/{dataset}"
    files = {recorded["checkpoint_sha256"]: f"{folder}/checkpoints/{result['model']}.pth"}
    files[recorded["calibration_sha256"]] = f"{folder}/calibration/{label}.json"
    graphs = [str(graph) for graph in Path(folder, "quantized").glob(f"{label}.*.onnx")]
    graphs = [graph for graph in graphs if sha256_file(graph) == recorded["graph_sha256"]]
    unchanged = all(os.path.exists(file) and sha256_file(file) == digest for digest, file in files.items())
    return unchanged and any(os.stat(graph).st_mtime >= os.stat(path).st_mtime for graph in graphs)


def check_rows(result: dict, dataset: str, model: str, precision: str | None, tables: Tables) -> None:
    """Raise Refused where the current rows differ from those that a result was trained by."""
    recorded = result["provenance"]["recipe"]
    names = SimpleNamespace(model=model, precision=result["precision"], target=result["target"])
    current = lineage(Tables({**tables.config, "dataset": dataset}), names)
    current["model"] = read_json(f"results/{dataset}/models/{model}.json")
    rows = {"model": f"models.{model}", "dataset": "dataset", "seed": "seed"}
    for part, where in {**rows, **({"precision": f"precisions.{precision}"} if precision else {})}.items():
        _check_same(recorded[part], current.get(part), where)


def _check_same(recorded, current, where):
    """Raise Refused where a recorded value differs from the current one; what was not recorded has its default."""
    if isinstance(recorded, dict) and isinstance(current, dict):
        for key, value in recorded.items():
            _check_same(value, current.get(key), f"{where}.{key}")
    elif recorded is not None and canonical(recorded) != canonical(current):
        raise Refused(f"{where} was {recorded} when it was trained, and is {current}")


def training_data(dataset: str) -> list | None:
    """Return the parts of an index that decide training and calibration, or None where there is none."""
    path = f"results/{dataset}/data/index.json"
    if not os.path.exists(path):
        return None
    index, lines = read_json(path), Path(f"results/{dataset}/data/train.tsv").read_text(encoding="utf-8")
    facts = [[entry.get(key) for key in ("path", "label", "sha256")] for entry in index["images"]]
    images = {name: [facts[i] for i in part] for name, part in index["splits"].items()}
    return [index["classes"], images, [line.split("\t")[:2] for line in lines.splitlines()]]


def migrate() -> None:
    """Adopt trained artifacts, and print each that is adopted or refused."""
    tables, results = checks.read(), earlier_results()
    files, adopted = candidates(tables), {}
    if not files:
        print("nothing to adopt: no trained artifact of an earlier version is here")
        return
    before = {name: training_data(name) for name, *_ in files}
    indexes = [f"results/{name}/data/index.json" for name in before]
    models = sorted({f"results/{dataset}/models/{model}.json" for dataset, model, *_ in files})
    run_snakemake("--no-hooks", "--", *indexes, *models)
    for dataset, model, precision, path in files:
        try:
            result = training_result(dataset, model, precision, path, results)
            if before[dataset] != training_data(dataset):
                raise Refused(f"the images, classes or splits of {dataset} have changed")
            check_rows(result, dataset, model, precision, tables)
            if precision and f"results/{dataset}/checkpoints/{model}.pth" not in adopted:
                raise Refused("the checkpoint that it starts from is not adopted")
            adopted[path] = result["provenance"].get("versions") or {}
        except Refused as reason:
            print(f"not adopted: {path}: {reason}; the next run that needs it trains it again")
    adopt(adopted)
    print(f"adopted {len(adopted)} of {len(files)} trained artifacts; the next run builds the rest without training")


def adopt(adopted: dict[str, dict]) -> None:
    """Let Snakemake record earlier files, {path: versions}, as outputs of their jobs."""
    for path in adopted:
        os.makedirs(os.path.dirname(os.path.join(FOLDER, path)), exist_ok=True)
        shutil.copy2(path, os.path.join(FOLDER, path))
    files = {path: {"sha256": sha256_file(path), "versions": versions} for path, versions in adopted.items()}
    write_json(os.path.join(FOLDER, trained.ADOPTED), files)
    for path in adopted:  # one by one: a calibration follows its checkpoint
        os.unlink(path)
        run_snakemake("--no-hooks", "--", path, LEVIT_ADOPT=FOLDER)
        print(f"adopted: {path}")
    shutil.rmtree(FOLDER, ignore_errors=True)


def main() -> None:
    """Parse the command line, which has no arguments, and migrate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    migrate()


if __name__ == "__main__":
    one_line(main)
