"""A bundle of a small network, and an interpreter for it that can import neither the project nor torch."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

import engine_graphs
from conftest import ROOT
from core.files import canonical, sha256_file
from data import preprocess
from described import USUAL
from devices import probe
from graph import onnx_io, pixels
from reporting import result_file

SCRIPTS = ROOT / "workflow_scripts"
CLASSES = [f"class {number}" for number in range(engine_graphs.CLASSES)]
GEOMETRY = {**USUAL, "size": engine_graphs.SIZE}
ALONE = f"""import runpy, sys
sys.path = [sys.argv[1]] + [path for path in sys.path if not path.startswith({str(ROOT)!r} + "/w")]
sys.modules["torch"] = sys.modules["snakemake"] = None
program, sys.argv = sys.argv[1] + "/classify.py", sys.argv[1:]
runpy.run_path(program, run_name="__main__")
"""
LICENSES = '{"weights": "MIT"}'
SUMMARY = dict.fromkeys(("mean", "median", "p90", "p95", "p99", "min", "max"), 1.0)


def picture(width, height, seed=0):
    """Return a smooth image in RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def result_of(folder, runtime, engine):
    """Return what a bundle reads of a result, for an engine file."""
    identity = probe.facts(runtime)
    timing = {"batch": 1, "images_per_second": 100.0, "latency_ms": SUMMARY, "stable": True}
    return {
        "schema_version": result_file.VERSION,
        **{"model": "M", "precision": "fp32", "target": "here", "chosen": None, "objective": None},
        "dataset": {"name": "pictures", "split": "val", "num_images": 400, "num_classes": len(CLASSES)},
        "preprocessing": GEOMETRY,
        "accuracy": {"top1": 90.0, "top5": 99.5, "num_images": 400, "agreement_with_fp32": 100.0},
        "benchmark": [timing],
        "engine": {"path": engine, "sha256": sha256_file(engine), "precision_of_layers": {"fp32": 9}, "plugin": None},
        "target_identity": identity,
        "provenance": {
            "git_commit": "0" * 40,
            "graph_sha256": sha256_file(Path(engine).with_name("net.onnx")),
            "recipe": {
                "target": {"runtime": runtime, "threads": 1},
                "building": {"batches": [1, 4], "threads": 1, "dla": False},
                "model": {"timm": "levit_128s"},
                "dataset": {"weights": "train"},
            },
        },
    }


def run(script, *arguments):
    """Run one of the project's commands; return (status, stderr)."""
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], capture_output=True, text=True)
    return done.returncode, done.stderr


def inputs(folder, runtime, takes_pixels=False):
    """Write what bundle.py reads: an engine, a dataset of three images, a result."""
    engine_graphs.network(folder / "net.onnx")
    if takes_pixels:
        graph, normalization = onnx_io.load(folder / "net.onnx"), (GEOMETRY["mean"], GEOMETRY["std"])
        onnx_io.save(pixels.take(graph, *normalization, preprocess.normalize, runtime), folder / "net.onnx")
    recipe = canonical({"compute": "fp32", "batches": [1, 4], "threads": 1})
    where = [f"--engine={folder}/net.engine", f"--description={folder}/net.json", f"--onnx={folder}/net.onnx"]
    identity = canonical(probe.facts(runtime))
    status, text = run(
        "build_engine.py", *where, f"--runtime={runtime}", f"--recipe={recipe}", f"--identity={identity}"
    )
    assert status == 0, text
    images = []
    (folder / "images").mkdir()
    for number in range(len(CLASSES)):
        path = folder / f"images/{number}.{'png' if number else 'jpg'}"
        picture(40 + 5 * number, 30, number).save(path)
        images.append({"path": path.name, "label": number, "bytes": path.stat().st_size, "sha256": sha256_file(path)})
    splits = {"calib": [], "select": [], "val": list(range(len(images)))}
    index = {"classes": CLASSES, "root": "images", "images": images, "splits": splits}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "result.json").write_text(json.dumps(result_of(folder, runtime, f"{folder}/net.engine")))
    status, text = run("pick_samples.py", f"--index={folder}/index.json", f"--samples={folder}/samples.zip")
    assert status == 0, text


def pack(folder, runtime, name="M.fp32.here", **changes):
    """Run bundle.py; return (status, stderr, path)."""
    given = {key: f"{folder}/{key}.json" for key in ("index", "result")}
    given.update(samples=f"{folder}/samples.zip", engines=f"{folder}/net.engine", runtime=runtime)
    given.update(recipe="{}", identity=canonical(probe.facts(runtime)), licenses=LICENSES)
    given.update(changes)
    path = folder / f"{name}.tar.gz"
    return (*run("bundle.py", *(f"--{key}={value}" for key, value in given.items()), f"--bundle={path}"), path)


def repository(folder, bundle, name="M.fp32.here", **graphs):
    """Run model_repository.py; return (status, stderr, path)."""
    path = folder / "triton" / f"{name}.tar.gz"
    path.parent.mkdir(exist_ok=True)
    given = [f"--{key}={value}" for key, value in graphs.items()]
    return (*run("model_repository.py", f"--bundle={bundle}", f"--repository={path}", *given), path)


def packed(folder, runtime, takes_pixels=False):
    """Write what bundle.py reads and run it; return the path of the bundle."""
    inputs(folder, runtime, takes_pixels)
    status, text, path = pack(folder, runtime)
    assert status == 0, text
    return path


def unpack(path, folder):
    """Unpack a bundle into a new folder; return the bundle's own folder."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return Path(folder, Path(path).name.removesuffix(".tar.gz"))


def alone(bundle, *arguments, stdin=b"", python=sys.executable):
    """Run a bundle's classify.py by an interpreter that sees nothing but it; return (status, stdout, stderr)."""
    command = [python, "-I", "-c", ALONE, str(bundle), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, cwd=bundle.parent)
    return done.returncode, done.stdout.decode(), done.stderr.decode()
