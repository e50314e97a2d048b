"""One visit to a GPU host: build, score and time engines, time PyTorch beside them, pack the numbers small.

    python3 tests/gpu/visit.py --artifacts results/digits --out OUT --python PYTHON_WITH_TENSORRT
        [--torch-python python3] [--gpus 0,1] [--builds-per-gpu 1] [--build-seconds 300] [--stages fp32@64,torch,...]

Standard library alone, Python 3.8. Builds come in the order of the stages, as many at once as the GPUs allow; an engine
is timed when nothing else runs on its GPU. Each step writes its own JSON under OUT, so that a visit that is
cut short loses only what it did not reach; OUT/visit.json says which steps were done. A step that is done is not
repeated. Builds that are not done after --build-seconds are given up. The recipes are config.yaml's, less the batches.
A stage is PRECISION[-VARIANT]@BATCH[+BATCH...]; a variant is another graph of the precision,
clean/{model}.gpu-VARIANT.onnx or quantized/{model}.PRECISION-VARIANT.gpu.onnx. Stages of --rebuild are built a
second time, from the timing cache.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent.parent / "workflow_scripts"
STAGES = "fp32@64,fp16@64,int8_qat@64,torch,fp32@1,fp16@1,int8_qat@1,int8_ptq@64,int8_ptq@1"
COMMON = {"workspace_mb": 4096, "dynamic_batch": False}
PRECISIONS = {
    "fp32": {"compute": "fp32"},
    "tf32": {"compute": "fp32", "tf32": True},
    "fp16": {"compute": "fp16"},
    "int8_qat": {"compute": "int8", "high_precision": "fp16"},
    "int8_ptq": {"compute": "int8", "high_precision": "fp16"},
    "int8_cache": {"compute": "int8", "high_precision": "fp16"},  # the clean graph with a calibration cache
}
TIMING = {"warmup_ms": 500, "duration_ms": 3000, "iterations": 100, "spin_wait": True}
NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Visit:
    def __init__(self, args):
        self.args, self.out, self.artifacts = args, Path(args.out), Path(args.artifacts)
        self.gpus = args.gpus.split(",")
        self.steps, self.writing, self.start = {}, threading.Lock(), time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        self.recipe = {**COMMON, **json.loads(args.recipe)}

    # Steps

    def step(self, name, command, outputs, gpu, timeout):
        """Run a command unless its outputs are there; note its status and seconds. Return whether it went well."""
        if all((self.out / output).exists() for output in outputs):
            return True
        begin = time.monotonic()
        caches = {"LEVIT_TIMING_CACHES": str(self.out / "timing")} if self.args.timing_cache else {}
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "TORCHINDUCTOR_CACHE_DIR": str(self.out / "inductor")}
        environment.update(caches)
        with open(self.out / f"{name}.log", "ab") as log:
            try:
                done = subprocess.run(
                    [str(part) for part in command], stdout=log, stderr=log, env=environment, timeout=max(timeout, 1)
                )
                status = done.returncode
            except subprocess.TimeoutExpired:
                status = "out of time"
        self.note(name, {"status": status, "seconds": round(time.monotonic() - begin, 1), "gpu": gpu})
        return status == 0

    def note(self, name, value):
        with self.writing:
            self.steps[name] = {**value, "at": round(time.monotonic() - self.start, 1)}
            beside = self.out / "visit.json.partial"
            beside.write_text(json.dumps({"recipe": self.recipe, "steps": self.steps}, indent=1))
            os.replace(str(beside), str(self.out / "visit.json"))
        print(f"{self.steps[name]['at']:7.1f} s  {name}: {value}", flush=True)

    def left(self):
        return self.args.build_seconds - (time.monotonic() - self.start)

    def script(self, name, *arguments):
        return [self.args.python, str(SCRIPTS / f"{name}.py"), *arguments]

    # Engines

    def graph(self, stage):
        name = stage.split("@")[0]
        precision, _, variant = name.partition("-")
        if precision.startswith("int8") and precision != "int8_cache":
            return self.artifacts / "quantized" / f"{self.args.model}.{name}.gpu.onnx"
        return self.artifacts / "clean" / f"{self.args.model}.gpu{variant and '-' + variant}.onnx"

    def cache(self, stage):
        path = self.artifacts / "calibration" / f"{self.args.model}.int8_ptq.gpu.cache"
        return ["--cache", path] if stage.startswith("int8_cache") else []

    def path(self, stage, suffix):
        return self.out / f"{stage}.{suffix}"

    def identity(self):
        command = self.script(
            "fingerprint", "--target", '{"runtime":"tensorrt"}', "--identity", self.out / "target.json"
        )
        self.step("fingerprint", command, ["target.json"], self.gpus[0], 60)
        return (self.out / "target.json").read_text()

    def build(self, stage, gpu, identity, again=""):
        name = stage.split("@")[0]
        recipe = {**self.recipe, **PRECISIONS[name.split("-")[0]], "batches": _batches(stage)}
        files = self.path(stage, f"{again}engine"), self.path(stage, f"{again}build.json")
        command = self.script(
            *("build_engine", "--onnx", self.graph(stage), "--runtime", "tensorrt", *self.cache(stage)),
            *("--recipe", json.dumps(recipe), "--identity", identity),
            *("--engine", files[0], "--description", files[1]),
        )
        return self.step(f"{stage}.{again}build", command, [path.name for path in files], gpu, self.left())

    def score(self, stage, gpu, identity):
        """Score an engine: that may be done while others are built."""
        folder, model = self.artifacts, self.args.model
        images = sorted((folder / "data").glob("*.val.u8"))[0]
        command = self.script(
            *("evaluate_engine", "--engine", self.path(stage, "engine"), "--runtime", "tensorrt"),
            *("--identity", identity, "--images", images, "--index", folder / "data" / "index.json"),
            *("--reference", folder / "accuracy" / f"{model}.torch.npy", "--split", "val"),
            *("--model", self.normalization(), "--recipe", "{}"),
            *("--accuracy", self.path(stage, "accuracy.json")),
        )
        return self.step(f"{stage}.score", command, [f"{stage}.accuracy.json"], gpu, 120)

    def normalization(self):
        """Write what evaluation reads of a model's file; return its path."""
        path = self.out / "model.json"
        path.write_text(json.dumps(NORMALIZATION))
        return path

    def time(self, stage, gpu, identity):
        """Time an engine, alone on its GPU."""
        recipe = {**TIMING, "duration_ms": self.args.duration_ms, "batches": _batches(stage)}
        command = self.script(
            *("benchmark", "--engine", self.path(stage, "engine"), "--runtime", "tensorrt", "--identity", identity),
            *("--recipe", json.dumps(recipe), "--benchmark", self.path(stage, "benchmark.json")),
        )
        return self.step(f"{stage}.time", command, [f"{stage}.benchmark.json"], gpu, 120)

    def cross(self, stage, gpu):
        """Check an engine's timing and interfaces, alone on its GPU."""
        milliseconds, out = str(self.args.duration_ms // 3), self.path(stage, "cross.json")
        script, batch = HERE / "cross_check.py", str(_batches(stage)[-1])
        command = [self.args.python, script, self.path(stage, "engine"), batch, out, milliseconds]
        return self.step(f"{stage}.cross", command, [f"{stage}.cross.json"], gpu, 120)

    def smoke(self):
        command = [self.args.python, HERE / "smoke.py", self.out / "smoke.json"]
        self.step("smoke", command, ["smoke.done"], self.gpus[-1], self.left())

    def torch(self, gpu, warm=()):
        name = "torch_warm" if warm else "torch"
        command = [self.args.torch_python, HERE / "torch_side.py", self.out / f"{name}.json", *warm]
        self.step(name, command, [f"{name}.done"], gpu, 300)

    def beside(self, stages):
        """What may run beside builds."""
        self.smoke()
        if "torch" in stages:
            self.torch(self.gpus[-1], ["warm"])

    # The whole

    def run(self):
        stages = self.args.stages.split(",")
        identity = self.identity()
        beside = threading.Thread(target=self.beside, args=(stages,))
        beside.start()
        pending = [stage for stage in stages if stage != "torch" and self.graph(stage).exists()]
        for stage in set(stages) - set(pending) - {"torch"}:
            self.note(stage, {"status": "no graph"})
        built = self.build_all(pending, identity)
        beside.join()
        again = [stage for stage in self.args.rebuild.split(",") if stage in built]
        self.on_every_gpu([lambda gpu, stage=stage: self.build(stage, gpu, identity, "again.") for stage in again])
        works = [lambda gpu, stage=stage: self.time(stage, gpu, identity) for stage in stages if stage in built]
        works += [self.torch] if "torch" in stages else []
        works += [lambda gpu, stage=stage: self.cross(stage, gpu) for stage in stages if stage in built]
        self.on_every_gpu(works)
        self.note("end", {"status": 0})

    def build_all(self, stages, identity):
        """Build all stages, some at once on each GPU; return those that are there."""
        places = self.gpus * self.args.builds_per_gpu
        waiting = list(stages)

        def work(gpu):
            while True:
                with self.writing:
                    if not waiting:
                        return
                    stage = waiting.pop(0)
                if self.left() > 0:
                    if self.build(stage, gpu, identity):
                        self.score(stage, gpu, identity)
                else:
                    self.note(f"{stage}.build", {"status": "not reached"})

        threads = [threading.Thread(target=work, args=(gpu,)) for gpu in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [stage for stage in stages if self.path(stage, "engine").exists()]

    def on_every_gpu(self, works):
        """Do works, one at a time on each GPU."""
        waiting = list(works)

        def work(gpu):
            while True:
                with self.writing:
                    if not waiting:
                        return
                    function = waiting.pop(0)
                function(gpu)

        threads = [threading.Thread(target=work, args=(gpu,)) for gpu in self.gpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _batches(stage):
    return [int(batch) for batch in stage.split("@")[1].split("+")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", required=True, help="results/{dataset}: clean/, quantized/, data/, accuracy/")
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="LeViT-128S")
    parser.add_argument("--python", default=sys.executable, help="with TensorRT")
    parser.add_argument("--torch-python", default="python3", help="with PyTorch and timm")
    parser.add_argument("--gpus", default="0")
    parser.add_argument("--builds-per-gpu", type=int, default=1)
    parser.add_argument("--build-seconds", type=float, default=3600)
    parser.add_argument("--duration-ms", type=int, default=3000, help="of each timing")
    parser.add_argument("--recipe", default="{}", help="JSON: more of a target's row for all builds")
    parser.add_argument("--stages", default=STAGES)
    parser.add_argument("--rebuild", default="", help="stages to build again, with --timing-cache")
    parser.add_argument("--timing-cache", action="store_true", help="share kernel timings between builds")
    Visit(parser.parse_args()).run()


if __name__ == "__main__":
    main()
