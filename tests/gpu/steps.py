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
BATCHES = [1, 16, 64, 256]  # of PyTorch's engines, and of those that are timed in turns with them
TORCH = {"device": "cuda", "compute": "fp16", "batches": BATCHES}
ALL = "+".join(map(str, BATCHES))
WAYS = {"compiled": {"compile": True}, "fused": {"fused_attention": True}, "eager": {}}  # of PyTorch
WAYS["both"] = {**WAYS["compiled"], **WAYS["fused"]}
TIMING = {"warmup_ms": 500, "duration_ms": 3000, "iterations": 100, "cuda_graph": True, "spin_wait": True}
TIMING = {**TIMING, "transfers": False}
FIRST, SECOND, OTHERS = "LeViT-128S", "LeViT-256", ("LeViT-128", "LeViT-192", "LeViT-384")
BUILD_SECONDS = {"fp16": 200, "fp16-fused": 95, "fp32": 80, "fp32-fused": 70, "int8_qat": 100, "int8_qat-fused": 60}
CACHED = 0.7  # of these, with the timing caches of an earlier visit
KIT = {"fp16": 190, "fp32": 150, "int8_qat": 120, "int8_ptq": 120}  # the choice's candidates, and seconds of each build
DATASETS = {"digits": "data", "glyphs": "glyphs/data"}  # and their folders
SHARES = ("1/2", "3/4", "1/1")  # of JPEGs that a GPU decodes
SHORT = {"epochs": 6, "small_epochs": 3}  # of a training on glyphs, whose recipe has twice as many
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
    gpus: int = 1  # that it needs at once; 0: it runs beside all others
    shares: bool = False  # its GPU, with other steps that time nothing


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
        self.add_trained()
        self.share = CACHED if (staged / "timing").exists() else 1

    def script(self, name):
        return SCRIPTS / f"{name}.py"

    def target(self, runtime="tensorrt", device=None):
        """Record a runtime's version and its device, which the jobs on it are given."""
        made, row = f"{runtime}.json", {"runtime": runtime, "device": device}
        command = [self.script("fingerprint"), "--target", json.dumps({k: v for k, v in row.items() if v})]
        python = "tensorrt" if runtime == "tensorrt" else "torch"
        return Step(runtime, python, 6, (made,), (), [*command, "--identity", self.out / made], shares=True)

    def on(self, runtime, recipe):
        """Return the options of a job on a runtime."""
        identity = Contents(self.out / f"{runtime}.json")
        return ["--runtime", runtime, "--identity", identity, "--recipe", json.dumps(recipe)]

    def plugin(self):
        made = ("plugin.so", "plugin.json")
        command = [self.script("build_plugin"), "--sources", *SOURCES, "--runtime", "tensorrt", "--plugins", "require"]
        command += ["--identity", Contents(self.out / "tensorrt.json")]
        command += ["--plugin", self.out / made[0], "--description", self.out / made[1]]
        return Step("plugin", "tensorrt", 40, made, ("tensorrt.json",), command, shares=True)

    def kernel(self):
        command = [HERE / "attention_kernel.py", self.out / "kernel.json"]
        return Step("kernel", "torch", 150, ("kernel.json",), ("plugin.so",), command)

    def sanitizer(self, tool):
        command = ["bash", HERE / "sanitize.sh", tool, self.out / f"{tool}.txt", *SANITIZERS[tool]]
        return Step(tool, "", 240, (f"{tool}.txt",), ("plugin.so",), command, shares=True)

    def build(self, engine):
        """Build an engine named MODEL.PRECISION[-fused[_FORM]]@BATCH."""
        model, kind, batch = parts(engine)
        plain, fused = kind.partition("-fused")[0], "-fused" in kind
        graphs = self.models[model]["graphs"]
        recipe = {**RECIPE, **PRECISIONS[plain.split("-")[0]], "batches": [batch]}
        made = f"{engine}.engine", f"{engine}.build.json"
        command = [self.script("build_engine"), *self.on("tensorrt", recipe), "--onnx", self.staged / graphs[plain]]
        command += ["--engine", self.out / made[0], "--description", self.out / made[1]]
        if fused:
            command += ["--fused", self.staged / graphs[kind], "--plugin", self.out / "plugin.so"]
        needs = ("tensorrt.json", "plugin.so", *filter(is_made, {graphs[kind], graphs[plain]}))
        return Step(
            f"{engine}.build", "tensorrt", self.share * build_seconds(kind), made, tuple(map(str, needs)), command
        )

    def score(self, engine, runtime="tensorrt"):
        model, kind, _ = parts(engine)
        made, row = f"{engine}.accuracy.json", self.models[model]
        command = [self.script("evaluate_engine"), *self.on(runtime, {}), "--split", "val"]
        command += ["--engine", self.out / f"{engine}.engine", "--accuracy", self.out / made]
        for name in ("images", "index", "reference", "model"):
            command += [f"--{name}", self.staged / row[name]]
        if "-fused" in kind and runtime == "tensorrt":
            command += ["--plugin", self.out / "plugin.so"]
        python = "torch" if runtime == "pytorch" else "tensorrt"
        needs = (f"{engine}.engine", *map(str, filter(is_made, (row["reference"],))))
        seconds = 15 if python == "torch" else 6
        return Step(f"{engine}.score", python, seconds, (made,), needs, command, shares=True)

    def turns(self, name, engines, kind="turns"):
        """Time engines of one batch size in turns: in one process, or `across` runtimes, or with `transfers`."""
        made, batch = f"{name}.{kind}.json", name.split("@")[1]
        files, script = [f"{engine}.engine" for engine in engines], "across" if kind == "across" else "turns"
        command = [HERE / f"{script}.py", self.out / made, batch, *[self.out / path for path in files]]
        command += ["--transfers"] if kind == "transfers" else []
        return Step(f"{name}.{kind}", "tensorrt", 35 if script == "across" else 22, (made,), tuple(files), command)

    def pair(self, model, precision, batch):
        """Build an engine with the plugin and one without it, score both and time them in turns."""
        fused, plain = f"{model}.{precision}-fused@{batch}", f"{model}.{precision}@{batch}"
        both = self.turns(f"{model}.{precision}@{batch}", [plain, fused])
        return [self.build(fused), self.score(fused), self.build(plain), self.score(plain), both]

    def forms(self, batch):
        """Time the quantized graph beside the one that hands the plugin FP16, and beside FP16, where it is staged."""
        first, second, third = (f"{FIRST}.{k}@{batch}" for k in ("fp16-fused", "int8_qat-fused_fp16", "int8_qat-fused"))
        timed = self.turns(f"{FIRST}.int8_qat@{batch}", [first, second, third], "forms")
        known = "int8_qat-fused_fp16" in self.models[FIRST]["graphs"]
        return [self.build(second), self.score(second), timed] if known else []

    def pairs(self, model, precision):
        return [step for batch in (64, 1) for step in self.pair(model, precision, batch)]

    def variants(self, model, batch):
        """Build other graphs with the plugin, where models.json has them, and time them in turns with the first."""
        known = ("fp16-fused", "fp16-pixels-fused")
        others = [k for k in self.models[model]["graphs"] if k.startswith("fp16-") and "-fused" in k and k not in known]
        engines = [f"{model}.{kind}@{batch}" for kind in ("fp16-fused", *others)]
        timed = self.turns(f"{model}.variants@{batch}", engines, "forms")
        return [*map(self.build, engines), timed] if others else []

    def program(self, model):
        row = self.models[model]
        command = [self.script("export_program"), "--classes", row["classes"], "--program", self.out / f"{model}.pt2"]
        command += ["--checkpoint", self.staged / row["checkpoint"], "--images", self.staged / row["images"]]
        command += ["--model", self.staged / row["model"]]
        return Step(f"{model}.program", "torch", 25, (f"{model}.pt2",), (), command, shares=True)

    def torch(self, model, name):
        """Build an engine of PyTorch, and score it."""
        engine, keys = f"{model}.torch-{name}@{ALL}", WAYS[name]
        build = [
            self.script("build_engine"),
            *self.on("pytorch", {**TORCH, **keys}),
            "--onnx",
            self.out / f"{model}.pt2",
        ]
        build += ["--engine", self.out / f"{engine}.engine", "--description", self.out / f"{engine}.build.json"]
        made, seconds = (f"{engine}.engine", f"{engine}.build.json"), 90 if keys.get("compile") else 30
        needs = (f"{model}.pt2", "pytorch.json")
        return [
            Step(f"{engine}.build", "torch", seconds, made, needs, build, shares=True),
            self.score(engine, "pytorch"),
        ]

    def across(self, model):
        """Time TensorRT's engine with the plugin in turns with those of PyTorch, on one GPU, at each batch size."""
        others = [f"{model}.torch-{name}@{ALL}" for name in ("both", "compiled", "fused")]
        fused = [f"{model}.fp16-fused@{batch}" for batch in BATCHES]
        built = [step for name in ("both", "compiled", "fused") for step in self.torch(model, name)[:1]]
        timed = [self.turns(f"{model}@{one.split('@')[1]}", [one, *others], "across") for one in fused]
        return [self.program(model), *built, *map(self.build, fused), *timed]

    def pixels(self, model, batch):
        """Build engines that take decoded pixels; time them with transfers, in turns with those that take images."""
        row, made = self.models[model], {end: f"{model}.pixels{end}.onnx" for end in ("", "-fused")}
        steps = []
        for end, path in made.items():
            command = [self.script("take_pixels"), "--onnx", self.staged / row["graphs"][f"fp16{end}"]]
            command += ["--model", self.staged / row["model"], "--runtime", "tensorrt", "--pixels", self.out / path]
            steps.append(Step(f"{model}.pixels{end}", "torch", 30, (path,), (), command, gpus=0))
            row["graphs"][f"fp16-pixels{end}"] = self.out / path
        for end in made:
            engines = [f"{model}.fp16{end}@{batch}", f"{model}.fp16-pixels{end}@{batch}"]
            steps += [step for engine in engines for step in (self.build(engine), self.score(engine))]
            steps.append(self.turns(f"{model}.pixels{end}@{batch}", engines, "transfers"))
        return steps

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
        """Choose by `auto`: every job that the workflow has there, from a kit that it packed; GPUs share the builds."""
        folder, name = self.staged / "kit", f"results/digits/engines/{FIRST}.{{}}.gpu.engine".format

        def step(kind, seconds, made, needs, *words):
            return Step(
                kind, "tensorrt", seconds, (str(folder / made),), needs, [HERE / "kit_part.py", kind, *words], folder
            )

        begin = step("kit.begin", 20, "results/plugins/gpu.so", (), "/targets/", "/plugins/")
        builds = [step(f"kit.{kind}", KIT[kind], name(kind), begin.made, name(kind)) for kind in KIT]
        return [begin, *builds, step("kit", 140, "outputs.tar", tuple(build.made[0] for build in builds))]

    def trained(self):
        """Train the other models there, which have no checkpoints here: their graphs and logits are under OUT."""
        made = [f"models/{name}.{part}" for name in OTHERS for part in ("gpu.onnx", "gpu_fused.onnx", "torch.npy")]
        command = [HERE / "make_models.py", self.staged, self.out / "models", "cuda", ",".join(OTHERS)]
        return Step("models", "torch", 160, tuple(made), (), command, shares=True)

    def add_trained(self):
        first, here = self.models[FIRST], self.out / "models"
        shared = {key: first[key] for key in ("images", "index", "classes")}
        for name in OTHERS:
            graphs = {
                f"fp16{end}": here / f"{name}.{kind}.onnx" for end, kind in (("", "gpu"), ("-fused", "gpu_fused"))
            }
            files = {"model": here / f"{name}.json", "reference": here / f"{name}.torch.npy"}
            self.models[name] = {**shared, **files, "graphs": graphs, "checkpoint": here / f"{name}.pth"}

    def host(self):
        """Record the packages of the Python that has PyTorch."""
        command = [
            "bash",
            "-c",
            'python3 -m pip list > "$0"; nproc >> "$0"; nvidia-smi -L >> "$0"',
            self.out / "host.txt",
        ]
        return Step("host", "", 15, ("host.txt",), (), command, gpus=0)

    def client(self):
        """Compile the bundle's client in C++ against the library there."""
        command = ["bash", HERE / "client.sh", self.staged, self.out / "client"]
        return Step("client", "", 40, ("client/classify",), (), command, gpus=0)

    def bundle(self):
        """Make a bundle from what an earlier visit's kit has built, and run its clients in Python and C++."""
        folder = self.staged / "bundle"
        command = [HERE / "bundle.py", self.staged, self.out / "bundle"]
        return Step("bundle", "tensorrt", 90, ("bundle/done.txt",), (), command, folder)

    def finetune(self, device):
        """Fine-tune a trained checkpoint on a device, and score it."""
        made = f"finetune.{device}.json"
        command = [HERE / "finetune.py", self.staged, self.out / made, device]
        return Step(f"finetune.{device}", "torch", 60, (made,), (), command, shares=True)

    def parallel(self, processes, cases):
        """Fine-tune and run QAT on one GPU and on several, by NCCL."""
        name, seconds = f"parallel.{processes}.{cases.replace(',', '-')}", 30 + 50 * len(cases.split(","))
        made = f"{name}.json"
        command = [HERE / "parallel.py", self.staged, self.out / made, "cuda", processes, 12, cases]
        return Step(name, "torch", seconds, (made,), (), command, gpus=processes)

    def scaling(self, processes):
        """Train on generated JPEG files on one GPU or several."""
        command = [HERE / "scaling.py", self.staged, self.out / f"scaling.{processes}.json", "cuda", processes]
        made = (f"scaling.{processes}.json",)
        return Step(f"scaling.{processes}", "torch", 75, made, (), command, gpus=processes)

    def qat(self, device, processes=1):
        """Run QAT on a device, and score it beside the staged graph."""
        name = f"qat.{device}" if processes == 1 else f"qat.{device}.{processes}"
        command = [HERE / "qat.py", self.staged, self.out / f"{name}.json", device, processes]
        return Step(name, "torch", 90, (f"{name}.json",), (), command, gpus=processes, shares=processes == 1)

    def speed(self, kind, model, processes, seconds, *options):
        """Train on images from several sources, in turns, with batch 256 on each GPU."""
        name = f"{kind}.{model}.{processes}"
        command = [ROOT / "tests/bench/loading.py", "--train", "--device", "cuda", "--images", 2048, "--rounds", 3]
        command += ["--seconds", 2.5, "--json", self.out / f"{name}.json", "--model", model, "--batch", 256 * processes]
        command += ["--compute", "bf16", "--processes", processes, *options]
        return Step(name, "torch", seconds, (f"{name}.json",), (), command, gpus=processes)

    def device(self, model, processes):
        """Train on a batch that is on the GPUs already."""
        exchange = ["--exchange"] if processes > 1 else []
        return self.speed("device", model, processes, 60, "--no-loading", *exchange)

    def files(self, model, processes):
        """Train on JPEG files, which processors and GPUs decode, and on the same images in memory."""
        rounds = 4 if processes == 1 else 2
        return self.speed("files", model, processes, 150, "--gpu-decoder", *SHARES, "--rounds", rounds)

    def batchnorm(self):
        """Compare BatchNorm over the shares of two GPUs with that of all images on one."""
        command = [HERE / "batchnorm.py", self.out / "batchnorm.json"]
        return Step("batchnorm", "torch", 40, ("batchnorm.json",), (), command, gpus=2)

    def decoder(self):
        """Decode JPEGs by nvJPEG."""
        command = [ROOT / "tests/bench/gpu_decoder.py", "--json", self.out / "decoder.json"]
        return Step("decoder", "torch", 45, ("decoder.json",), (), command)

    def accuracy(self, dataset, processes, seeds, compute=None, **training):
        """Train from scratch with one seed or several."""
        together = "," in seeds
        name = ".".join(["accuracy", dataset, str(processes), *([compute] if compute else []), seeds.replace(",", "-")])
        recipe = {**training, **({"compute": compute} if compute else {})}
        command = [HERE / "accuracy.py", self.staged / DATASETS[dataset], self.out / f"{name}.json", "cuda", processes]
        command += [seeds, "--dataset", dataset, "--training", json.dumps(recipe)]
        command += ["--together"] if together else []
        return Step(name, "torch", 75, (f"{name}.json",), (), command, gpus=processes, shares=together)

    def several(self):
        """Return the steps of training on several GPUs."""
        every = [self.device(model, count) for count in (2, 4, 1) for model in (FIRST, SECOND)]
        every += [self.files(model, count) for count in (1, 2) for model in (FIRST, SECOND)]
        for seed in "012":
            every += [self.accuracy("digits", count, seed) for count in (2, 4)]
            every += [self.accuracy("glyphs", count, seed, **SHORT) for count in (2, 1)]
        every += [self.accuracy("digits", 1, "0,1,2", kind) for kind in (None, "fp16", "fp32")]
        every += [self.qat("cuda", 2), *(self.parallel(2, case) for case in ("killed", "again", "parent"))]
        return [*every, self.accuracy("digits", 2, "0", "fp16"), self.batchnorm(), self.decoder()]

    def all(self):
        """Return the steps, those first that others wait for and that take long."""
        every = [self.target(), *self.kit()[:1], self.plugin(), self.trained(), self.host(), *self.kit()[1:]]
        every += [
            *self.pairs(FIRST, "fp16"),
            *self.pairs(SECOND, "fp16"),
            *self.pair(FIRST, "int8_qat", 64),
            *self.forms(64),
        ]
        every += [self.target("pytorch", "cuda"), *self.across(FIRST), *self.pixels(FIRST, 64), self.qat("cuda")]
        every += [*self.variants(SECOND, 1), *self.variants(FIRST, 1)]
        every += [self.client(), self.bundle(), *self.several()]
        every += [step for name in OTHERS for step in self.pairs(name, "fp16")]
        every += [
            self.planned("short", 400),
            self.planned("plan", 250),
            self.finetune("cuda"),
            *self.pairs(FIRST, "fp32"),
        ]
        every += [*self.across(SECOND), self.kernel(), self.sanitizer("memcheck"), self.sanitizer("racecheck")]
        every += [self.cross(f"{FIRST}.fp16-fused@64"), self.smoke(), *self.pair(SECOND, "fp32", 64)]
        every += [*self.torch(FIRST, "eager"), self.scaling(1), self.scaling(4)]
        return [step for step in first_of_each(every) if self.is_staged(step)]

    def is_staged(self, step):
        """Return whether all files that a step reads of the staged folder are there."""
        inside = [word for word in step.command if isinstance(word, Path) and self.staged in word.parents]
        return all(path.exists() for path in inside) and (step.folder is None or step.folder.exists())


def first_of_each(steps):
    """Return steps without those of a name that an earlier one has: an engine that several need is built once."""
    names = [step.name for step in steps]
    return [step for number, step in enumerate(steps) if names.index(step.name) == number]


def build_seconds(kind):
    return BUILD_SECONDS.get(kind.replace("-pixels", ""), 95)


def is_made(path):
    """Return whether a step makes a file: the staged ones have names below the staged folder."""
    return Path(path).is_absolute()


def parts(engine):
    """Return (model, precision with -fused, batch) of an engine's name."""
    name, batch = engine.split("@")
    model, _, kind = name.partition(".")
    return model, kind, int(batch.split("+")[0])


def steps(staged, out):
    """Return the steps of a visit on a staged folder."""
    return Steps(staged, out).all()
