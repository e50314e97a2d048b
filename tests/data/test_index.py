"""Indexing: the digits, folders with and without halves, splits, and what is refused with which words."""

import collections
import hashlib
import json
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import assemble_result
import forks
from conftest import ROOT
from core.files import UserError
from data import index, indexing, splits

DIGITS = {"builtin": "digits", "classes": 10, "splits": {"calib": 256, "select": 200}}


def run(folder, row, seed=0, name="index.json"):
    line = [forks.python_without_torch(), str(ROOT / "workflow_scripts" / "index_dataset.py")]
    line += ["--dataset", json.dumps(row)]
    line += ["--seed", str(seed), "--index", f"data/{name}", "--images-root", "data/images"]
    line += ["--train-images", f"data/{name}.train.tsv", "--seen", f"data/{name}.seen.txt"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, timeout=60)
    return done.returncode, done.stderr


def refused(folder, row, *said):
    code, text = run(folder, row)
    error = [line for line in text.splitlines() if line.startswith("error:")]
    assert code == 1 and len(error) == 1 and "Traceback" not in text, text
    for words in said:
        assert words in error[0]
    assert not (folder / "data" / "index.json").exists()


def folder_of(root, classes, each, prefix=""):
    """Write `each` small images a class; return root."""
    for label in range(classes):
        (root / f"{prefix}c{label}").mkdir(parents=True)
        for number in range(each):
            Image.new("L", (4, 5), 10 * label + number).save(root / f"{prefix}c{label}" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    assert run(folder, DIGITS)[0] == 0
    return folder


def test_digits_have_their_splits(digits):
    listing = index.read(digits / "data" / "index.json")
    parts = {name: set(index.images(listing, name).sources) for name in index.SPLITS}
    assert {name: len(part) for name, part in parts.items()} == {"train": 1237, "calib": 256, "select": 200, "val": 360}
    assert parts["calib"] <= parts["train"] and not parts["train"] & parts["select"]
    assert len(parts["train"] | parts["select"] | parts["val"]) == 1797
    for name in ("select", "val"):
        assert set(collections.Counter(index.labels(listing, name).tolist()).values()) == {len(parts[name]) // 10}
    assert all(path.startswith("val/") == (path in parts["val"]) for part in parts.values() for path in part)
    assert listing["classes"] == [str(digit) for digit in range(10)] and listing["root"] == "images"


def test_digits_are_the_scans_themselves(digits):
    from sklearn.datasets import load_digits

    scans, path = load_digits(), digits / "data" / "index.json"
    listing = index.read(path)
    for split in ("train", "select", "val"):
        files = index.files(listing, path, split)
        for file, label in list(zip(files, index.labels(listing, split), strict=True))[::40]:
            number = int(file[-len("0000.png") : -len(".png")])
            image = Image.open(file)
            assert scans.target[number] == label and image.size == (8, 8)
            assert [round(value * 16 / 255) for value in image.tobytes()] == scans.images[number].ravel().tolist()


def test_digits_records_are_of_the_files(digits):
    listing = index.read(digits / "data" / "index.json")
    assert [image["path"] for image in listing["images"]] == sorted(image["path"] for image in listing["images"])
    lines = [line.split("\t") for line in (digits / "data" / "index.json.train.tsv").read_text().splitlines()]
    assert [path for *_, path in lines] == sorted(index.images(listing, "train").sources)
    trained = [{"path": path, "bytes": int(size), "sha256": stamp[len("sha256:") :]} for _, size, stamp, path in lines]
    for image in listing["images"][::100] + trained[::100]:
        content = (digits / "data" / "images" / image["path"]).read_bytes()
        assert image["bytes"] == len(content) and image["sha256"] == hashlib.sha256(content).hexdigest()


def test_digits_again_is_the_same_and_another_seed_moves_all_but_val(digits):
    first = (digits / "data" / "index.json").read_bytes()
    assert run(digits, DIGITS, name="again.json")[0] == 0
    assert (digits / "data" / "again.json").read_bytes().replace(b"again.json", b"index.json") == first
    assert run(digits, DIGITS, seed=1, name="seed.json")[0] == 0
    before, after = index.read(digits / "data" / "index.json"), index.read(digits / "data" / "seed.json")
    assert index.files(before, "index.json", "val") == index.files(after, "index.json", "val")
    assert index.files(before, "index.json", "select") != index.files(after, "index.json", "select")
    assert not list((digits / "data").glob("*.partial")) and not list((digits / "data").glob("*.old"))


def test_every_beginning_of_calib_is_balanced(digits):
    labels = index.labels(index.read(digits / "data" / "index.json"), "calib").tolist()
    for count in (10, 64, 200, 256):
        of_class = collections.Counter(labels[:count]).values()
        assert len(of_class) == 10 and max(of_class) - min(of_class) <= 1


def test_one_image_more_moves_few_others():
    keys = [f"{number:03d}" for number in range(301)]
    labels = [number % 3 for number in range(301)]
    before = set(splits.balanced(range(300), labels, keys, 60, "salt"))
    after = set(splits.balanced(range(301), labels, keys, 60, "salt"))
    assert len(before) == 60 and len(before ^ after) <= 2


def test_a_folder_with_halves_keeps_them(tmp_path):
    folder_of(tmp_path / "pictures" / "train", 2, 6)
    folder_of(tmp_path / "pictures" / "val", 2, 3)
    code, text = run(tmp_path, {"path": "pictures", "classes": 2, "splits": {"calib": 4, "select": 2}})
    assert code == 0 and "2 classes (10 train, 4 calib, 2 select, 6 val)" in text
    path = tmp_path / "data" / "index.json"
    listing = index.read(path)
    assert listing["root"] == "../pictures" and listing["classes"] == ["c0", "c1"]
    assert all(Path(file).read_bytes()[:4] == b"\x89PNG" for file in index.files(listing, path, "val"))
    assert len(listing["images"]) == 12 and all(image["sha256"] for image in listing["images"])


def test_images_that_are_in_val_and_in_train_are_counted(tmp_path):
    folder_of(tmp_path / "pictures" / "train", 2, 6)
    folder_of(tmp_path / "pictures" / "val", 2, 8)
    code, text = run(tmp_path, {"path": "pictures", "classes": 2, "splits": {"calib": 4, "select": 2}})
    said = "12 images of val are among the training images too (val/c0/0.png is train/c0/0.png): accuracy looks better"
    assert code == 0 and f"warning: {said}" in text
    listing = index.read(tmp_path / "data/index.json")
    assert listing["repeated"] == {"images": 12, "first": "val/c0/0.png", "as": "train/c0/0.png"}
    notes = assemble_result.index_notes(listing, {"dataset": {"weights": "train"}})
    assert len(notes) == 1 and notes[0].startswith(said)


def test_images_of_more_than_8_bits_are_counted(tmp_path):
    root = folder_of(tmp_path / "pictures", 2, 6)
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(root / "c0/3.png")
    Image.fromarray(np.full((4, 5), 0.5, np.float32)).save(root / "c1/float.tif")
    Image.fromarray(np.full((4, 5, 3), 200, np.uint8)).save(root / "c1/usual.tif")
    code, text = run(tmp_path, {"path": "pictures", "classes": 2, "splits": {"calib": 2, "select": 2, "val": 4}})
    assert code == 0 and "warning: 2 images have more than 8 bits a channel (c0/3.png for one): values above" in text
    assert index.read(tmp_path / "data/index.json")["clipped"] == {"images": 2, "first": "c0/3.png"}


def test_one_folder_is_split(tmp_path):
    root = folder_of(tmp_path / "pictures", 3, 10)
    (root / "c0" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    row = {"path": str(root), "classes": 3, "splits": {"calib": 6, "select": 3, "val": 9}}
    assert run(tmp_path, row)[0] == 0
    listing = index.read(tmp_path / "data" / "index.json")
    assert {name: index.count(listing, name) for name in index.SPLITS} == {
        "train": 18, "calib": 6, "select": 3, "val": 9
    }  # fmt: skip
    assert listing["root"] == str(root) and collections.Counter(index.labels(listing, "val")) == {0: 3, 1: 3, 2: 3}
    parts = {name: set(index.images(listing, name).sources) for name in index.SPLITS}
    assert not parts["val"] & (parts["train"] | parts["select"])


ROW = {"path": "pictures", "classes": 2, "splits": {"calib": 2, "select": 2, "val": 2}}


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    refused(tmp_path, ROW, "dataset folder pictures does not exist", "correct `path`")
    (tmp_path / "pictures").mkdir()
    refused(tmp_path, ROW, "dataset folder pictures is empty", "one folder per class")
    (tmp_path / "pictures" / "c0").mkdir()
    refused(tmp_path, ROW, "class folder pictures/c0 holds no image (JPEG")


def test_a_wrong_number_of_classes_is_named(tmp_path):
    folder_of(tmp_path / "pictures", 3, 4)
    refused(tmp_path, ROW, "holds 3 classes, config.yaml says 2", "correct `classes`")


def test_fewer_images_than_the_splits_ask_are_counted(tmp_path):
    folder_of(tmp_path / "pictures", 2, 4)
    row = dict(ROW, splits={"calib": 5, "select": 2, "val": 2})
    refused(tmp_path, row, "`splits` takes 4 images from training and 5 for calib, there are 8: lower `splits`")


def test_one_folder_needs_the_size_of_val(tmp_path):
    folder_of(tmp_path / "pictures", 2, 4)
    refused(tmp_path, dict(ROW, splits={"calib": 2, "select": 2}), "no train/ and val/", "add `val: N`")


def test_half_a_pair_of_halves_is_named(tmp_path):
    folder_of(tmp_path / "pictures" / "train", 2, 4)
    refused(tmp_path, ROW, "pictures has train/ but no val/")
    folder_of(tmp_path / "pictures" / "val", 3, 4)
    refused(tmp_path, ROW, "classes differ between train/ and val/: c2")


def test_an_empty_image_is_named(tmp_path):
    folder_of(tmp_path / "pictures", 2, 4)
    (tmp_path / "pictures" / "c1" / "2.png").write_bytes(b"")
    refused(tmp_path, ROW, "image pictures/c1/2.png is empty: replace or remove it")


def test_an_unknown_builtin_is_named(tmp_path):
    refused(tmp_path, dict(DIGITS, builtin="letters"), "builtin dataset 'letters' is unknown: digits")


def test_an_index_that_is_none_and_an_unknown_split_are_named(tmp_path, digits):
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(UserError, match=r"index.json is not an index of images: delete it"):
        index.read(tmp_path / "index.json")
    with pytest.raises(UserError, match=r"split 'test' is unknown: one of calib, select, train, val"):
        index.labels(index.read(digits / "data" / "index.json"), "test")


def many(root, each):
    """Write `each` files in each of ten class folders; return a row that leaves nearly all of them to training."""
    for label in range(10):
        (root / f"c{label}").mkdir(parents=True)
        for number in range(each):
            (root / f"c{label}" / f"{number:06d}.jpg").write_bytes(b"\xff\xd8\xff%d" % number)
    return {"classes": 10, "splits": {"calib": 10, "select": 10, "val": 10}}


def peak_of(work):
    """Return (what work() returns, the most bytes that Python held for it at once)."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_index_takes_less_than_a_kilobyte_of_memory_an_image(tmp_path, monkeypatch):
    """Of 1.33 million images, 2 GB would be 1.5 kB an image."""
    monkeypatch.setattr(indexing, "HASHED", 0)
    row = many(tmp_path, 400)
    (listing, lines), peak = peak_of(lambda: indexing.build(str(tmp_path), row, 0, False))
    assert listing["train"]["images"] == 3980 and peak < 4000 * 1000 + 500_000, peak
    (tmp_path / "train.tsv").write_bytes(lines)
    listing["folder"] = str(tmp_path)
    files, peak = peak_of(lambda: index.files(listing, tmp_path / "index.json", "train"))
    assert len(files) == 3980 and peak < 3 * len(lines), "no object for each image"
    assert len(set(files)) == 3980 and Path(files[-1]) == tmp_path / "c9/000399.jpg"
    assert files[3979] == files[-1] and files[0] != files[1]
    with pytest.raises(IndexError):
        files[3980]
