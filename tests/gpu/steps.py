"""The steps of a visit (visit.py), in order of priority; standard library alone, Python 3.8.

`made` and `needs` are files under OUT. The seconds are those seen on an H100 with TensorRT 8.5.3.1, rounded up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HERE, SCRIPTS, SOURCE = ROOT / "tests/gpu", ROOT / "workflow_scripts", ROOT / "plugins/levit_attention"
SOURCES = [SOURCE / "Makefile", *sorted(path for path in SOURCE.iterdir() if path.suffix in (".cu", ".cpp", ".h"))]
RECIPE = {"workspace_mb": 4096, "dynamic_batch": False}  # of the target `gpu`, less the batches
PRECISIONS = {
    "fp32": {"compute": "fp32"},
    "fp16": {"compute": "fp16"},
    "int8_qat": {"compute": "int8", "high_precision": "fp16"},
}
TORCH = {"device": "cuda", "compute": "fp16", "batches": [1, 64]}
TIMING = {"warmup_ms": 500, "duration_ms": 3000, "iterations": 100, "cuda_graph": True, "spin_wait": True}
TIMING = {**TIMING, "transfers": False}
FIRST, SECOND, OTHERS = "LeViT-128S", "LeViT-256", ("LeViT-128", "LeViT-192", "LeViT-384")
BUILD_SECONDS = {"fp16": 240, "fp16-fused": 90, "fp32": 80, "fp32-fused": 70, "int8_qat": 170, "int8_qat-fused": 130}
SANITIZERS = {"memcheck": ["1,40"], "racecheck": ["1", "128S"]}  # and the batches and the model that they check


class Step(NamedTuple):
    """A command, when it can run, and what it makes."""

    name: str
    python: str  # "tensorrt" or "torch": the Python that runs it; "" where the command names its own
    seconds: float
    made: tuple[str, ...]
    needs: tuple[str, ...]
    command: list
    folder: Path | None = None
    gpus: int = 1  # that it needs at once


class Contents(NamedTuple):
    """A word of a command: the text of a file that an earlier step made."""

    path: Path

    def __str__(self):
        return self.path.read_text()


class Steps:
    """The steps on a staged folder, with figures under `out`."""

    def __init__(self, staged, out):
        self.staged, self.out = staged, out
        self.models = json.loads((staged / "models.json").read_text())

    def script(self, name):
        return SCRIPTS / f"{name}.py"

    def target(self, runtime="tensorrt", device=None):
        """Record a runtime's version and its device, which the jobs on it are given."""
        made, row = f"{runtime}.json", {"runtime": runtime, "device": device}
        command = [self.script("fingerprint"), "--target", json.dumps({k: v for k, v in row.items() if v})]
        python = "tensorrt" if runtime == "tensorrt" else "torch"
        return Step(runtime, python, 15, (made,), (), [*command, "--identity", self.out / made])

    def on(self, runtime, recipe):
        """Return the options of a job on a runtime."""
        identity = Contents(self.out / f"{runtime}.json")
        return ["--runtime", runtime, "--identity", identity, "--recipe", json.dumps(recipe)]

    def plugin(self):
        made = ("plugin.so", "plugin.json")
        command = [self.script("build_plugin"), "--sources", *SOURCES, "--runtime", "tensorrt", "--plugins", "require"]
        command += ["--identity", Contents(self.out / "tensorrt.json")]
        command += ["--plugin", self.out / made[0], "--description", self.out / made[1]]
        return Step("plugin", "tensorrt", 90, made, ("tensorrt.json",), command)

    def kernel(self):
        command = [HERE / "attention_kernel.py", self.out / "kernel.json"]
        return Step("kernel", "torch", 150, ("kernel.json",), (), command)

    def sanitizer(self, tool):
        command = ["bash", HERE / "sanitize.sh", tool, self.out / f"{tool}.txt", *SANITIZERS[tool]]
        return Step(tool, "", 240, (f"{tool}.txt",), (), command)

    def build(self, engine):
        """Build an engine named MODEL.PRECISION[-fused]@BATCH."""
        model, kind, batch = parts(engine)
        precision, fused = kind.replace("-fused", ""), kind.endswith("-fused")
        graphs = self.models[model]["graphs"]
        recipe = {**RECIPE, **PRECISIONS[precision], "batches": [batch]}
        made = f"{engine}.engine", f"{engine}.build.json"
        command = [self.script("build_engine"), *self.on("tensorrt", recipe), "--onnx", self.staged / graphs[precision]]
        command += ["--engine", self.out / made[0], "--description", self.out / made[1]]
        if fused:
            command += ["--fused", self.staged / graphs[kind], "--plugin", self.out / "plugin.so"]
        needs = ("tensorrt.json", *["plugin.so"][: int(fused)])
        return Step(f"{engine}.build", "tensorrt", BUILD_SECONDS[kind], made, needs, command)

    def score(self, engine, runtime="tensorrt"):
        model, kind, _ = parts(engine)
        made, row = f"{engine}.accuracy.json", self.models[model]
        command = [self.script("evaluate_engine"), *self.on(runtime, {}), "--split", "val"]
        command += ["--engine", self.out / f"{engine}.engine", "--accuracy", self.out / made]
        for name in ("images", "index", "reference", "model"):
            command += [f"--{name}", self.staged / row[name]]
        if kind.endswith("-fused") and runtime == "tensorrt":
            command += ["--plugin", self.out / "plugin.so"]
        python = "torch" if runtime == "pytorch" else "tensorrt"
        return Step(f"{engine}.score", python, 20, (made,), (f"{engine}.engine",), command)

    def turns(self, name, engines):
        """Time engines of one batch size in turns, in one process."""
        made, batch = f"{name}.turns.json", engines[0].split("@")[1]
        files = [f"{engine}.engine" for engine in engines]
        command = [HERE / "turns.py", self.out / made, batch, *[self.out / path for path in files]]
        return Step(f"{name}.turns", "tensorrt", 25, (made,), tuple(files), command)

    def pair(self, model, precision, batch):
        """Build an engine with the plugin and one without it, score both and time them in turns."""
        fused, plain = f"{model}.{precision}-fused@{batch}", f"{model}.{precision}@{batch}"
        both = self.turns(f"{model}.{precision}@{batch}", [plain, fused])
        return [self.build(fused), self.score(fused), self.build(plain), self.score(plain), both]

    def pairs(self, model, precision):
        return [step for batch in (64, 1) for step in self.pair(model, precision, batch)]

    def program(self, model):
        row = self.models[model]
        command = [self.script("export_program"), "--classes", row["classes"], "--program", self.out / f"{model}.pt2"]
        command += ["--checkpoint", self.staged / row["checkpoint"], "--images", self.staged / row["images"]]
        command += ["--model", self.staged / row["model"]]
        return Step(f"{model}.program", "torch", 45, (f"{model}.pt2",), (), command)

    def torch(self, model, name, **keys):
        """Build, score and time an engine of PyTorch."""
        engine, recipe = f"{model}.torch-{name}@1+64", {**TORCH, **keys}
        build = [self.script("build_engine"), *self.on("pytorch", recipe), "--onnx", self.out / f"{model}.pt2"]
        build += ["--engine", self.out / f"{engine}.engine", "--description", self.out / f"{engine}.build.json"]
        timing = [self.script("benchmark"), *self.on("pytorch", {**TIMING, "batches": TORCH["batches"]})]
        timing += ["--engine", self.out / f"{engine}.engine", "--benchmark", self.out / f"{engine}.benchmark.json"]
        made, seconds = (f"{engine}.engine", f"{engine}.build.json"), 120 if keys.get("compile") else 45
        return [
            Step(f"{engine}.build", "torch", seconds, made, (f"{model}.pt2", "pytorch.json"), build),
            self.score(engine, "pytorch"),
            Step(f"{engine}.time", "torch", 60, (f"{engine}.benchmark.json",), (f"{engine}.engine",), timing),
        ]

    def smoke(self):
        """Take a small network through every call that needs a GPU."""
        command = [HERE / "smoke.py", self.out / "smoke.json", self.staged / "smoke"]
        return Step("smoke", "tensorrt", 200, ("smoke.json",), (), command)

    def cross(self, engine):
        """Check an engine's timing in four ways that must agree."""
        made = f"{engine}.cross.json"
        command = [HERE / "cross_check.py", self.out / f"{engine}.engine", str(parts(engine)[2]), self.out / made]
        return Step(f"{engine}.cross", "tensorrt", 30, (made,), (f"{engine}.engine",), command)

    def planned(self, plan, seconds):
        """Build the network whose FP16 overflows by a plan; `short` lacks a node, and must grow."""
        command = [HERE / "planned.py", "run", self.staged / "planted", self.out / "planned", "--steps", plan]
        return Step(f"planned.{plan}", "tensorrt", seconds, (f"planned/{plan}.json",), (), command)

    def kit(self):
        """Choose by `auto`: every job that the workflow has there, from a kit that it packed."""
        command = [self.script("device_kit"), "run"]
        made = str(self.staged / "kit/outputs.tar")
        return Step("kit", "tensorrt", 400, (made,), (), command, self.staged / "kit")

    def finetune(self, device):
        """Fine-tune a trained checkpoint on a device, and score it."""
        made = f"finetune.{device}.json"
        command = [HERE / "finetune.py", self.staged, self.out / made, device]
        return Step(f"finetune.{device}", "torch", 60, (made,), (), command)

    def parallel(self, processes):
        """Fine-tune and run QAT on one GPU and on several, by NCCL; never run so far."""
        made = f"parallel.{processes}.json"
        command = [HERE / "parallel.py", self.staged, self.out / made, "cuda", processes]
        return Step(f"parallel.{processes}", "torch", 300, (made,), (), command, gpus=processes)

    def loading(self, model, batch):
        """Train on images of JPEG files and on the same images in memory; never run so far."""
        made = f"loading.{model}.json"
        command = [ROOT / "tests/bench/loading.py", "--train", "--device", "cuda", "--images", 4000, "--json"]
        command += [self.out / made, "--model", model, "--batch", batch, "--rounds", 2]
        return Step(f"loading.{model}", "torch", 120, (made,), (), command)

    def all(self):
        fused, compiled = {"fused_attention": True}, {"compile": True}
        every = [
            self.target(),
            self.plugin(),
            self.kernel(),
            *self.pairs(FIRST, "fp16"),
            self.target("pytorch", "cuda"),
        ]
        every += [self.program(FIRST), *self.torch(FIRST, "fused", **fused), *self.torch(FIRST, "eager")]
        every += [*self.torch(FIRST, "compiled", **compiled), self.sanitizer("memcheck"), self.kit()]
        every += [*self.pairs(SECOND, "fp16"), self.program(SECOND), *self.torch(SECOND, "fused", **fused)]
        every += [*self.torch(SECOND, "compiled", **compiled), *self.torch(FIRST, "both", **fused, **compiled)]
        every += [*self.pairs(FIRST, "fp32"), self.planned("short", 400), self.planned("plan", 250)]
        every += [*self.pair(FIRST, "int8_qat", 64), self.finetune("cuda"), self.sanitizer("racecheck")]
        every += [self.cross(f"{FIRST}.fp16-fused@64"), self.smoke(), *self.pair(SECOND, "fp32", 64)]
        every += [self.loading(FIRST, 256), self.loading(SECOND, 256), self.parallel(2), self.parallel(4)]
        return [step for step in every if self.is_staged(step)]

    def is_staged(self, step):
        """Return whether all files that a step reads of the staged folder are there."""
        inside = [word for word in step.command if isinstance(word, Path) and self.staged in word.parents]
        return all(path.exists() for path in inside) and (step.folder is None or step.folder.exists())


def parts(engine):
    """Return (model, precision with -fused, batch) of an engine's name."""
    name, batch = engine.split("@")
    model, _, kind = name.partition(".")
    return model, kind, int(batch.split("+")[0])


def steps(staged, out):
    """Return the steps of a visit on a staged folder."""
    return Steps(staged, out).all()
