"""What the tests of staleness share: the workflow that was built, the jobs and the work that follow each artifact.

Staleness is exact: for each change, the jobs that `snakemake -n` names and the heavy work that is really done.
Snakemake, the command lines, their keys and the store are real; only the work itself is replaced (fake_interpreter.py).
"""

import fcntl
import os

import pytest

from workflow import Workflow

MODEL = "LeViT-tiny"
BUILT = ("fp32.cpu", "int8_ptq.cpu", "int8_qat.cpu", "fp32.ort")
CPU = BUILT[:3]
AUTO = f"results/{MODEL}.auto.cpu.json"
PROFILE = f"results/digits/profile/{MODEL}.fp32.cpu.json"
DLA = f"results/digits/dla/{MODEL}.fp16_dla.xavier.json"


def result(*names):
    return [f"results/{MODEL}.{name}.json" for name in names]


# Jobs, each list with all that follows from its first


def measured(*names):
    """Return the jobs behind an engine."""
    rules = ("evaluate_engine accuracy.", "benchmark ", "assemble_result ")
    return [f"{rule}{name}" for name in names for rule in rules]


def timed(*names):
    return [f"{rule} {name}" for name in names for rule in ("benchmark", "assemble_result")]


def engine(*names):
    return [f"build_engine {name}" for name in names] + measured(*names)


def quantized(*precisions):
    return [f"quantize_onnx {p}.cpu" for p in precisions] + engine(*(f"{p}.cpu" for p in precisions))


def planned(*precisions):
    return [f"plan_precision {p}" for p in precisions] + quantized(*precisions)


CHOICE = ["choose_precision auto.cpu", "paired_benchmark auto.cpu"]
QAT = ["train_qat int8_qat", *planned("int8_qat")]
CALIBRATED = ["calibrate int8_ptq", *planned("int8_ptq"), "calibrate int8_qat", *QAT]
EXPORTED = ["export_onnx", "clean_onnx cpu", *engine("fp32.cpu", "fp32.ort")]
CHECKPOINT = ["train", "evaluate_torch accuracy", "evaluate_torch select", *EXPORTED, *CALIBRATED]
IMAGES = ["decode_split calib", "decode_split select", "decode_split val"]
TARGETS = ["fingerprint cpu", "fingerprint ort"]
RESOLVED = ["resolve", *IMAGES, *CHECKPOINT]
ALL = ["index_dataset", *RESOLVED, *TARGETS]

# Heavy work, as `command output`


def builds(*names):
    return [f"build_engine digits/engines/{MODEL}.{name}.engine" for name in names]


TRAINING = f"train digits/checkpoints/{MODEL}.pth"
PTQ_RANGES = f"calibrate digits/calibration/{MODEL}.int8_ptq.json"
QAT_RANGES = f"calibrate digits/calibration/{MODEL}.int8_qat.json"
PTQ_PLAN, QAT_PLAN = (f"plan_precision digits/plans/{MODEL}.{p}.json" for p in ("int8_ptq", "int8_qat"))
RETRAINING = f"train_qat digits/qat/{MODEL}.int8_qat.pth"
DECODING = [f"decode_split digits/data/{MODEL}.{split}.u8" for split in ("calib", "select", "val")]
AFTER_TRAINING = [PTQ_RANGES, QAT_RANGES, RETRAINING, PTQ_PLAN, QAT_PLAN, *builds(*BUILT)]


class Changes(dict):
    """Changes of a workflow by name, each with what it costs: {name: (function, jobs, heavy work, targets)}."""

    def __init__(self):
        self.slow = set()

    def change(self, jobs, heavy=(), targets=(), slow=False):
        """Register a change: the jobs and the heavy work that it costs; targets: further results that are asked for.

        slow: another change of the same kind is tried in its place by `make test`.
        """

        def register(function):
            self[function.__name__] = (function, sorted(jobs), sorted(heavy), targets)
            self.slow |= {function.__name__} if slow else set()
            return function

        return register

    def names(self):
        """Return the parameters of a test of each change."""
        return [pytest.param(name, marks=[pytest.mark.slow] * (name in self.slow)) for name in self]

    def check(self, name, base, folder):
        """Make a change in a copy of a built workflow: it costs what was registered, and nothing a second time."""
        function, jobs, heavy, targets = self[name]
        workflow, asked = base.copy(folder), [*result(*BUILT), *targets]
        function(workflow)
        assert workflow.plan(*asked) == jobs
        if jobs or name == "nothing":  # an empty plan runs nothing: shown once
            assert workflow.build(*asked) == heavy
            assert workflow.plan(*asked) == []


def row(table, name, **values):
    """Return a change of a configuration that sets keys of a row."""

    def update(config):
        config[table][name].update(values)

    return update


def upgrade(workflow, *names):
    """Install another version of some packages, before those that are there on the interpreter's path."""
    for name in names:
        installed = workflow.path(f"newer/{name.replace('-', '_')}-9999.1.0.dist-info")
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999.1.0\n")
    workflow.variables["PYTHONPATH"] = str(workflow.path("newer"))


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A copy of a workflow that built BUILT, in the first of the test processes that needed it."""
    own = tmp_path_factory.mktemp("contract") / "base"
    folder = tmp_path_factory.getbasetemp()
    common = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "built"
    with open(f"{common}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not common.exists():
            build(own).folder.rename(common)
    return Workflow(common).copy(own)


def build(folder):
    """Return a new workflow that built BUILT."""
    workflow = Workflow.fresh(folder)

    def settle(config):  # what the lists above rely on, whatever the tables say today
        config["precisions"]["int8_ptq"]["calibration"] = {"method": "entropy", "images": 256}
        config["precisions"]["int8_qat"]["calibration"] = {"method": "max", "images": 256}
        config["precisions"]["int8_ptq"].update(high_precision="fp32", fallback="auto")
        config["precisions"]["int8_qat"]["fallback"] = "auto"
        config["targets"]["cpu"].pop("high_precision", None)
        config["targets"]["cpu"].update(threads=0, batches=[1, 16], warmup_ms=500, duration_ms=3000, iterations=50)
        config["targets"]["ort"].update(graph="cpu", warmup_ms=500, duration_ms=3000)
        for graph in ("cpu", "gpu"):
            config["graphs"][graph]["placement"] = ["conv", "linear", "attention", "residual"]

    workflow.config(settle)
    assert workflow.plan(*result(*BUILT)) == sorted(ALL)
    assert workflow.build(*result(*BUILT)) == sorted([*DECODING, TRAINING, *AFTER_TRAINING])
    return workflow
