"""What travels to a GPU host for a visit (visit.py): graphs, images, checkpoints, and a kit whose jobs end in `auto`.

DIR/models.json has each model's files: a model of `results` has all graphs of the kit's precisions; others come from an
exported graph and a checkpoint, and have no INT8.

A folder of `--also` has what else the steps look for: `python` (packages that the host lacks: pip install --target),
`timing` (caches of an earlier visit), `bundle` (what its kit has built), `glyphs/data` (the dataset, from which several
GPUs train), and a models.json that names more graphs.
"""

import glob
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests/support"), str(ROOT / "tests/gpu")]

import make_graphs  # noqa: E402
import onnx_graphsurgeon  # noqa: E402
import onnxruntime  # noqa: E402
import planned  # noqa: E402

from data import cache, preprocess  # noqa: E402
from graph import onnx_io, passes  # noqa: E402

MODEL, CHOICE = "LeViT-128S", "results/LeViT-128S.auto.gpu.json"
VARIANTS = {"": "gpu", "-fused": "gpu_fused"}
HEADERS = ("j*", "png*", "zlib", "zconf", "*-linux-gnu/jconfig")  # of Debian's libjpeg-dev, libpng-dev, zlib1g-dev
DEV = [*(f"/usr/include/{name}.h" for name in HEADERS)]
DEV += [f"/usr/lib/*-linux-gnu/{name}.a" for name in ("libjpeg", "libpng16", "libz")]


def write(folder, results, headers, more):
    """Write the folder; results: a built results/{dataset}, in a project of its own; more: MODEL=ONNX,CHECKPOINT."""
    folder.mkdir(parents=True)
    project = results.resolve().parents[1]
    kit(project, folder)
    models = {MODEL: of_results(folder, results)}
    rows = yaml.safe_load((ROOT / "config.yaml").read_text())["graphs"]
    for text in more:
        name, _, paths = text.partition("=")
        models[name] = of_files(name, *map(Path, paths.split(",")), rows, folder, models[MODEL])
    (folder / "models.json").write_text(json.dumps(models, indent=1))
    planned.make(results, folder / "planted")
    make_graphs.write(folder / "smoke")
    libraries(folder)
    if headers:
        shutil.copytree(headers, folder / "include")


def kit(project, folder):
    """Pack the jobs of a choice in a built project, and unpack them here; its code becomes this repository's there."""
    packed = (folder / "kit.tar").resolve()
    command = [sys.executable, "workflow_scripts/device_kit.py", "pack", "--kit", str(packed), CHOICE]
    subprocess.run(command, cwd=project, check=True)
    with tarfile.open(packed) as archive:
        archive.extractall(folder / "kit", filter="data")
    packed.unlink()


def libraries(folder):
    """Copy what a host lacks: a module of Python without compiled code, and what the client in C++ is linked with."""
    shutil.copytree(Path(onnx_graphsurgeon.__file__).parent, folder / "python/onnx_graphsurgeon")
    (folder / "dev/include").mkdir(parents=True)
    for pattern in DEV:
        for path in map(Path, glob.glob(pattern)):
            shutil.copy(path, folder / "dev" / ("include" if path.suffix == ".h" else ""))


def of_results(folder, results):
    """Return the files of a built model, most of them in the kit; copy the others."""
    name = results.name
    copied = ["checkpoints/LeViT-128S.pth", "data/train.tsv", "calibration/LeViT-128S.int8_qat.json"]
    for part in [*copied, "qat/LeViT-128S.int8_qat.pth"]:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results / part, folder / part)
    shutil.copyfile(results / "data/index.json", folder / "data/index.json")
    shutil.copytree(results / "data/images", folder / "data/images")
    graphs = {f"{p}{end}": f"clean/{MODEL}.{kind}.onnx" for end, kind in VARIANTS.items() for p in ("fp32", "fp16")}
    graphs.update({f"int8_qat{end}": f"quantized/{MODEL}.int8_qat.{kind}.onnx" for end, kind in VARIANTS.items()})
    files = {"images": f"data/{MODEL}.val.u8", "reference": f"accuracy/{MODEL}.torch.npy"}
    files.update(index="data/index.json", model=f"models/{MODEL}.json")
    beside = f"kit/results/{name}"
    other = f"quantized/{MODEL}.int8_qat.gpu_fused_fp16.onnx"
    if (results / other).exists():
        graphs["int8_qat-fused_fp16"] = shutil.copyfile(results / other, folder / beside / other) and other
    return {
        "graphs": {key: f"{beside}/{path}" for key, path in graphs.items()},
        **{key: f"{beside}/{path}" for key, path in files.items()},
        "checkpoint": f"checkpoints/{MODEL}.pth",
        "classes": 10,
    }


def of_files(name, exported, weights, rows, folder, first):
    """Write the clean graphs of a model, and its logits in ONNX Runtime on the first model's images.

    Weights of the graphs are rounded to FP16, which every FP16 engine does, so that they pack to half their size.
    """
    graphs, checkpoint = {}, f"checkpoints/{name}.pth"
    shutil.copyfile(weights, folder / checkpoint)
    model = json.loads((folder / first["model"]).read_text())
    model["timm"] = name.lower().replace("levit-", "levit_")
    (folder / f"{name}.json").write_text(json.dumps(model))
    for end, kind in VARIANTS.items():
        path = folder / f"{name}.{kind}.onnx"
        onnx_io.save(rounded(passes.apply(onnx_io.load(exported), rows[kind]["passes"])), path)
        graphs.update({f"{precision}{end}": path.name for precision in ("fp32", "fp16")})
    reference = f"{name}.torch.npy"
    np.save(folder / reference, logits(folder / graphs["fp32"], folder / first["images"], model))
    shared = {key: first[key] for key in ("images", "index", "classes")}
    return {**shared, "graphs": graphs, "checkpoint": checkpoint, "model": f"{name}.json", "reference": reference}


def rounded(graph):
    for tensor in graph.tensors().values():
        values = getattr(tensor, "values", None)
        if values is not None and values.dtype == np.float32 and values.ndim > 1:
            tensor.values = values.astype(np.float16).astype(np.float32)
    return graph


def logits(onnx, images, row):
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    source, found = session.get_inputs()[0].name, []
    for _, pixels in cache.batches(cache.read(images), 16):
        found.append(session.run(None, {source: preprocess.normalize(pixels, row["mean"], row["std"])})[0])
    return np.concatenate(found)
