"""The order of classes is the one that weights have learned, and folders that are splits are not classes."""

import json
import os
import random

import pytest
from test_index import folder_of, refused, run
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.utils.misc import natural_key

from data import class_order, index

TWELVE = [str(number) for number in range(1, 13)]
ROW = {"path": "pictures", "classes": 12, "splits": {"calib": 4, "select": 4}}


@pytest.fixture
def pictures(tmp_path):
    """Write train/ and val/ of the classes 1 to 12; return the folder that holds `pictures`."""
    for half, each in (("train", 3), ("val", 1)):
        named(tmp_path / "pictures" / half, TWELVE, each)
    return tmp_path


def named(root, names, each=2):
    """Write `each` small images a class, of these names; return root."""
    from PIL import Image

    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for image in range(each):
            shade = (10 * number + image, 0, len(root.name))  # of each half its own
            Image.new("RGB", (4, 5), shade).save(root / name / f"{image}.png")
    return root


def indexed(folder, row=ROW):
    code, text = run(folder, row)
    assert code == 0 and "Traceback" not in text, text
    return index.read(folder / "data" / "index.json"), text


def check_labels(folder, listing):
    """Each image's label is the place of its folder."""
    for split in index.SPLITS:
        found = zip(index.labels(listing, split), index.files(listing, folder / "data/index.json", split), strict=True)
        assert all(listing["classes"][label] == file.split("/")[-2] for label, file in found)


def test_without_a_word_classes_are_sorted_and_a_line_says_so(pictures):
    listing, text = indexed(pictures)
    assert listing["classes"] == sorted(TWELVE)
    assert listing["class_order"] == {"order": "sorted", "given": False, "natural_differs": True}
    assert text.count("classes are in sorted order (1, 10, 11, 12 ...), natural order differs (1, 2, 3, 4") == 1
    assert "`class_order`" in text
    check_labels(pictures, listing)


def test_natural_order_is_that_of_timms_reader(pictures):
    listing, text = indexed(pictures, {**ROW, "class_order": "natural"})
    theirs = find_images_and_targets(str(pictures / "pictures" / "train"))[1]
    assert listing["classes"] == sorted(theirs, key=theirs.get) == TWELVE and "order" not in text
    assert listing["class_order"] == {"order": "natural", "given": True, "natural_differs": True}
    check_labels(pictures, listing)


def test_sorted_order_that_is_asked_for_says_nothing(pictures):
    listing, text = indexed(pictures, {**ROW, "class_order": "sorted"})
    assert listing["classes"] == sorted(TWELVE) and "warning" not in text


def test_where_both_orders_are_one_nothing_is_said(tmp_path):
    named(tmp_path / "pictures", ["a", "b9"], 8)
    row = {"path": "pictures", "classes": 2, "splits": {"calib": 2, "select": 2, "val": 4}}
    listing, text = indexed(tmp_path, row)
    assert "warning" not in text and not listing["class_order"]["natural_differs"]


def test_the_natural_key_is_timms():
    rng = random.Random(0)
    names = ["".join(rng.choices("aB019_ -x.é٣", k=rng.randint(1, 8))) for _ in range(500)]
    assert [class_order.natural(name) for name in names] == [natural_key(name) for name in names]
    assert class_order.natural("x²") == ["x²"]  # int() of which timm's stumbles over


FILES = {
    "lines": ("\n".join(reversed(TWELVE)), None),
    "BOM and Windows": ("\ufeff" + "\r\n".join(reversed(TWELVE)) + "\r\n\r\n", None),
    "JSON": (json.dumps(TWELVE[::-1]), None),
    "JSON pairs": (json.dumps([[name, f"n° {name}"] for name in reversed(TWELVE)]), [f"n° {n}" for n in TWELVE[::-1]]),
    "tabs": ("".join(f"{name}\tthe {name}\n" for name in reversed(TWELVE)), [f"the {n}" for n in TWELVE[::-1]]),
    "some named": (json.dumps([["12", "dozen"], *TWELVE[-2::-1]]), ["dozen", *TWELVE[-2::-1]]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_gives_the_order_and_readable_names(pictures, kind):
    text, titles = FILES[kind]
    (pictures / "pictures" / "names").write_text(text, encoding="utf-8")
    listing, _ = indexed(pictures, {**ROW, "class_order": "names"})
    assert listing["classes"] == TWELVE[::-1] and listing.get("titles") == titles
    assert listing["class_order"]["order"] == "file" and not listing["left_out"]
    check_labels(pictures, listing)


def test_imagenets_own_files_give_order_and_names(tmp_path):
    synsets = ["n01443537", "n01440764"]
    named(tmp_path / "pictures", synsets, 8)
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01443537 goldfish, Carassius auratus\nn01440764 tench\n")
    row = {"path": "pictures", "classes": 2, "splits": {"calib": 2, "select": 2, "val": 4}}
    listing, _ = indexed(tmp_path, {**row, "class_order": str(tmp_path / "LOC_synset_mapping.txt")})
    assert listing["classes"] == synsets and listing["titles"] == ["goldfish, Carassius auratus", "tench"]


def test_a_file_may_name_classes_that_have_no_folder(pictures):
    (pictures / "pictures" / "names").write_text("\n".join(["13", *TWELVE, "0"]))
    listing, _ = indexed(pictures, {**ROW, "classes": 14, "class_order": "names"})
    assert listing["classes"] == ["13", *TWELVE, "0"]
    check_labels(pictures, listing)


def test_numbers_in_labels_and_subsets_count_in_the_classes_order(pictures):
    flat = pictures / "pictures" / "flat"
    flat.mkdir()
    lines = []
    for number, name in enumerate(TWELVE):
        os.rename(pictures / "pictures/val" / name / "0.png", flat / f"{name}.png")
        lines.append(f"{name}.png {number}")
    (pictures / "pictures" / "labels.txt").write_text("\n".join(lines))
    row = {**ROW, "val": "flat", "labels": "labels.txt", "class_order": "natural", "subset": {"classes": "0-1, 9-10"}}
    listing, _ = indexed(pictures, row)
    assert [os.path.basename(f) for f in index.files(listing, "x", "val")] == ["1.png", "10.png", "11.png", "2.png"]
    assert index.labels(listing, "val").tolist() == [0, 9, 10, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "names does not exist: correct `class_order`"),
        (b"", "names is empty"),
        (b"\xff\xfe1\0", "names is not a text file"),
        (b"\x89PNG\r\n\x1a\n", "names is not a text file"),
        ("\n".join(TWELVE[:-1]).encode(), "`class_order` has no class 12: correct either"),
        ("\n".join([*TWELVE, "12"]).encode(), "names the class '12' twice"),
        ("\n".join([*TWELVE, "13"]).encode(), "holds 13 classes, config.yaml says 12"),
        (b"[1, 2", "names is not JSON"),
        (b"[" * 100000, "names is not JSON"),
        (b"[1, 2]", "'1' is not a class: `class_order` takes a name, or [folder, name]"),
        (b"[]", "names is not a list"),
        (b'{"0": "1"}', "names is not a list"),
        (b'["1", ["2"]]', "is not a class"),
        (b'["1\\n"]', "is not a class"),
        (b'[["1", " "]]', "is not a class"),
        (b"1\x07\n", "is not a class"),
    ],
)
def test_a_file_of_names_that_is_none_is_refused_in_a_line(pictures, content, said):
    if content is not None:
        (pictures / "pictures" / "names").write_bytes(content)
    refused(pictures, {**ROW, "class_order": "names"}, said)


def test_an_order_that_is_open_is_refused(tmp_path):
    named(tmp_path / "pictures", ["1", "01"], 8)
    row = {"path": "pictures", "classes": 2, "splits": {"calib": 2, "select": 2, "val": 4}, "class_order": "natural"}
    refused(tmp_path, row, "'01' and '1' are equal in natural order: list the classes in a file (`class_order`)")


def test_synsets_are_ordered_too_and_a_file_must_agree(pictures):
    (pictures / "pictures" / "all").write_text("\n".join(TWELVE))
    listing, _ = indexed(pictures, {**ROW, "synsets": "all", "class_order": "natural"})
    assert listing["classes"] == TWELVE
    (pictures / "pictures" / "names").write_text("\n".join(TWELVE[:-1]))
    (pictures / "data" / "index.json").unlink()
    refused(pictures, {**ROW, "synsets": "all", "class_order": "names"}, "names and `synsets` differ in '12'")


PAIR = {"path": "pictures", "classes": 2, "splits": {"calib": 2, "select": 2, "val": 4}}
SPLITS = [
    (["training_set", "test_set"], "set `train: training_set` and `val: test_set`"),
    (["train_set", "val_set", "test_set"], "set `train: train_set` and `val: val_set`"),
    (["Train", "Valid"], "set `train: Train` and `val: Valid`"),
    (["training", "testing"], "set `train: training` and `val: testing`"),
    (["train1", "test1"], "set `train: train1` and `val: test1`"),
    (["test", "ok"], "set `val: test`"),
    (["train-images", "validation-images"], "set `train: train-images` and `val: validation-images`"),
]


@pytest.mark.parametrize(("names", "said"), SPLITS)
def test_folders_that_look_like_splits_are_no_classes(tmp_path, names, said):
    for name in names:
        folder_of(tmp_path / "pictures" / name, 2, 6)
    refused(tmp_path, PAIR, "have names of splits", said, "in the dataset's row")


def test_the_row_names_both_halves(tmp_path):
    """What the refusal asks for gives the right classes."""
    for name in ("training_set", "test_set"):
        folder_of(tmp_path / "pictures" / name, 2, 6)
    row = {**PAIR, "splits": {"calib": 2, "select": 2}, "train": "training_set", "val": "test_set"}
    listing, text = indexed(tmp_path, row)
    assert listing["classes"] == ["c0", "c1"] and "2 classes (10 train, 2 calib, 2 select, 12 val)" in text
    assert all("test_set" in file for file in index.files(listing, "x", "val"))


def test_classes_that_are_named_in_a_file_may_have_names_of_splits(tmp_path):
    named(tmp_path / "pictures", ["test", "control"], 8)
    refused(tmp_path, PAIR, "list them in a file: `class_order`")
    (tmp_path / "names").write_text("test\ncontrol\n")
    assert indexed(tmp_path, {**PAIR, "class_order": "../names"})[0]["classes"] == ["test", "control"]


def test_validation_in_place_of_val_names_the_key(tmp_path):
    for half in ("train", "validation"):
        folder_of(tmp_path / "pictures" / half, 2, 6)
    refused(tmp_path, PAIR, "has train/ but no val/", "set `val: validation`")
    assert indexed(tmp_path, {**PAIR, "val": "validation"})


def test_halves_that_are_one_folder_deeper_are_found(tmp_path):
    for half in ("train", "val"):
        folder_of(tmp_path / "pictures" / "archive" / half, 2, 6)
    refused(tmp_path, PAIR, "holds 1 classes", "correct `path` (the halves are in pictures/archive)")


def test_a_class_that_val_has_not_names_the_key(pictures):
    (pictures / "pictures/val/7/0.png").unlink()
    (pictures / "pictures/val/7").rmdir()
    refused(pictures, ROW, "classes differ between train/ and val/: 7", "list all classes in a file (`class_order`)")
    (pictures / "pictures/names").write_text("\n".join(TWELVE))
    listing, _ = indexed(pictures, {**ROW, "class_order": "names"})
    assert listing["classes"] == TWELVE and 6 not in index.labels(listing, "val")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"val": "train"}, "share images: `train` and `val` of the dataset must be separate folders"),
        ({"val": "link"}, "share images"),
        ({"val": "train/1"}, "share images"),
        ({"train": "nowhere"}, "pictures/nowhere does not exist: correct `train`"),
        ({"val": "dangling"}, "pictures/dangling is a link to nothing, which does not exist: correct `val`"),
    ],
)
def test_halves_that_are_not_two_are_refused(pictures, row, said):
    os.symlink("train", pictures / "pictures/link")
    os.symlink("nothing", pictures / "pictures/dangling")
    refused(pictures, {**ROW, **row}, said)


def test_a_dataset_that_is_a_dangling_link_says_where_it_leads(tmp_path):
    os.symlink("/mnt/gone", tmp_path / "pictures")
    refused(tmp_path, ROW, "pictures is a link to /mnt/gone, which does not exist: correct `path`")


def test_the_warning_is_of_indices_that_say_so():
    assert class_order.warning({"classes": ["1", "10", "2"]}) is None  # an older index
