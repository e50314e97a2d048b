"""Staleness is exact: for each change, the jobs that `snakemake -n` names and the heavy work that is really done.

Snakemake, the command lines, their keys and the store are real; only the work itself is replaced (fake_interpreter.py).
"""

import os
import sys

import pytest

from workflow import Workflow, jobs_of, reasons_of

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

CHANGES = {}


def change(jobs, heavy=(), targets=()):
    """Register a change: the jobs and the heavy work that it costs; `targets`: further results that are asked for."""

    def register(function):
        CHANGES[function.__name__] = (function, sorted(jobs), sorted(heavy), targets)
        return function

    return register


def row(table, name, **values):
    """Return a change of a configuration that sets keys of a row."""

    def update(config):
        config[table][name].update(values)

    return update


# What decides nothing


@change([])
def nothing(workflow):
    pass


@change([])
def comment_in_config(workflow):
    workflow.edit("config.yaml", "\nmodels:", "\n# the networks\nmodels:")


@change([])
def key_order_in_config(workflow):
    workflow.config(lambda config: None, sort_keys=True)


@change([])
def default_written_out(workflow):
    workflow.config(row("targets", "cpu", typed=False, dla=0, trtexec=False))


@change([])
def url_of_a_model_that_is_trained(workflow):
    workflow.config(row("models", MODEL, url="https://example.org/x.pth", sha256="0123456789abcdef"))


@change([])
def published_accuracy(workflow):
    workflow.config(row("models", MODEL, top1=50.0))


@change([])
def unused_rows(workflow):
    workflow.config(lambda config: config["models"].pop("LeViT-384") and None)


@change([])
def interpreter_of_a_target(workflow):
    workflow.config(row("targets", "cpu", python=sys.executable))


@change([])
def another_target_on_a_board(workflow):
    workflow.config(lambda config: config["targets"]["xavier"].update(ssh="user@host", workdir="work"))


@change([])
def touched_outputs(workflow):
    for path in workflow.path("results").rglob("*.*"):
        if "logs" not in path.parts and path.is_file():
            os.utime(path)


@change([])
def touched_script(workflow):
    os.utime(workflow.path("workflow_scripts/train.py"))


@change([])
def deleted_intermediates(workflow):
    workflow.path(f"results/digits/onnx/{MODEL}.onnx").unlink()
    workflow.path(f"results/digits/qat/{MODEL}.int8_qat.pth").unlink()


@change([])
def deleted_store(workflow):
    workflow.config(lambda config: config.update(store="elsewhere"))


@change([])
def code_of_another_runtime(workflow):
    workflow.edit(
        "workflow_scripts/runtimes/tensorrt_rtx.py",
        "import",
        "import functools  # new\nimport",
    )


@change([])
def drawing_of_another_dataset(workflow):
    workflow.config(lambda config: config["datasets"]["glyphs"]["drawing"].update(val=7))


@change([])
def images_of_another_dataset(workflow):
    workflow.path("pictures/val/a").mkdir(parents=True)
    workflow.config(lambda config: config["datasets"]["imagenet"].update(path="pictures", labels="x"))


@change([])
def code_of_another_builtin_dataset(workflow):
    workflow.edit("workflow_scripts/data/glyphs.py", "PIXELS = ", "EXTRA = 1\nPIXELS = ")


# Rows


@change(["assemble_result fp32.cpu", "assemble_result fp32.ort"])
def budget_of_a_precision_without_a_plan(workflow):
    workflow.config(row("precisions", "fp32", budget=9.0))


@change(planned("int8_ptq"), [PTQ_PLAN, *builds("int8_ptq.cpu")])
def criterion_of_a_plan(workflow):
    workflow.config(row("precisions", "int8_ptq", criterion={"agreement": 90.0}))


@change(quantized("int8_ptq"), builds("int8_ptq.cpu"))
def no_plan(workflow):
    workflow.config(row("precisions", "int8_ptq", fallback="none"))


@change(planned("int8_ptq"), [PTQ_PLAN, *builds("int8_ptq.cpu")])
def plan_made_by_hand(workflow):
    workflow.path("mine.json").write_text('{"nodes": []}')
    workflow.config(row("precisions", "int8_ptq", fallback={"plan": "mine.json"}))


@change(planned("int8_ptq", "int8_qat"), [PTQ_PLAN, QAT_PLAN, *builds("int8_ptq.cpu", "int8_qat.cpu")])
def passes_of_the_class_that_plans_name(workflow):
    workflow.config(lambda config: config["graphs"]["gpu"]["passes"].append("split_to_slices"))


@change(planned("int8_ptq"), [PTQ_PLAN, *builds("int8_ptq.cpu")])
def budget(workflow):
    workflow.config(row("precisions", "int8_ptq", budget=9.0))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")])
def calibration_method(workflow):
    workflow.config(row("precisions", "int8_ptq", calibration={"method": "mse", "images": 256}))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")])
def calibration_size(workflow):
    workflow.config(row("precisions", "int8_ptq", calibration={"method": "entropy", "images": 64}))


SWEPT = {"method": "sweep", "images": 256, "candidates": [{"method": "max"}, {"method": "mse", "weights": "mse"}]}
SWEEP = f"sweep_calibration digits/sweeps/{MODEL}.int8_ptq.json"


@change(
    ["sweep_calibration int8_ptq", "calibrate int8_ptq", *planned("int8_ptq")],
    [SWEEP, PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")],
)
def sweep_in_place_of_a_recipe(workflow):
    workflow.config(row("precisions", "int8_ptq", calibration=SWEPT))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")])
def parts_of_a_recipe(workflow):
    recipe = {"method": "entropy", "images": 256, "equalize": True, "smoothing": 0.5, "bias_correction": True}
    workflow.config(row("precisions", "int8_ptq", calibration=recipe))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")])
def imported_ranges(workflow):
    workflow.path(f"{MODEL}.quantized.pth").write_text("ranges")
    recipe = {"method": "entropy", "images": 256, "import": "{model}.quantized.pth"}
    workflow.config(row("precisions", "int8_ptq", calibration=recipe))


@change(CALIBRATED, [RETRAINING, PTQ_PLAN, QAT_PLAN, *builds("int8_ptq.cpu", "int8_qat.cpu")])
def swapped_calibrations(workflow):
    def swap(config):
        ptq, qat = config["precisions"]["int8_ptq"], config["precisions"]["int8_qat"]
        ptq["calibration"], qat["calibration"] = qat["calibration"], ptq["calibration"]

    workflow.config(swap)


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")])
def qat_epochs(workflow):
    workflow.config(lambda config: config["precisions"]["int8_qat"]["qat"].update(epochs=7))


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")])
def qat_scales(workflow):
    workflow.config(lambda config: config["precisions"]["int8_qat"]["qat"].update(scales="learned", ema=0.5))


@change(engine("int8_ptq.cpu"), builds("int8_ptq.cpu"))
def high_precision(workflow):
    workflow.config(row("precisions", "int8_ptq", high_precision="bf16"))


@change(engine(*CPU[1:]), builds(*CPU[1:]))
def high_precision_of_a_target(workflow):
    workflow.config(row("targets", "cpu", high_precision="bf16"))


@change(engine(*CPU), builds(*CPU))
def threads_of_a_target(workflow):
    workflow.config(row("targets", "cpu", threads=1))


@change(engine(*CPU), builds(*CPU))
def batches_of_a_target(workflow):
    workflow.config(row("targets", "cpu", batches=[1, 2]))


@change(timed(*CPU))
def benchmark_iterations(workflow):
    workflow.config(row("targets", "cpu", iterations=77))


@change(timed("fp32.ort"))
def swapped_durations(workflow):
    def swap(config):
        target = config["targets"]["ort"]
        target["warmup_ms"], target["duration_ms"] = target["duration_ms"], target["warmup_ms"]

    workflow.config(swap)


@change([*quantized("int8_ptq", "int8_qat")], builds("int8_ptq.cpu", "int8_qat.cpu"))
def placement_of_quantizers(workflow):
    workflow.config(row("graphs", "cpu", placement=["conv"]))


@change(["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *quantized("int8_ptq", "int8_qat")], builds(*BUILT))
def surgeon_passes(workflow):
    workflow.config(lambda config: config["graphs"]["cpu"]["passes"].append("split_to_slices"))


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING])
def training_epochs(workflow):
    workflow.config(lambda config: config["datasets"]["digits"]["training"].update(epochs=77))


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING])
def frozen_parts(workflow):
    workflow.config(lambda config: config["datasets"]["digits"]["training"].update(freeze=["stem.*"]))


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING])
def fine_tuning_in_place_of_training(workflow):
    workflow.path(f"{MODEL}.pth").write_text("weights")
    workflow.config(row("datasets", "digits", **{"weights": "finetune", "from": "{model}.pth"}))


@change(["download_start", *CHECKPOINT], [TRAINING, *AFTER_TRAINING])
def fine_tuning_of_official_weights(workflow):
    place = workflow.path(".cache/downloads/x.pth")
    place.parent.mkdir(parents=True)
    place.write_text("weights")
    workflow.config(row("models", MODEL, url="https://example.org/x.pth", sha256="0123456789abcdef"))
    workflow.config(row("datasets", "digits", **{"weights": "finetune", "from": "official"}))


@change(RESOLVED, [TRAINING, *AFTER_TRAINING, *DECODING])
def crop_of_a_model(workflow):
    workflow.config(row("models", MODEL, crop=0.5))


@change(RESOLVED, [TRAINING, *AFTER_TRAINING])
def mean_of_a_model(workflow):
    """No pixel depends on it."""
    workflow.config(row("models", MODEL, mean=[0.1, 0.2, 0.3]))


@change(RESOLVED)
def what_the_record_says_written_out(workflow):
    workflow.config(row("models", MODEL, crop_mode="center"))


@change(RESOLVED)
def code_of_what_resolves(workflow):
    workflow.edit("workflow_scripts/resolve.py", "from core", "EXTRA = 1\nfrom core")


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING])
def seed(workflow):
    workflow.config(lambda config: config.update(seed=7))


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING])
def splits_of_the_dataset(workflow):
    workflow.config(lambda config: config["datasets"]["digits"]["splits"].update(select=100))


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING])
def subset_of_the_dataset(workflow):
    """That only what is different of the images is decoded again is shown with real ones: test_images.py."""
    workflow.config(lambda config: config["datasets"]["digits"].update(subset={"classes": "0-4"}))


@change(["index_dataset", *RESOLVED])
def another_dataset_of_the_same_images(workflow):
    def rename(config):
        config["datasets"]["scans"] = config["datasets"]["digits"]
        config["dataset"] = "scans"

    workflow.config(rename)


@change(
    ["calibrate mine", *planned("mine")],
    [f"{work}/{MODEL}.mine.json" for work in ("calibrate digits/calibration", "plan_precision digits/plans")]
    + builds("mine.cpu"),
    result("mine.cpu"),
)
def new_precision(workflow):
    def add(config):
        config["precisions"]["mine"] = {**config["precisions"]["int8_ptq"], "calibration": {"method": "percentile"}}

    workflow.config(add)


@change(["fingerprint single", *engine("fp32.single")], builds("fp32.single"), result("fp32.single"))
def new_target(workflow):
    def add(config):
        config["targets"]["single"] = {**config["targets"]["cpu"], "threads": 1}

    workflow.config(add)


@change([f"{rule} {name}" for name in CPU for rule in ("run_trtexec", "assemble_result")])
def trtexec_of_a_target(workflow):
    workflow.config(row("targets", "cpu", trtexec=True))


@change(["profile_engine fp32.cpu"], targets=[PROFILE])
def profile_of_an_engine(workflow):
    pass


TIMELINE = f"results/digits/timeline/{MODEL}.fp32.cpu.svg"


@change(["draw_timeline fp32.cpu", "profile_engine fp32.cpu"], targets=[TIMELINE])
def timeline_of_an_engine(workflow):
    pass


@change(["draw_timeline fp32.cpu"], targets=[TIMELINE])
def code_of_a_timeline(workflow):
    workflow.build(TIMELINE)
    workflow.edit("workflow_scripts/reporting/timeline.py", "COLORS = ", "EXTRA = COLORS = ")


@change(["capture_nsys fp32.cpu"], targets=[f"results/digits/timeline/{MODEL}.fp32.cpu.nsys-rep"])
def capture_of_an_engine(workflow):
    pass


@change([])
def power_mode_of_a_target_that_is_not_asked_for(workflow):
    workflow.config(row("targets", "xavier", power_mode="15W_6CORE"))


@change(timed(*CPU))
def power_mode_of_a_target(workflow):
    workflow.config(row("targets", "cpu", power_mode="performance", other_power_mode="mark"))


@change([*(f"evaluate_engine select.{name}" for name in CPU), *CHOICE], targets=[AUTO])
def choice_of_a_precision(workflow):
    workflow.config(row("precisions", "auto", choose=[name.split(".")[0] for name in CPU]))


@change(CHOICE, targets=[AUTO])
def budget_of_a_choice(workflow):
    choice_of_a_precision(workflow)
    workflow.build(AUTO)
    workflow.config(row("precisions", "auto", budget=0.7))


# The DLA-fit report, which no machine is needed for


@change(["clean_onnx dla1", "dla_fit fp16_dla.xavier"], targets=[DLA])
def report_of_a_dla(workflow):
    pass


@change(["dla_fit fp16_dla.xavier"], targets=[DLA])
def batch_of_a_dla(workflow):
    workflow.build(DLA)
    workflow.config(row("precisions", "fp16_dla", batches=[4]))


@change(["clean_onnx dla1", "dla_fit fp16_dla.xavier"], targets=[DLA])
def passes_of_a_dla(workflow):
    workflow.build(DLA)
    workflow.config(lambda config: config["graphs"]["dla1"]["passes"].append("split_to_slices"))


@change(["dla_fit fp16_dla.xavier"], targets=[DLA])
def rules_of_a_dla(workflow):
    workflow.build(DLA)
    workflow.edit("workflow_scripts/dla/rules.yaml", "loadables: 16", "loadables: 8")


@change([], targets=[DLA])
def facts_that_a_dla_does_not_depend_on(workflow):
    workflow.build(DLA)
    workflow.config(row("targets", "xavier", iterations=77, workspace_mb=64))
    workflow.config(row("precisions", "fp16_dla", budget=7.0))


# Code


@change(CHECKPOINT)
def comment_in_a_script(workflow):
    workflow.edit("workflow_scripts/train.py", "def run", "# a comment\ndef run")


@change(QAT)
def docstring_of_a_script(workflow):
    workflow.edit("workflow_scripts/train_qat.py", '"""', '"""Another docstring. ')


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")])
def code_of_a_script(workflow):
    workflow.edit("workflow_scripts/train_qat.py", "def run", "EXTRA = 1\n\n\ndef run")


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")])
def code_of_a_script_dated_back(workflow):
    code_of_a_script(workflow)
    os.utime(workflow.path("workflow_scripts/train_qat.py"), (1e9, 1e9))


@change(
    ["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *planned("int8_ptq", "int8_qat")],
    [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)],
)
def code_of_a_shared_module_dated_back(workflow):
    code_of_a_shared_module(workflow)
    os.utime(workflow.path("workflow_scripts/graph/passes.py"), (1e9, 1e9))


@change(ALL)
def comment_in_a_module_of_all(workflow):
    workflow.edit("workflow_scripts/core/files.py", "import json", "import json  # of the standard library")


@change(
    ["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *planned("int8_ptq", "int8_qat")],
    [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)],
)
def code_of_a_shared_module(workflow):
    workflow.edit("workflow_scripts/graph/passes.py", "TOLERANCE = ", "EXTRA = 1\nTOLERANCE = ")


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING])
def code_of_a_builtin_dataset(workflow):
    workflow.edit("workflow_scripts/data/digits.py", "VAL = ", "EXTRA = 1\nVAL = ")


@change(["fingerprint ort", *engine("fp32.ort")], builds("fp32.ort"))
def code_of_a_runtime(workflow):
    workflow.edit("workflow_scripts/runtimes/onnxruntime.py", "def build", "EXTRA = 1\n\n\ndef build")


@change(["profile_engine fp32.cpu"], targets=[PROFILE])
def code_of_a_profile(workflow):
    workflow.build(PROFILE)
    workflow.edit("workflow_scripts/profile_engine.py", "def run", "EXTRA = 1\n\n\ndef run")


@change(timed(*CPU), targets=[PROFILE])
def iterations_are_no_part_of_a_profile(workflow):
    workflow.build(PROFILE)
    workflow.config(row("targets", "cpu", iterations=78))


@change(timed(*BUILT))
def shell_text_of_a_rule(workflow):
    workflow.edit("rules/benchmark.smk", "--benchmark {output", " --benchmark {output")


@change([])
def docstring_and_order_of_rules(workflow):
    workflow.edit("rules/benchmark.smk", '"""Time', '"""Really time')
    workflow.edit("Snakefile", 'include: "rules/data.smk"\n', "")
    workflow.edit(
        "Snakefile", 'include: "rules/results.smk"\n', 'include: "rules/results.smk"\ninclude: "rules/data.smk"\n'
    )


# The world


def upgrade(workflow, *names):
    """Install another version of some packages, before those that are there on the interpreter's path."""
    for name in names:
        installed = workflow.path(f"newer/{name.replace('-', '_')}-9999.1.0.dist-info")
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999.1.0\n")
    workflow.variables["PYTHONPATH"] = str(workflow.path("newer"))


@change(["fingerprint cpu", *engine(*CPU)], builds(*CPU))
def version_of_a_runtime(workflow):
    upgrade(workflow, "openvino")


UNTRAINED = [job for job in CHECKPOINT if job != "train"]
RECALIBRATED = [PTQ_RANGES, QAT_RANGES, PTQ_PLAN, QAT_PLAN, *builds(*BUILT)]


@change([*RESOLVED], RECALIBRATED)
def version_of_torch_and_timm(workflow):
    """What was trained is kept: its jobs are planned behind others, and its work is not done again."""
    upgrade(workflow, "torch", "timm")


@change(UNTRAINED, RECALIBRATED)
def version_of_torch(workflow):
    upgrade(workflow, "torch")


@change(CALIBRATED, [PTQ_RANGES, QAT_RANGES, PTQ_PLAN, QAT_PLAN, *builds(*CPU[1:])])
def version_of_modelopt(workflow):
    upgrade(workflow, "nvidia-modelopt")


@change(["index_dataset", *IMAGES, *CHECKPOINT], [*DECODING, *RECALIBRATED])
def version_of_pillow(workflow):
    upgrade(workflow, "pillow")


@change(["index_dataset", *IMAGES, *CHECKPOINT], [*DECODING, *RECALIBRATED])
def version_of_pillow_without_a_store(workflow):
    workflow.config(lambda config: config.update(store=None))
    upgrade(workflow, "pillow")


@change([*EXPORTED, *planned("int8_ptq", "int8_qat")], [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)])
def version_of_onnx(workflow):
    upgrade(workflow, "onnx")


@change(
    ["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *planned("int8_ptq", "int8_qat")],
    [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)],
)
def version_of_onnx_graphsurgeon(workflow):
    upgrade(workflow, "onnx-graphsurgeon")


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING])
def version_of_torch_where_upgrades_retrain(workflow):
    workflow.config(lambda config: config.update(retrain_on_upgrade=True))
    upgrade(workflow, "torch")


@change([])
def version_of_a_package_that_shapes_nothing(workflow):
    upgrade(workflow, "snakemake", "pulp", "pandas")


@change([])
def user_libraries_of_python(workflow):
    workflow.variables["PYTHONPATH"] = str(workflow.path("nothing"))


@change(["assemble_result fp32.cpu"])
def deleted_result(workflow):
    workflow.path(result("fp32.cpu")[0]).unlink()


@change(engine("fp32.cpu"))
def deleted_engine(workflow):
    for suffix in ("engine", "json"):
        workflow.path(f"results/digits/engines/{MODEL}.fp32.cpu.{suffix}").unlink()
    workflow.path(result("fp32.cpu")[0]).unlink()


@change(ALL)
def deleted_results(workflow):
    for path in workflow.path("results").rglob("*.*"):
        if path.is_file():
            path.unlink()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A workflow that built BUILT."""
    workflow = Workflow.fresh(tmp_path_factory.mktemp("contract") / "base")

    def settle(config):  # what the lists above rely on, whatever the tables say today
        config["precisions"]["int8_ptq"]["calibration"] = {"method": "entropy", "images": 256}
        config["precisions"]["int8_qat"]["calibration"] = {"method": "max", "images": 256}
        config["precisions"]["int8_ptq"].update(high_precision="fp32", fallback="auto")
        config["precisions"]["int8_qat"]["fallback"] = "auto"
        config["targets"]["cpu"].pop("high_precision", None)
        config["targets"]["cpu"].update(threads=0, batches=[1, 16], warmup_ms=500, duration_ms=3000, iterations=50)
        config["targets"]["ort"].update(warmup_ms=500, duration_ms=3000)
        for graph in ("cpu", "gpu"):
            config["graphs"][graph]["placement"] = ["conv", "linear", "attention", "residual"]

    workflow.config(settle)
    assert workflow.plan(*result(*BUILT)) == sorted(ALL)
    assert workflow.build(*result(*BUILT)) == sorted([*DECODING, TRAINING, *AFTER_TRAINING])
    return workflow


@pytest.mark.parametrize("name", CHANGES)
def test_change_costs_exactly(name, base, tmp_path):
    function, jobs, heavy, targets = CHANGES[name]
    workflow = base.copy(tmp_path / "changed")
    function(workflow)
    asked = [*result(*BUILT), *targets]
    assert workflow.plan(*asked) == jobs
    if jobs or name == "nothing":  # an empty plan runs nothing: shown once
        assert workflow.build(*asked) == heavy
        assert workflow.plan(*asked) == []


def test_a_sweep_follows_its_candidates_and_a_calibration_follows_the_sweep(base, tmp_path):
    workflow = base.copy(tmp_path / "changed")
    sweep_in_place_of_a_recipe(workflow)
    workflow.build(*result(*BUILT))
    steps = ["sweep_calibration int8_ptq", "calibrate int8_ptq", *planned("int8_ptq")]
    for change_of_it in ({"candidates": SWEPT["candidates"][:1]}, {"images": 64}):
        workflow.config(row("precisions", "int8_ptq", calibration={**SWEPT, **change_of_it}))
        assert workflow.plan(*result(*BUILT)) == sorted(steps)
        assert workflow.build(*result(*BUILT)) == sorted([SWEEP, PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")])


def test_a_report_follows_its_plans_and_the_bisections_that_are_there(base, tmp_path):
    workflow, report = base.copy(tmp_path / "changed"), "results/report.html"
    listed = {"models": [MODEL], "precisions": ["fp32", "int8_ptq"], "targets": ["cpu"]}
    workflow.config(lambda config: config.update(results=listed))
    assert workflow.plan(report) == ["report"]
    workflow.build(report)
    assert workflow.plan(report) == []
    bisect = workflow.path(f"results/digits/bisect/{MODEL}.int8_ptq.cpu.json")
    bisect.parent.mkdir()
    bisect.write_text("{}")
    assert workflow.plan(report) == ["report"], "what somebody asked for is shown, and nothing is bisected for a report"
    workflow.build(report)
    assert workflow.plan(report) == []
    workflow.config(row("precisions", "int8_ptq", criterion={"agreement": 90.0}))
    assert workflow.plan(report) == sorted(["report", *planned("int8_ptq")])


def test_override_as_text_is_the_same_value(base):
    options = ["--config", "seed=0", "targets={cpu: {iterations: 50, batches: [1, 16]}}"]
    assert base.plan(*result(*BUILT), options=options) == []


def test_two_dry_runs_print_the_same_plan(base, tmp_path):
    workflow = base.copy(tmp_path / "changed")
    code_of_a_shared_module(workflow)
    plans = [workflow.run("-n", "--quiet", "host", "--", *result(*BUILT))[1] for _ in range(2)]
    assert jobs_of(plans[0]) == jobs_of(plans[1]) != []
    assert reasons_of(plans[0]) == reasons_of(plans[1]) != []


@pytest.mark.parametrize(
    "loss, problem",
    [
        ("budget", "not within the budget of top-1 points"),
        ("plan", "its plan's criterion is not met on the select split"),
    ],
)
def test_a_missed_budget_is_the_exit_status(base, tmp_path, loss, problem):
    """Everything is made, and a second run, which makes nothing, has nothing to complain about."""
    workflow, wanted = base.copy(tmp_path / "missed"), result("fp32.cpu")[0]
    deleted_result(workflow)
    status, output = workflow.run("--quiet", "--", *result(*BUILT), LEVIT_LOSES=f"assemble_result {loss}")
    assert status == 1 and f"error: {problem}: {wanted}" in output, output
    assert workflow.path(wanted).exists() and "Traceback" not in output
    assert workflow.run("--quiet", "--", *result(*BUILT))[0] == 0


def test_a_choice_of_which_none_qualifies_is_the_exit_status(base, tmp_path):
    workflow = base.copy(tmp_path / "missed")
    status, output = workflow.run("--quiet", "--", AUTO, LEVIT_LOSES="choose_precision budget")
    assert status == 1 and f"error: not within the budget of top-1 points: {AUTO}" in output, output
    assert workflow.path(AUTO).exists() and "Traceback" not in output


def test_the_matrix_is_wide_enough():
    assert len(CHANGES) >= 20
