"""A file that a row names counts by its content, whatever its time, and is missed before any job."""

import os
import shutil

import pytest
import torch

from staleness import CHECKPOINT, MODEL, planned, result
from workflow import ON_BOTH, SNAKEMAKES, Workflow

ASKED = result("fp32.cpu", "int8_ptq.cpu")
FILES = {  # name of a user's file: the key that names it
    f"mine/{MODEL}.pth": "datasets.digits.weights",
    "mine/plan.json": "precisions.int8_ptq.fallback.plan",
    f"mine/{MODEL}.ranges.pth": "precisions.int8_ptq.calibration.import",
}
WEIGHTS, PLAN, RANGES = FILES
UNUSED = ("int8_qat", "fp32.ort")
IMPORTED = [
    job.replace("train", "import_checkpoint", 1) if job == "train" else job
    for job in CHECKPOINT
    if not any(name in job for name in UNUSED)
]
CHANGED = {WEIGHTS: IMPORTED, PLAN: planned("int8_ptq"), RANGES: ["calibrate int8_ptq", *planned("int8_ptq")]}


def write(path, number):
    """Write weights or a plan that tell a number: files of equal lengths and of one time."""
    if path.suffix == ".pth":
        torch.save({"head.weight": torch.tensor([number])}, path)
    else:
        path.write_text(f'{{"nodes": [], "a": {number}}}')
    os.utime(path, (1e9, 1e9))


@pytest.fixture(scope="module", params=SNAKEMAKES)
def brought(request, base, tmp_path_factory):
    """A workflow of a user's weights, plan and ranges, built by one of the Snakemakes."""
    if not request.param.exists():
        pytest.skip(f"{request.param} is not there: `make test` makes it")
    workflow = base.copy(tmp_path_factory.mktemp("brought") / "base")
    workflow.snakemake = request.param
    workflow.path("mine").mkdir()
    workflow.path("other").mkdir()
    for name in FILES:
        for folder, number in (("mine", 0), ("other", 1)):
            write(workflow.path(name.replace("mine", folder)), number)

    def name_them(config):
        config["datasets"]["digits"]["weights"] = "mine/{model}.pth"
        recipe = {"method": "max", "images": 64, "import": "mine/{model}.ranges.pth"}
        config["precisions"]["int8_ptq"].update(fallback={"plan": PLAN}, calibration=recipe)
        config["targets"]["cpu"]["python"] = str(workflow.interpreter())  # Snakemake 7's own has no OpenVINO

    workflow.config(name_them)
    workflow.build(*ASKED)
    assert workflow.plan(*ASKED) == []
    return workflow


def copied(mine, other):
    shutil.copy2(other, mine)


def moved(mine, other):
    os.replace(other, mine)


def linked(mine, other):
    mine.unlink()
    mine.symlink_to(other)


def edited_and_dated_back(mine, other):
    write(mine, 1)


WAYS = [(WEIGHTS, copied), (WEIGHTS, moved), (WEIGHTS, linked), (PLAN, edited_and_dated_back), (RANGES, copied)]
MORE = [(name, way) for name in FILES for way in (copied, moved, linked, edited_and_dated_back)]


@pytest.mark.parametrize(
    ("name", "change"), [*WAYS, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE if one not in WAYS)]
)
def test_another_content_is_stale_whatever_its_time(brought, tmp_path, name, change):
    workflow = brought.copy(tmp_path / "changed")
    change(workflow.path(name), workflow.path(name.replace("mine", "other")))
    assert workflow.plan(*ASKED) == sorted(CHANGED[name])


@ON_BOTH("brought")
def test_what_is_built_of_another_content_is_of_it(brought, tmp_path):
    workflow = brought.copy(tmp_path / "changed")
    before = workflow.path(f"results/digits/checkpoints/{MODEL}.pth").read_bytes()
    copied(workflow.path(WEIGHTS), workflow.path(WEIGHTS.replace("mine", "other")))
    assert workflow.build(*ASKED)
    assert workflow.path(f"results/digits/checkpoints/{MODEL}.pth").read_bytes() != before
    assert workflow.plan(*ASKED) == []


def test_the_same_content_elsewhere_is_nothing_new(brought, tmp_path):
    workflow = brought.copy(tmp_path / "changed")
    workflow.path("mine").rename(workflow.path("elsewhere"))
    for path in workflow.path("elsewhere").iterdir():
        os.utime(path)

    def rename(config):
        config["datasets"]["digits"]["weights"] = "elsewhere/{model}.pth"
        config["precisions"]["int8_ptq"]["fallback"]["plan"] = "elsewhere/plan.json"
        config["precisions"]["int8_ptq"]["calibration"]["import"] = "elsewhere/{model}.ranges.pth"

    workflow.config(rename)
    rows = ["assemble_result fp32.cpu", "assemble_result int8_ptq.cpu"]  # they record the rows as they are
    assert [job for job in workflow.plan(*ASKED) if job not in rows] == []


@pytest.mark.parametrize("built", [True, False], ids=["built", "empty"])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_before_any_job(brought, tmp_path, name, built):
    workflow = brought.copy(tmp_path / "changed")
    if not built:
        shutil.rmtree(workflow.path("results"))
    workflow.path("work.log").unlink(missing_ok=True)
    workflow.path(name).unlink()
    for options in (["-n"], []):
        status, output = workflow.run(*options, "--quiet", "all", "--", *ASKED)
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        assert status == 1 and errors == [
            f"error: {name} does not exist: correct {FILES[name]} in config.yaml, or put it there"
        ]
        assert "Traceback" not in output and not workflow.path("work.log").exists()


def test_what_is_not_asked_for_refuses_nothing(brought, tmp_path):
    workflow = brought.copy(tmp_path / "changed")
    for name in (PLAN, RANGES):
        workflow.path(name).unlink()
    assert workflow.plan(*result("fp32.cpu")) == []


def test_a_start_of_fine_tuning_counts_and_is_missed(base, tmp_path):
    workflow = base.copy(tmp_path / "changed")
    workflow.config(lambda config: config["datasets"]["digits"].update({"weights": "finetune", "from": "start.pth"}))
    status, output = workflow.run("-n", "--", *ASKED)
    assert status == 1 and "error: start.pth does not exist: correct datasets.digits.from in config.yaml" in output
    write(workflow.path("start.pth"), 0)
    assert "train" in workflow.plan(*ASKED)
    workflow.build(*ASKED)
    assert workflow.plan(*ASKED) == []
    write(workflow.path("start.pth"), 1)
    assert "train" in workflow.plan(*ASKED) and "index_dataset" not in workflow.plan(*ASKED)


def test_fonts_count_by_their_content_while_they_are_there(tmp_path):
    workflow, index = Workflow.fresh(tmp_path / "work"), "results/glyphs/data/index.json"
    fonts = workflow.path("fonts")
    workflow.config(lambda config: config["datasets"]["glyphs"]["drawing"].update(fonts="fonts"))
    status, output = workflow.run("-n", "--", index)
    assert status == 1 and "error: fonts does not exist: correct datasets.glyphs.drawing.fonts in config.yaml" in output
    fonts.mkdir()
    (fonts / "a.ttf").write_text("a")
    workflow.build(index)
    assert workflow.plan(index) == []
    os.utime(fonts / "a.ttf")
    (fonts / "read.me").write_text("no font")
    assert workflow.plan(index) == []
    (fonts / "a.ttf").write_text("b")
    os.utime(fonts / "a.ttf", (1e9, 1e9))
    assert workflow.plan(index) == ["index_dataset"]
