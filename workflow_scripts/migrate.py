"""Adopt what an earlier version of this project trained, so that upgrading to this one trains nothing: `make migrate`.

    python workflow_scripts/migrate.py

Earlier versions (up to commit 4f3b3bb) recorded nothing beside their artifacts. A checkpoint or a QAT checkpoint is
adopted where a result tells its hash and the rows that it was trained by, those rows are still in config.yaml, and the
dataset's new index has the same images, classes and splits. Indexes and what the calibration of a QAT reads are made
again first; all else took no training, and the next run makes it again. What is not adopted is named with the reason.
"""

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

FOLDER = ".cache/migrate"  # where earlier versions' files wait to be taken as the output of their jobs


class Refused(Exception):
    """Why a file is not adopted."""


def tables_of():
    """Return the checked tables of the project in this folder."""
    import yaml

    with open("config.yaml", encoding="utf-8") as stream:
        return checks.load(yaml.safe_load(stream), "rules/schemas/config.schema.yaml")


def results_of():
    """Return {path: result} of the earlier results that are here."""
    found = {str(path): read_json(path) for path in sorted(Path("results").glob("*.json"))}
    known = {path: result for path, result in found.items() if isinstance(result, dict) and result.get("provenance")}
    return {path: result for path, result in known.items() if result["provenance"].get("recipe")}


def candidates(tables):
    """Return [(dataset, model, precision or None, path)] of what was trained and has no record."""
    found = []
    for name in sorted(tables.names("dataset")):
        if tables.source(name) in ("train", "finetune"):
            found += [
                (name, path.stem, None, str(path)) for path in sorted(Path(f"results/{name}/checkpoints").glob("*.pth"))
            ]
        for path in sorted(Path(f"results/{name}/qat").glob("*.pth")):
            found.append((name, *path.stem.split(".", 1), str(path)))
    return [one for one in found if not os.path.exists(provenance.beside(one[3]))]


def witness(dataset, model, precision, path, results):
    """Return the result that tells what trained a file, and the versions; raise Refused without one."""
    for result in results.values():
        if (result["model"], result["dataset"]["name"]) != (model, dataset):
            continue
        if precision is None and result["provenance"]["checkpoint_sha256"] == sha256_file(path):
            return result
        if precision == result["precision"] and _is_made_of(result, dataset, path):
            return result
    raise Refused("no result has its hash and tells what it was trained by")


def _is_made_of(result, dataset, path):
    """Return whether a result's calibration and graph are those that lie beside its QAT checkpoint, made after it."""
    told, label = result["provenance"], f"{result['model']}.{result['precision']}"
    folder = f"results/{dataset}"
    files = {told["checkpoint_sha256"]: f"{folder}/checkpoints/{result['model']}.pth"}
    files[told["calibration_sha256"]] = f"{folder}/calibration/{label}.json"
    graphs = [str(graph) for graph in Path(folder, "quantized").glob(f"{label}.*.onnx")]
    graphs = [graph for graph in graphs if sha256_file(graph) == told["graph_sha256"]]
    whole = all(os.path.exists(file) and sha256_file(file) == digest for digest, file in files.items())
    return whole and any(os.stat(graph).st_mtime >= os.stat(path).st_mtime for graph in graphs)


def check_rows(result, dataset, model, precision, tables):
    """Raise Refused where today's rows are not those that a result tells it was trained by."""
    told = result["provenance"]["recipe"]
    names = SimpleNamespace(model=model, precision=result["precision"], target=result["target"])
    now = lineage(Tables({**tables.config, "dataset": dataset}), names)
    now["model"] = read_json(f"results/{dataset}/models/{model}.json")
    parts = ["model", "dataset", "seed"] + (["precision"] if precision else [])
    for part in parts:
        _check_same(
            told[part],
            now.get(part),
            {"model": f"models.{model}", "precision": f"precisions.{precision}"}.get(part, part),
        )


def _check_same(told, now, where):
    """Raise Refused where something that was told is another now; what was not told has its default."""
    if isinstance(told, dict) and isinstance(now, dict):
        for key, value in told.items():
            _check_same(value, now.get(key), f"{where}.{key}")
    elif told is not None and canonical(told) != canonical(now):
        raise Refused(f"{where} was {told} when it was trained, and is {now}")


def described(dataset):
    """Return what of an index decides training and calibration, or None where there is none."""
    path = f"results/{dataset}/data/index.json"
    if not os.path.exists(path):
        return None
    index, lines = read_json(path), Path(f"results/{dataset}/data/train.tsv").read_text(encoding="utf-8")
    images = {name: [_image(index["images"][i]) for i in part] for name, part in index["splits"].items()}
    return [index["classes"], images, [line.split("\t")[:2] for line in lines.splitlines()]]


def _image(entry):
    return [entry.get(key) for key in ("path", "label", "sha256")]


def migrate():
    """Adopt what can be adopted, and say what was and what was not."""
    tables, results = tables_of(), results_of()
    found, adopted = candidates(tables), {}
    if not found:
        print("nothing to adopt: no trained artifact of an earlier version is here")
        return
    before = {name: described(name) for name, *_ in found}
    indexes = [f"results/{name}/data/index.json" for name in before]
    models = sorted({f"results/{d}/models/{m}.json" for d, m, *_ in found})
    run_snakemake("--no-hooks", "--", *indexes, *models)
    for dataset, model, precision, path in found:
        try:
            result = witness(dataset, model, precision, path, results)
            if before[dataset] != described(dataset):
                raise Refused(f"the images, classes or splits of {dataset} are others now")
            check_rows(result, dataset, model, precision, tables)
            if precision and f"results/{dataset}/checkpoints/{model}.pth" not in adopted:
                raise Refused("the checkpoint that it was made of is not adopted")
            adopted[path] = result["provenance"].get("versions") or {}
        except Refused as reason:
            print(f"not adopted: {path}: {reason}; the next run that needs it trains it again")
    take(adopted)
    print(f"adopted {len(adopted)} of {len(found)} trained artifacts; the next run makes all else again, untrained")


def take(adopted):
    """Let Snakemake record earlier files, {path: versions}, as what their jobs made."""
    for path in adopted:
        os.makedirs(os.path.dirname(os.path.join(FOLDER, path)), exist_ok=True)
        shutil.copy2(path, os.path.join(FOLDER, path))
    told = {path: {"sha256": sha256_file(path), "versions": versions} for path, versions in adopted.items()}
    write_json(os.path.join(FOLDER, trained.ADOPTED), told)
    for path in adopted:  # one by one: a calibration follows the checkpoint
        os.unlink(path)
        run_snakemake("--no-hooks", "--", path, LEVIT_ADOPT=FOLDER)
        print(f"adopted: {path}")
    shutil.rmtree(FOLDER, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    migrate()


if __name__ == "__main__":
    one_line(main)
