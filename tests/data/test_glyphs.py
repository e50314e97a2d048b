"""The dataset glyphs: which fonts are used, what is drawn, how families are kept apart, and what is refused."""

import collections
import json
import os
import signal
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image
from test_index import refused, run

import forks
import made_fonts
from conftest import ROOT
from core.files import UserError
from data import fonts, glyphs, index, processes
from workflow import Workflow

CLASSES = list(glyphs.CLASSES.values())
ROW = {"builtin": "glyphs", "classes": 47, "splits": {"calib": 47, "select": 47}}
ROW["drawing"] = {"fonts": "fonts", "train": 5, "val": 2}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Return a folder with fonts/ and the dataset drawn with it."""
    folder = tmp_path_factory.mktemp("glyphs")
    made_fonts.families(folder / "fonts", 12)
    code, text = run(folder, ROW)
    assert code == 0, text
    return folder


def test_classes_are_all_letters_and_digits_once():
    assert len(glyphs.CLASSES) == 47 and sorted("".join(CLASSES)) == sorted(made_fonts.TEXT)
    assert len({name.casefold() for name in glyphs.CLASSES}) == 47, "folders on a disk that ignores case"


FAULTS = {
    "without_q": made_fonts.without_q,
    "blank_q": made_fonts.blank_q,
    "eight_as_b": made_fonts.eight_as_b,
    "small_capitals": made_fonts.small_capitals,
    "cipher": made_fonts.cipher,
}


def test_fonts_of_no_use_are_left_out(tmp_path):
    folder = made_fonts.families(tmp_path / "fonts", 10)
    for number, (name, fault) in enumerate(FAULTS.items()):
        made_fonts.write(folder / f"{name}.ttf", name, fault, bend=100 + number)
    made_fonts.write(folder / "copied.ttf", "Another name", bend=3)
    (folder / "broken.ttf").write_bytes(b"<!doctype html>")
    (folder / "notes.txt").write_text("no font")
    found = {face.name for faces in fonts.find(str(folder), CLASSES) for face in faces}
    assert found == {f"{number:02d}.ttf" for number in range(10)}
    for number, name in enumerate(FAULTS):
        made_fonts.write(folder / f"{name}.ttf", name, bend=100 + number)
    found = {face.name for faces in fonts.find(str(folder), CLASSES) for face in faces}
    assert found == {f"{number:02d}.ttf" for number in range(10)} | {f"{name}.ttf" for name in FAULTS}, "faultless"


def test_a_family_is_what_says_so_or_looks_so(tmp_path):
    folder = made_fonts.families(tmp_path / "fonts", 4)
    made_fonts.write(folder / "says.ttf", "BENT 1", bend=50)
    made_fonts.write(folder / "looks.ttf", "Another name", bend=2, nudge=3)
    groups = [sorted(face.name for face in faces) for faces in fonts.find(str(folder), CLASSES)]
    assert sorted(groups) == [["00.ttf"], ["01.ttf", "says.ttf"], ["02.ttf", "looks.ttf"], ["03.ttf"]]


def test_revision_is_the_fonts_own(tmp_path):
    made_fonts.write(tmp_path / "a.ttf", "A")
    assert fonts.revision(tmp_path / "a.ttf") == 1.102


def test_every_class_has_its_images(drawn):
    listing = index.read(drawn / "data" / "index.json")
    assert {name: index.count(listing, name) for name in index.SPLITS} == {
        "train": 47 * 4, "calib": 47, "select": 47, "val": 47 * 2
    }  # fmt: skip
    assert listing["classes"] == sorted(glyphs.CLASSES)
    assert set(collections.Counter(index.labels(listing, "val").tolist()).values()) == {2}
    for file in index.files(listing, drawn / "data" / "index.json", "val")[::10]:
        image = Image.open(file)
        assert image.size == (glyphs.PIXELS, glyphs.PIXELS) and image.mode == "L"
        assert set(image.tobytes()) <= {17 * level for level in range(16)} and np.ptp(np.asarray(image)) >= 34


def test_no_family_is_in_both_halves(drawn):
    recorded = index.read(drawn / "data" / "index.json")["fonts"]
    halves = {half: {font["family"] for font in recorded if font["half"] == half} for half in ("train", "val")}
    assert len(halves["val"]) == 3 and len(halves["train"]) == 9 and not halves["val"] & halves["train"]
    assert {font["version"] for font in recorded} == {1.102} and len({font["sha256"] for font in recorded}) == 12


def test_images_are_drawn_with_the_fonts_of_their_half(drawn):
    """Drawn again by hand from the file and the name, each image of a class is that of a font of its half."""
    listing = index.read(drawn / "data" / "index.json")
    for half in ("train", "val"):
        files = [drawn / "fonts" / font["file"] for font in listing["fonts"] if font["half"] == half]
        for number in range(2):
            name = f"{half}/capital_R/{number:05d}"
            made = Image.open(drawn / "data" / "images" / f"{name}.png").tobytes()
            seed = np.frombuffer(glyphs._hash(name), dtype=np.uint32)
            again = [glyphs.draw(fonts.glyph(fonts.load(file), "R"), np.random.RandomState(seed)) for file in files]
            assert sum(image.tobytes() == made for image in again) == 1


def pictures(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("data/images/**/*.png")}


def test_again_and_elsewhere_is_the_same_and_the_seed_moves_splits_alone(drawn, tmp_path):
    first = json.loads((drawn / "data" / "index.json").read_text())
    (tmp_path / "moved").symlink_to(drawn / "fonts")
    moved = dict(ROW, drawing=dict(ROW["drawing"], fonts=str(tmp_path / "moved")))
    assert run(tmp_path, moved)[0] == 0
    assert json.loads((tmp_path / "data" / "index.json").read_text()) == first
    assert run(tmp_path, moved, seed=1)[0] == 0
    other = json.loads((tmp_path / "data" / "index.json").read_text())
    assert other["fonts"] == first["fonts"] and other["images"] != first["images"], "another seed, other splits"
    assert pictures(tmp_path) == pictures(drawn)
    assert not list((tmp_path / "data").glob("*.partial")) and not list((tmp_path / "data").glob("*.old"))


def test_families_are_as_many_as_the_row_says(drawn, tmp_path):
    row = dict(ROW, drawing=dict(ROW["drawing"], fonts=str(drawn / "fonts"), families=8))
    assert run(tmp_path, row)[0] == 0
    halves = collections.Counter(font["half"] for font in index.read(tmp_path / "data" / "index.json")["fonts"])
    assert halves == {"train": 6, "val": 2}


def test_a_glyph_keeps_its_shape_where_it_is_placed():
    """A square of ink, turned and slanted, keeps the area that its scale gives it, and stays in the image."""
    square = Image.new("L", (60, 60), 255)
    for seed in range(20):
        ink = np.asarray(glyphs.place(square, np.random.RandomState(seed)), dtype=float).sum() / 255
        low, high = ((share * glyphs.PIXELS) ** 2 for share in (0.42 * np.exp(-0.12), 0.8 * np.exp(0.12)))
        assert 0.9 * low <= ink <= 1.02 * high


def test_what_is_refused(tmp_path):
    refused(tmp_path, ROW, "font folder fonts does not exist", "make fonts", "drawing.fonts")
    refused(tmp_path, {key: ROW[key] for key in ("builtin", "classes", "splits")}, "glyphs needs `drawing:")
    made_fonts.families(tmp_path / "fonts", 7)
    refused(tmp_path, ROW, "font folder fonts holds 7 usable families, at least 8 are needed")
    assert not (tmp_path / "data" / "images").exists()


def _killed(task):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_killed_process_is_said_and_not_waited_for():
    assert list(processes.imap(abs, [-2, 1], "count", "number")) == [2, 1]
    with pytest.raises(UserError, match="draw glyphs: a process was killed"):
        list(processes.imap(_killed, range(40), "draw glyphs", "font"))


SMALL_TRAINING = {"epochs": 1, "small_epochs": 0, "batch": 47}


@pytest.mark.slow  # test_end_to_end.py does as much with digits
def test_it_is_trained_built_and_scored(drawn, tmp_path):
    """The workflow makes a result of it, and the archive that a GPU host trains on gives a checkpoint of the same."""
    workflow = Workflow.fresh(tmp_path / "run")

    def small(config):
        config["dataset"] = "glyphs"
        row = config["datasets"]["glyphs"]
        row.update(
            drawing=dict(ROW["drawing"], fonts=str(drawn / "fonts"), train=8), splits={"calib": 256, "select": 47}
        )
        row["training"].update(SMALL_TRAINING)
        for precision in config["precisions"].values():
            precision.get("calibration", {}).update(images=256)
        for target in config["targets"].values():
            target.update(warmup_ms=10, duration_ms=50, iterations=3)

    workflow.config(small)
    name = "results/LeViT-tiny.fp32.cpu.json"
    status, output = workflow.run("--quiet", "rules", "--", name, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    result = json.loads(workflow.path(name).read_text())
    assert result["dataset"]["name"] == "glyphs" and result["accuracy"]["num_images"] == 94
    assert result["accuracy"]["agreement_with_fp32"] >= 99
    with tarfile.open(tmp_path / "glyphs.tar.xz", "w:xz") as archive:
        for name in ("data/index.json", "data/train.tsv", "data/images"):
            archive.add(workflow.path(f"results/glyphs/{name}"), name)
    elsewhere(tmp_path)


def elsewhere(folder):
    """Train from the archive as on a GPU host, in pieces, and put them together."""
    command = [forks.python_with_torch(), ROOT / "tests/gpu/train_glyphs.py", "--archive", folder / "glyphs.tar.xz"]
    command += ["--work", folder / "work", "--out", folder / "out", "--model", "LeViT-tiny", "--in-memory"]
    command += ["--device", "cpu", "--training", json.dumps(SMALL_TRAINING), "--piece", 1 << 18]
    forked = {**os.environ, "LEVIT_EXECUTABLE": forks.python_with_torch()}  # its commands start as forks as well
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, env=forked)
    assert done.returncode == 0, done.stderr
    pieces = sorted((folder / "out").glob("fp32.pth.*"))
    assert len(pieces) > 1 and b"".join(p.read_bytes() for p in pieces) == (folder / "work/fp32.pth").read_bytes()
    assert json.loads((folder / "out/torch.json").read_text())["num_images"] == 94
