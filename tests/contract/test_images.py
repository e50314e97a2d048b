"""A user's images: what makes their index and their preprocessed files stale, and what is then really decoded.

Snakemake and the command lines are real, and so is the work.
"""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import forks
from workflow import Workflow

VAL, CALIB = (f"results/mine/data/LeViT-tiny.{split}.u8" for split in ("val", "calib"))
ALL = ["decode_split calib", "decode_split val", "index_dataset"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A workflow whose dataset is a folder of 2 classes, indexed and decoded."""
    workflow = Workflow.fresh(tmp_path_factory.mktemp("images") / "base")
    for half, count in (("train", 8), ("val", 4)):
        for label in "ab":
            workflow.path(f"pictures/{half}/{label}").mkdir(parents=True)
            for number in range(count):
                picture(workflow, f"{half}/{label}/{number}.png", ord(label) * 100 + count * 10 + number)

    def mine(config):
        config["datasets"]["mine"] = {"path": "pictures", "classes": 2, "weights": "train"}
        config["datasets"]["mine"]["splits"] = {"calib": 4, "select": 2}

    workflow.config(mine)
    workflow.variables["LEVIT_PYTHON"] = forks.working_python()
    assert decoded(workflow) == ["calib", "val"]
    assert workflow.plan(VAL, CALIB) == []
    return workflow


def picture(workflow, name, seed):
    pixels = np.random.RandomState(seed).randint(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(workflow.path(f"pictures/{name}"))


def decoded(workflow, *targets):
    """Build; return the splits that were really decoded, and not taken from the store."""
    for log in workflow.path("results/logs/mine").glob("decode_split.*"):
        log.unlink()
    status, output = workflow.run("--quiet", "--", *(targets or (VAL, CALIB)))
    assert status == 0, output
    logs = sorted(workflow.path("results/logs/mine").glob("decode_split.*"))
    return [log.name.split(".")[2] for log in logs if "images/s" in log.read_text()]


@pytest.fixture
def workflow(base, tmp_path):
    copy = base.copy(tmp_path / "changed")
    copy.variables.update(base.variables)
    return copy


def test_nothing_changed_in_a_copy_elsewhere_but_its_times(workflow):
    """Copied files keep their times, copied folders do not need to: images are few enough to be looked at singly."""
    os.utime(workflow.path("pictures/val/a"))
    assert workflow.plan(VAL, CALIB) == []


@pytest.mark.parametrize(("half", "done"), [("val", ["val"]), ("train", ["calib"])], ids=["val", "train"])
def test_added_images_are_noticed_and_only_their_split_is_decoded(workflow, half, done):
    for number in range(8, 16):
        picture(workflow, f"{half}/a/{number}.png", number)
    assert workflow.plan(VAL, CALIB) == ALL
    assert decoded(workflow) == done
    assert workflow.plan(VAL, CALIB) == []


def test_a_removed_image_is_noticed(workflow):
    workflow.path("pictures/val/a/0.png").unlink()
    assert workflow.plan(VAL, CALIB) == ALL
    assert decoded(workflow) == ["val"]


def test_an_image_edited_in_place_is_noticed(workflow):
    path = workflow.path("pictures/val/b/1.png")
    with open(path, "r+b") as stream:  # another image of the same size in the same file
        Image.open(path).transpose(Image.FLIP_LEFT_RIGHT).save(workflow.path("other.png"))
        stream.write(workflow.path("other.png").read_bytes())
    assert workflow.plan(VAL, CALIB) == ALL
    assert decoded(workflow) == ["val"]


def test_touched_images_cost_an_index_and_no_decoding(workflow):
    for path in workflow.path("pictures").rglob("*.png"):
        os.utime(path, (1, 1))
    index = workflow.path("results/mine/data/index.json").read_bytes()
    assert workflow.plan(VAL, CALIB) == ALL
    assert decoded(workflow) == [] and workflow.path("results/mine/data/index.json").read_bytes() == index


def test_moved_images_cost_no_decoding(workflow):
    workflow.path("pictures").rename(workflow.path("moved"))
    workflow.config(lambda config: config["datasets"]["mine"].update(path="moved"))
    assert workflow.plan(VAL, CALIB) == ALL and decoded(workflow) == []


def test_where_the_images_are_not_nothing_is_stale(workflow):
    shutil.rmtree(workflow.path("pictures"))
    assert workflow.plan(VAL, CALIB) == []


def test_a_subset_costs_its_images(workflow):
    workflow.config(lambda config: config["datasets"]["mine"].update(subset={"classes": "b"}))
    assert workflow.plan(VAL, CALIB) == ALL and decoded(workflow) == ["val"]


def test_another_crop_is_decoded_anew(workflow):
    workflow.config(lambda config: config["models"]["LeViT-tiny"].update(crop=0.5))
    assert workflow.plan(VAL) == ["decode_split val", "resolve"] and decoded(workflow, VAL) == ["val"]


def test_precisions_and_targets_decode_nothing(workflow):
    """Whatever is asked of them reads the same files."""
    results = [f"results/LeViT-tiny.{name}.json" for name in ("fp32.cpu", "bf16.cpu", "int8_ptq.cpu", "fp32.ort")]

    def active(config):
        config["dataset"] = "mine"
        for row in config["precisions"].values():
            if "calibration" in row:
                row["calibration"] = {"method": "max", "images": 4}

    workflow.config(active)
    plans = [set(workflow.plan(result)) for result in results]
    for plan in plans:
        assert {job for job in plan if job.startswith(("index_dataset", "decode_split"))} <= {"decode_split select"}
    assert all("evaluate_torch accuracy" in plan for plan in plans)


def test_of_many_images_folders_tell(workflow):
    workflow.edit("workflow_scripts/snakefile/image_stamp.py", "FEW = 10000", "FEW = 5")
    assert decoded(workflow) == []
    assert workflow.plan(VAL, CALIB) == []
    picture(workflow, "val/a/9.png", 9)
    assert workflow.plan(VAL, CALIB) == ALL
    assert decoded(workflow) == ["val"]
    picture(workflow, "val/a/9.png", 10)  # in place: not seen before something else makes the index anew
    assert workflow.plan(VAL, CALIB) == []
    os.utime(workflow.path("pictures/val/a"))
    assert decoded(workflow) == ["val"]


def test_of_many_images_a_change_deep_in_a_folder_is_noticed(workflow):
    workflow.edit("workflow_scripts/snakefile/image_stamp.py", "FEW = 10000", "FEW = 5")
    deep = workflow.path("pictures/val/a/year/month")
    deep.mkdir(parents=True)
    picture(workflow, "val/a/year/month/1.png", 1)
    assert decoded(workflow) == ["val"]
    assert workflow.plan(VAL, CALIB) == []
    picture(workflow, "val/a/year/month/2.png", 2)
    assert workflow.plan(VAL, CALIB) == ALL
    assert decoded(workflow) == ["val"]
    (deep / "1.png").unlink()
    assert workflow.plan(VAL, CALIB) == ALL


def test_a_manifest_stands_for_the_images(workflow):
    manifest = workflow.path("pictures/SHA256SUMS")
    manifest.write_text("first\n")
    workflow.config(lambda config: config["datasets"]["mine"].update(manifest="SHA256SUMS"))
    assert decoded(workflow) == [] and workflow.plan(VAL, CALIB) == []
    picture(workflow, "val/a/9.png", 9)
    assert workflow.plan(VAL, CALIB) == []
    manifest.write_text("second\n")
    assert workflow.plan(VAL, CALIB) == ALL
    assert decoded(workflow) == ["val"]
    assert json.loads(workflow.path("results/mine/data/index.json").read_text())["left_out"] == {}
    manifest.unlink()
    status, output = workflow.run("-n", "--", VAL)
    assert status == 1 and "pictures/SHA256SUMS does not exist: correct datasets.mine.manifest" in output


def test_shards_are_decoded_by_jobs_of_their_own(workflow):
    whole = workflow.path(VAL).read_bytes()
    workflow.config(lambda config: config["datasets"]["mine"].update(shards=3))
    shards = [f"decode_shard val.{number}.3" for number in (1, 2, 3)]
    assert sorted(workflow.plan(VAL)) == [*shards, "join_shards val"]
    status, output = workflow.run("--quiet", "--", VAL)
    assert status == 0, output
    assert workflow.path(VAL).read_bytes() == whole and workflow.plan(VAL) == []
    assert workflow.run("--quiet", "--", CALIB)[0] == 0
    assert workflow.run("--quiet", "--force", "--", "results/mine/models/LeViT-tiny.json")[0] == 0
    workflow.config(lambda config: config.update(site="device"))
    assert workflow.plan(VAL, CALIB) == []
    kept = [f"LeViT-tiny.{split}.u8{suffix}" for split in ("calib", "val") for suffix in ("", ".provenance")]
    assert sorted(path.name for path in workflow.path("results/mine/data").glob("*.u8*")) == kept


def test_leftovers_of_decodings_that_were_given_up_are_removed(workflow):
    names = {"LeViT-tiny.select.u8": True, "LeViT-tiny.val.u8": False, "LeViT-gone.val.u8": False}
    names["LeViT-tiny.select.2-of-3.u8"] = False
    for name, suffix in itertools.product(names, (".rows", ".done")):
        workflow.path(f"results/mine/data/{name}{suffix}").write_text("x")

    def left():
        return {path.stem for path in workflow.path("results").rglob("*.rows")}

    assert workflow.plan(VAL) == [] and left() == set(names)
    workflow.run("--quiet", "--force", "--", "results/mine/models/LeViT-tiny.json")
    assert left() == {name for name, kept in names.items() if kept}
    assert len(list(workflow.path("results").rglob("*.done"))) == 1
    os.utime(workflow.path("results/mine/data/LeViT-tiny.select.u8.rows"), (1, 1))
    workflow.run("--quiet", "--force", "--", "results/mine/models/LeViT-tiny.json")
    assert left() == set()


def test_without_train_what_needs_it_is_refused_by_name(workflow):
    shutil.rmtree(workflow.path("pictures/train"))

    def evaluated(config):
        config["dataset"] = "mine"
        config["datasets"]["mine"]["splits"] = {"calib": 0, "select": 0}

    workflow.config(evaluated)
    for name, said in {
        "int8_ptq.cpu": "int8_ptq on mine: it is calibrated on training images, and splits.calib is 0",
        "fp16.gpu": "fp16 on mine: it chooses by the select split, and splits.select is 0: fallback: none in its row",
        "auto.cpu": "auto on mine: it chooses by the select split, and splits.select is 0: name a precision",
    }.items():
        status, output = workflow.run("-n", "--", f"results/LeViT-tiny.{name}.json")
        assert status == 1 and said in output, output
    assert workflow.plan(VAL) == ["decode_split val", "index_dataset"]
    assert decoded(workflow, VAL) == []
    assert "evaluate_engine accuracy.fp32.cpu" in workflow.plan("results/LeViT-tiny.fp32.cpu.json")
    workflow.config(lambda config: config["precisions"]["fp16"].update(fallback="none"))
    assert "evaluate_engine accuracy.fp16.gpu" in workflow.plan("results/LeViT-tiny.fp16.gpu.json")


def test_links_that_lead_back_are_not_followed(workflow):
    """Neither while Snakemake parses nor by the index."""
    os.symlink("..", workflow.path("pictures/train/a/loop"))
    os.symlink("gone", workflow.path("pictures/train/a/gone.png"))
    assert workflow.plan(VAL, CALIB) == []


def test_the_home_is_whole_before_anything_is_asked_of_it(workflow):
    workflow.variables["HOME"] = str(workflow.folder)
    workflow.config(lambda config: config["datasets"]["mine"].update(path="~/pictures"))
    assert decoded(workflow) == []
    assert workflow.plan(VAL, CALIB) == []
    shown = workflow.path("results/logs/mine/index_dataset.log").read_text()
    assert f"{workflow.folder}/pictures: 2 classes" in shown


def test_a_file_of_class_names_counts_by_its_content(workflow):
    names = workflow.path("pictures/names")
    names.write_text("b\na\n")
    workflow.config(lambda config: config["datasets"]["mine"].update(class_order="names"))
    decoded(workflow)
    assert workflow.plan(VAL, CALIB) == [] and classes_of(workflow) == ["b", "a"]
    state = os.stat(names)
    names.write_text("a\nb\n")
    os.utime(names, ns=(state.st_atime_ns, 1))
    assert workflow.plan(VAL, CALIB) == ALL
    decoded(workflow)
    assert workflow.plan(VAL, CALIB) == [] and classes_of(workflow) == ["a", "b"]


def classes_of(workflow):
    return json.loads(workflow.path("results/mine/data/index.json").read_text())["classes"]
