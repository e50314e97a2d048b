"""The files of a model repository for Triton Inference Server, made of those of a bundle.

A runtime of which Triton has a backend is served by it; any other runs the bundle's client in Triton's Python backend.
An engine of TensorRT that was built for batch sizes alone has a model in Python before it, which splits and pads.
"""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path
from typing import Any

from deployment import archive, model_config, stream
from deployment.classifier import CLASSES, ENGINE, PLUGIN, PREPROCESS, RESULT
from deployment.model_config import IMAGE, LABELS, LOGITS, ON_DLA, ON_GPU, PIXELS

TEMPLATE = Path(__file__).with_name("triton.md")
SCRIPTS = tuple(f"triton_{name}.py" for name in ("preprocess", "engine", "client", "serve"))
DESCRIPTION, PLAN = "engine.json", "plan.json"
PLAN_FILES = {"model.plan": ENGINE, PLUGIN: PLUGIN}  # of the model that TensorRT runs, by their names in a bundle
VERSION, MODELS = "1", "models"
PYTHON, TENSORRT, ONNX = {"backend": "python"}, {"platform": "tensorrt_plan"}, {"backend": "onnxruntime"}
KINDS = {"float32": "FP32", "uint8": "UINT8"}  # of tensors, by numpy's names
KEPT = ("samples/", CLASSES, RESULT)  # of a bundle, at the root of a repository


class Bundle:
    """What a bundle says of its engine.

    name: of the result; graph: the ONNX file that the engine was built from, where Triton loads that; sizes: the batch
    sizes, ascending; most: images of a query to a model that splits it
    """

    def __init__(self, name: str, files: dict[str, bytes], graph: bytes | None = None) -> None:
        self.name, self.files, self.graph = name, files, graph
        self.engine, result = json.loads(files[DESCRIPTION]), json.loads(files[RESULT])
        self.recipe, self.identity = result["provenance"]["recipe"]["building"], result["target_identity"]
        self.runtime = self.identity["runtime"]
        self.classes, self.image = len(files[CLASSES].splitlines()), json.loads(files[PREPROCESS])["size"]
        self.sizes = sorted(self.engine["batches"] or self.recipe["batches"])
        self.several, self.most = [size for size in self.sizes if size > 1], max(*self.sizes, stream.BATCH)

    def source(self, batch: tuple[int, ...] = ()) -> dict:
        """Return the tensor that the engine takes."""
        return model_config.tensor(
            self.engine["input"], KINDS[self.engine["dtype"]], [*batch, *self.engine["shape"][1:]]
        )

    def target(self, batch: tuple[int, ...] = ()) -> dict:
        """Return the tensor that the engine gives."""
        return model_config.logits(self.engine["output"], self.classes, batch)


def files(bundle: Bundle) -> dict[str, bytes]:
    """Return {path: content} of a model repository, with a client, a way to serve it and SHA256SUMS."""
    serving, bundled = SERVING.get(bundle.runtime, _by_client), bundle.files.items()
    listed = {
        **_served(serving(bundle), bundle),
        **{name: data for name, data in bundled if name.startswith(KEPT)},
        "CARD.md": bundle.files["README.md"],
        "requirements.txt": _requirements(bundle),
        "client.py": TEMPLATE.with_name("triton_client.py").read_bytes(),
        "serve.py": TEMPLATE.with_name("triton_serve.py").read_bytes(),
    }
    listed["README.md"] = _readme(bundle, listed)
    return {**listed, "SHA256SUMS": archive.checksums(listed)}


def digest() -> str:
    """Return a hash of the text of what a repository takes from the project besides a bundle."""
    texts = {path.name: path.read_bytes() for path in [TEMPLATE, *map(TEMPLATE.with_name, SCRIPTS)]}
    for script in SCRIPTS[:2]:
        texts.update(archive.program(script, script))
    return hashlib.sha256(archive.checksums(texts)).hexdigest()


def _served(engines, bundle):
    """Return the files of all models. engines: [(configuration, files of its version)], the first takes the images."""
    (first, _), name = engines[0], bundle.name
    (source,), (target,), most = first["input"], first["output"], first["max_batch_size"]
    runs = {**PYTHON, "dynamic_batching": {}}
    before = model_config.model(f"{name}.preprocess", runs, most, model_config.tensor(IMAGE, "STRING", [1]), source)
    program = archive.program("triton_preprocess.py", "model.py")
    steps = [(before["name"], IMAGE, source["name"]), (first["name"], source["name"], target["name"])]
    whole = model_config.ensemble(name, most, bundle.classes, steps)
    models = [*engines, (before, {**program, PREPROCESS: bundle.files[PREPROCESS]}), (whole, {".keep": b""})]
    return {path: data for config, parts in models for path, data in _folder(config, parts, bundle).items()}


def _folder(config, parts, bundle):
    root = f"{MODELS}/{config['name']}"
    listed = {f"{root}/{VERSION}/{path}": data for path, data in parts.items()}
    if "label_filename" in config["output"][0]:
        listed[f"{root}/{LABELS}"] = bundle.files[CLASSES]
    return {**listed, f"{root}/config.pbtxt": model_config.text(config).encode()}


def _python(bundle, parts=(ENGINE, PLUGIN), preferred=None, runtime=None, **more):
    """Return the model that runs the bundle's client, for any number of pixels."""
    if preferred is None:
        preferred = bundle.sizes if bundle.engine["batches"] else bundle.several
    source = model_config.tensor(PIXELS, "UINT8", [bundle.image, bundle.image, 3])
    target = model_config.logits(LOGITS, bundle.classes)
    config = model_config.model(f"{bundle.name}.engine", PYTHON, bundle.most, source, target)
    bundled = {name: bundle.files[name] for name in (*parts, CLASSES, PREPROCESS, RESULT) if name in bundle.files}
    program = archive.program("triton_engine.py", "model.py", runtime)
    return [({**config, **model_config.batching(preferred, bundle.sizes[-1])}, {**program, **bundled, **more})]


def _by_client(bundle):
    return _python(bundle, runtime=bundle.runtime)


def _tensorrt(bundle):
    """Return the model of a TensorRT engine; one for batch sizes alone has a model in Python before it."""
    parts = {name: bundle.files[file] for name, file in PLAN_FILES.items() if file in bundle.files}
    group: dict[str, Any] = {"kind": ON_GPU, "profile": [str(number) for number in range(len(bundle.sizes))]}
    if bundle.recipe["dla"]:
        group["secondary_devices"] = [{"kind": ON_DLA, "device_id": 0}]
    least, most = bundle.engine["shape"][0], bundle.sizes[-1]
    if least < 0 and bundle.recipe.get("dynamic_batch", True):
        tensors = bundle.source(), bundle.target()
        config = model_config.model(f"{bundle.name}.engine", TENSORRT, most, *tensors, group)
        return [({**config, **model_config.batching(bundle.several, most)}, parts)]
    tensors = bundle.source((least,)), bundle.target((least,))
    plan = model_config.model(f"{bundle.name}.plan", TENSORRT, 0, *tensors, group)
    described = json.dumps({**bundle.engine, "model": plan["name"]}, indent=2, sort_keys=True).encode()
    return [*_python(bundle, (), bundle.several, **{PLAN: described}), (plan, parts)]


def _onnx(bundle):
    """Return the model of the graph that an engine of ONNX Runtime was made of: Triton's optimizes it again."""
    threads = {"key": "intra_op_thread_count", "value": {"string_value": str(bundle.recipe.get("threads", 0))}}
    config = model_config.model(f"{bundle.name}.engine", ONNX, bundle.most, bundle.source(), bundle.target())
    more = {"parameters": [threads], **model_config.batching(bundle.several, bundle.sizes[-1])}
    return [({**config, **more}, {"model.onnx": bundle.graph})]


NUMPY = "numpy<2  # Triton 2.51's Python backend ends at an image where numpy is newer"
SERVING = {"tensorrt": _tensorrt, "onnxruntime": _onnx}  # by Triton's own backends; other runtimes: _python


def _requirements(bundle):
    """Return the packages of the models in Python: a runtime that Triton brings is none of them."""
    lines = bundle.files["requirements.txt"].decode().splitlines()
    pins = [line for line in lines if "==" in line and not line.startswith("numpy==")]
    if bundle.runtime in SERVING:
        pins = [line for line in pins if line.startswith("pillow==")]
    return "\n".join([*pins, NUMPY, ""]).encode()


def _readme(bundle, listed):
    gpu, plugin = bundle.runtime == "tensorrt", PLUGIN in bundle.files
    holder = f"{bundle.name}.{'plan' if f'{MODELS}/{bundle.name}.plan/config.pbtxt' in listed else 'engine'}"
    path = f"{MODELS}/{holder}/{VERSION}/{PLUGIN}"
    values = {
        "name": bundle.name,
        "runtime": f"{bundle.identity['runtime']} {bundle.identity['version']}",
        "device": f"{bundle.identity['device']} ({bundle.identity['architecture']})",
        "size": bundle.image,
        "gpus": "--gpus all " if gpu else "",
        "plugin": f" --backend-config=tensorrt,plugins=/repository/{path}" if plugin else "",
    }
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values).encode()
