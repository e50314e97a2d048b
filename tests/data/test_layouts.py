"""ImageNet as people have it: class folders, flat folders and tars with each kind of labels, subsets, no train/."""

import io
import json
import os
import random
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from test_cache import decode
from test_index import refused, run

from core.files import UserError
from data import cache, index, labels

SYNSETS = ["n01440764", "n01443537", "n02099601", "n03000684"]  # sorted
KIT = {1: "n03000684", 2: "n01440764", 3: "n02099601", 4: "n01443537", 5: "n00001740"}  # the last has children
VAL = [2, 0, 3, 1, 1, 0, 2, 3]  # the sorted-order class of each validation image
NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(VAL) + 1)]
SPLITS = {"calib": 4, "select": 4}
ROW = {"path": "imagenet", "classes": 4, "splits": SPLITS}


def jpeg(seed):
    pixels = np.random.RandomState(seed).randint(0, 256, (30 + seed % 7, 41, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def meta(path):
    """Write a development kit's meta.mat: numbers in no order, and a synset that is not a class."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = np.array([(i, name, f"a, b {i}", "gloss", int(i == 5)) for i, name in KIT.items()], dtype=kinds)
    savemat(path, {"synsets": rows[:, None]})


@pytest.fixture
def imagenet(tmp_path):
    """Write a small ImageNet in all layouts at once; return its root."""
    root = tmp_path / "imagenet"
    for name in SYNSETS:
        (root / "train" / name).mkdir(parents=True)
        for number in range(6):
            (root / "train" / name / f"{name}_{number}.JPEG").write_bytes(jpeg(int(name[1:]) + number))
    for folder in ("flat", "kit"):
        (root / folder).mkdir()
    for number, (name, label) in enumerate(zip(NAMES, VAL, strict=True)):
        (root / "flat" / name).write_bytes(jpeg(number))
        (root / "val" / SYNSETS[label]).mkdir(parents=True, exist_ok=True)
        (root / "val" / SYNSETS[label] / name).write_bytes(jpeg(number))
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    for name, prefix in (("flat.tar", ""), ("dotted.tar", "./"), ("nested.tar", "ILSVRC2012_img_val/")):
        with tarfile.open(root / name, "w") as archive:
            for image in shuffled:
                archive.add(root / "flat" / image, prefix + image)
    with tarfile.open(root / "classes.tar", "w") as archive:
        archive.add(root / "val", "somewhere/val")
    ids = {name: number for number, name in KIT.items()}
    texts = {
        "val.txt": "".join(f"{name} {label}\n" for name, label in zip(NAMES, VAL, strict=True)),
        "kit/ILSVRC2012_validation_ground_truth.txt": "".join(f"{ids[SYNSETS[label]]}\n" for label in VAL),
        "synset_labels.txt": "".join(f"{SYNSETS[label]}\n" for label in VAL),
        "LOC_val_solution.csv": "ImageId,PredictionString\n"
        + "".join(
            f"{name[:-5]},{SYNSETS[label]} 85 1 499 272 {SYNSETS[label]} 1 2 3 4 \n"
            for name, label in random.Random(1).sample(list(zip(NAMES, VAL, strict=True)), len(VAL))
        ),
        "LOC_synset_mapping.txt": "".join(f"{name} tench, Tinca tinca\n" for name in reversed(SYNSETS)),
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    meta(root / "kit" / "meta.mat")
    return root


def indexed(folder, row):
    code, text = run(folder, row)
    assert code == 0, text
    return index.read(folder / "data" / "index.json"), text


def val_of(listing):
    """Return {SHA-256: class} of val."""
    names = [listing["classes"][label] for label in index.labels(listing, "val")]
    return dict(zip(index.digests(listing, "val"), names, strict=True))


GROUND_TRUTH = "kit/ILSVRC2012_validation_ground_truth.txt"
LAYOUTS = {
    "flat and Caffe": {"val": "flat", "labels": "val.txt"},
    "flat and Kaggle": {"val": "flat", "labels": "LOC_val_solution.csv"},
    "flat and kit": {"val": "flat", "labels": GROUND_TRUTH},
    "flat and names": {"val": "flat", "labels": "synset_labels.txt"},
    "tar and Caffe": {"val": "flat.tar", "labels": "val.txt"},
    "tar and kit": {"val": "dotted.tar", "labels": GROUND_TRUTH},
    "tar and Kaggle": {"val": "nested.tar", "labels": "LOC_val_solution.csv"},
    "tar of class folders": {"val": "classes.tar"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_the_same_of_the_same_images(imagenet, layout):
    plain, _ = indexed(imagenet.parent, ROW)
    assert plain["classes"] == SYNSETS and len(val_of(plain)) == len(VAL)
    other, _ = indexed(imagenet.parent, {**ROW, **LAYOUTS[layout]})
    assert other["classes"] == SYNSETS and val_of(other) == val_of(plain)
    for split in ("train", "calib", "select"):
        assert list(index.files(other, "x", split)) == list(index.files(plain, "x", split))


@pytest.mark.parametrize("layout", ["flat and kit", "tar and kit", "tar of class folders"])
def test_evaluation_needs_no_train(imagenet, layout):
    shutil.rmtree(imagenet / "train")
    if LAYOUTS[layout].get("labels"):
        shutil.rmtree(imagenet / "val")
    row = {**ROW, **LAYOUTS[layout], "splits": {"calib": 0, "select": 0}}
    listing, _ = indexed(imagenet.parent, row)
    assert listing["classes"] == SYNSETS and len(val_of(listing)) == 8
    assert {name: index.count(listing, name) for name in index.SPLITS} == {
        "train": 0,
        "calib": 0,
        "select": 0,
        "val": 8,
    }
    with pytest.raises(UserError, match="the dataset has no images for calib"):
        index.files(listing, "x", "calib")
    (imagenet.parent / "data" / "index.json").unlink()
    refused(imagenet.parent, dict(row, splits=SPLITS), "has no train/", "set both to 0 in `splits`", "`val: N`")


def test_val_alone_may_be_divided(imagenet):
    shutil.rmtree(imagenet / "train")
    row = {**ROW, "splits": {"calib": 2, "select": 2, "val": 4}, "val": "flat.tar", "labels": "LOC_val_solution.csv"}
    listing, _ = indexed(imagenet.parent, row)
    parts = {name: {str(source) for source in index.files(listing, "x", name)} for name in index.SPLITS}
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "calib": 2, "select": 2, "val": 4}
    assert parts["calib"] == parts["train"] and not parts["val"] & (parts["train"] | parts["select"])
    assert all(isinstance(source, index.Member) for source in index.files(listing, "x", "train"))


def test_numbers_that_nobody_names_are_the_names(imagenet):
    shutil.rmtree(imagenet / "train")
    row = {**ROW, "val": "flat", "labels": "val.txt", "splits": {"calib": 0, "select": 0}}
    listing, _ = indexed(imagenet.parent, row)
    assert listing["classes"] == ["0", "1", "2", "3"] and index.labels(listing, "val").tolist() == VAL
    named, _ = indexed(imagenet.parent, dict(row, synsets="LOC_synset_mapping.txt"))
    assert named["classes"] == SYNSETS and index.labels(named, "val").tolist() == VAL


@pytest.mark.parametrize("synsets", ["imagenet", "LOC_synset_mapping.txt", "kit/meta.mat"])
def test_a_few_classes_keep_their_places_among_all(imagenet, synsets):
    """Imagenette, say: folders of some classes of the 1,000, and a network of 1,000 outputs."""
    for half in ("train", "val"):
        shutil.rmtree(imagenet / half / SYNSETS[1])
    count = 1000 if synsets == "imagenet" else 4
    row = dict(ROW, synsets=synsets, classes=count, splits={"calib": 3, "select": 3})
    listing, _ = indexed(imagenet.parent, row)
    assert len(listing["classes"]) == count == len(set(listing["classes"]))
    places = {"n01440764": 0, "n02099601": 207, "n03000684": 491} if count == 1000 else dict(zip(SYNSETS, range(4)))
    found = set(index.labels(listing, "val").tolist())
    assert found == {places[name] for name in (SYNSETS[0], SYNSETS[2], SYNSETS[3])}


def test_the_kits_numbers_are_read_as_torchvision_reads_them(imagenet, monkeypatch):
    from torchvision.datasets import imagenet as theirs

    with tarfile.open(imagenet / "kit.tar.gz", "w:gz") as archive:
        archive.add(imagenet / "kit", "ILSVRC2012_devkit_t12/data")
    monkeypatch.setattr(theirs, "_verify_archive", lambda *of_the_real_one: None)
    theirs.parse_devkit_archive(str(imagenet), "kit.tar.gz")
    classes, wnids = theirs.load_meta_file(str(imagenet))
    assert labels.assign(NAMES, str(imagenet / GROUND_TRUTH), None, 4) == wnids
    assert labels.class_names(str(imagenet / "kit/meta.mat")) == sorted(classes)


def test_a_part_of_the_images_is_labelled_by_number(imagenet):
    (imagenet / "flat" / NAMES[2]).unlink()
    listing, _ = indexed(imagenet.parent, {**ROW, "val": "flat", "labels": GROUND_TRUTH})
    names = [listing["classes"][label] for label in index.labels(listing, "val")]
    assert names == [SYNSETS[label] for number, label in enumerate(VAL) if number != 2]


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ({"classes": "0-1"}, {0: 2, 1: 2}),
        ({"classes": "3, n01443537"}, {1: 2, 3: 2}),
        ({"classes": 2}, {2: 2}),
        ({"images": 4}, {0: 1, 1: 1, 2: 1, 3: 1}),
        ({"classes": "0-2", "images": 3}, {0: 1, 1: 1, 2: 1}),
    ],
)
def test_a_subset_is_of_val_and_keeps_all_classes(imagenet, subset, expected):
    plain, _ = indexed(imagenet.parent, ROW)
    listing, _ = indexed(imagenet.parent, dict(ROW, subset=subset))
    found = index.labels(listing, "val").tolist()
    assert {label: found.count(label) for label in set(found)} == expected
    assert listing["classes"] == SYNSETS and listing["subset"] == subset
    for split in ("train", "calib", "select"):
        assert list(index.files(listing, "x", split)) == list(index.files(plain, "x", split))


@pytest.mark.parametrize(
    ("subset", "said"),
    [
        ({"classes": "0-4"}, "subset.classes: 0-4 is not a class: 0 to 3"),
        ({"classes": "2-1"}, "subset.classes: 2-1 is not a class"),
        ({"classes": "n01440765"}, "did you mean n01440764"),
        ({"images": 9}, "subset asks for 9 images of val, 8 are of its classes"),
    ],
)
def test_a_subset_that_is_not_there_is_named(imagenet, subset, said):
    refused(imagenet.parent, dict(ROW, subset=subset), said)


def test_a_tar_is_decoded_where_it_is(imagenet):
    pixels = {}
    for name, row in (("flat", LAYOUTS["flat and kit"]), ("flat.tar", LAYOUTS["tar and Caffe"])):
        listing, _ = indexed(imagenet.parent, {**ROW, **row})
        code, text = decode(imagenet.parent / "data" / "index.json", LEVIT_STORE=str(imagenet.parent / "store"))
        assert code == 0, text
        assert ("from the store" in text) == (name == "flat.tar"), "the same images in another order are not the same"
        pixels[name] = dict(
            zip(index.digests(listing, "val"), np.array(cache.read(imagenet.parent / "data/out/val.u8")), strict=True)
        )
        assert decode(imagenet.parent / "data" / "index.json")[0] == 0
        again = cache.read(imagenet.parent / "data/out/val.u8")
        assert all(np.array_equal(a, b) for a, b in zip(again, pixels[name].values(), strict=True))
    assert all(np.array_equal(pixels["flat"][digest], pixels["flat.tar"][digest]) for digest in pixels["flat"])


def broken(imagenet, name, content):
    (imagenet / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {**ROW, "val": "flat", "labels": name}


LABELS = [
    ("", "labels is empty: it needs one line per image"),
    (f"{NAMES[0]} 0\n", f"has no label for flat/{NAMES[1]} (7 of 8 images)"),
    ("".join(f"{name} 4\n" for name in NAMES), "has the label 4, and there are 4 classes: labels count from 0"),
    (
        "".join(f"{name} n01440765\n" for name in NAMES),
        "has the class n01440765, which the dataset does not have: did you",
    ),
    ("1\n2 3\n", "some lines name a file and some do not"),
    ("n01440764\n", "has 1 lines for 8 images: it needs one line per image"),
    (
        "".join(f"a/{name} 0\n" for name in NAMES) + f"b/{NAMES[2]} 1\n",
        f"has the labels 0 and 1 for {NAMES[2][:-5]}: images are told apart by",
    ),
    ("".join(f"{name} ²\n" for name in NAMES), "has the class ², which the dataset does not have"),
    (b"\xff\xfe\x00", "is not a text file"),
    ("9\n" * 8, "does not exist: the development kit's numbers are not in synset order"),
]


@pytest.mark.parametrize(("content", "said"), LABELS)
def test_labels_that_are_not_understood_are_named(imagenet, content, said):
    refused(imagenet.parent, broken(imagenet, "labels", content), said)


def test_a_line_of_titles_is_no_label(imagenet):
    text = "file,label\n" + "".join(f"{name},{label}\n" for name, label in zip(NAMES, VAL, strict=True))
    row = broken(imagenet, "labels", text)
    assert run(imagenet.parent, row)[0] == 0
    assert index.labels(index.read(imagenet.parent / "data/index.json"), "val").tolist() == VAL


def test_a_number_that_the_kit_has_not_is_named(imagenet):
    (imagenet / GROUND_TRUTH).write_text("0\n" * 8)
    refused(imagenet.parent, {**ROW, "val": "flat", "labels": GROUND_TRUTH}, "has the label 0, which", "count from 1")
    (imagenet / "kit/meta.mat").write_bytes(b"no matlab")
    refused(imagenet.parent, {**ROW, "val": "flat", "labels": GROUND_TRUTH}, "is not ILSVRC2012's meta.mat")


def test_what_is_not_there_or_not_whole_is_named(imagenet):
    folder = imagenet.parent
    refused(folder, dict(ROW, val="nowhere"), "imagenet/nowhere does not exist: correct `val`")
    refused(folder, dict(ROW, val="flat"), "flat holds images but no class folders", "`labels`")
    refused(folder, dict(ROW, val="flat.tar"), "flat.tar holds images but no class folders", "`labels`")
    refused(folder, dict(ROW, val="flat", labels="nowhere"), "nowhere does not exist: correct `labels`")
    refused(folder, dict(ROW, synsets="val.txt", classes=8), "`synsets` has no class n01440764")
    (imagenet / "twice.txt").write_text("a\na\n")
    refused(folder, dict(ROW, synsets="twice.txt"), "names a class twice")
    content = (imagenet / "flat.tar").read_bytes()
    (imagenet / "cut.tar").write_bytes(content[: len(content) // 2 + 700])
    refused(folder, dict(ROW, val="cut.tar", labels="val.txt"), "cut.tar is not a complete, uncompressed tar")
    with tarfile.open(imagenet / "packed.tar.gz", "w:gz") as archive:
        archive.add(imagenet / "flat", "flat")
    refused(folder, dict(ROW, val="packed.tar.gz", labels="val.txt"), "is not a complete, uncompressed tar")
    (imagenet / "val" / SYNSETS[0] / "a\tb.JPEG").write_bytes(jpeg(1))
    refused(folder, ROW, "has a tab or a newline in its name: rename it")


@pytest.mark.parametrize("fraction", [0.2, 0.7], ids=["rounded down", "rounded up"])
def test_members_that_only_train_are_held_to_their_archive(imagenet, monkeypatch, fraction):
    from data import indexing, integrity

    with tarfile.open(imagenet / "flat.tar", "w") as archive:
        for name in NAMES:
            os.utime(imagenet / "flat" / name, (0, 1_700_000_000 + fraction))
            archive.add(imagenet / "flat" / name, name)
    monkeypatch.setattr(indexing, "HASHED", 0)
    shutil.rmtree(imagenet / "train")
    row = {**ROW, "splits": {"calib": 1, "select": 1, "val": 2}, "val": "flat.tar", "labels": "val.txt"}
    _, lines = indexing.build(str(imagenet), {**row, "synsets": "LOC_synset_mapping.txt"}, 0, hash_all=False)
    fields = [line.split("\t") for line in lines.decode().splitlines()]
    _, size, stamp, path, archive, offset = next(line for line in fields if line[2].startswith("changed:"))
    member = index.Member(str(imagenet / archive), int(offset), int(size), path)
    assert integrity.read(member, stamp)
    for other in (member._replace(offset=0), member._replace(bytes=member.bytes - 1)):
        with pytest.raises(UserError, match="has changed since it was indexed"):
            integrity.read(other, stamp)


def test_an_image_that_changed_after_it_was_indexed_is_refused(imagenet):
    indexed(imagenet.parent, ROW)
    image = imagenet / "val" / SYNSETS[VAL[3]] / NAMES[3]
    state = os.stat(image)
    image.write_bytes(jpeg(77)[: state.st_size].ljust(state.st_size, b"\0"))
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    code, text = decode(imagenet.parent / "data" / "index.json")
    assert code == 1 and f"{NAMES[3]} has changed since it was indexed: delete the index" in text


def test_too_many_training_images_to_read_are_known_by_their_time(imagenet, monkeypatch):
    from data import indexing

    monkeypatch.setattr(indexing, "HASHED", 100)
    row = json.loads(json.dumps(ROW))
    _, lines = indexing.build(str(imagenet), row, 0, hash_all=False)
    stamps = [line.split(b"\t")[2] for line in lines.splitlines()]
    assert sum(stamp.startswith(b"changed:") for stamp in stamps) == len(stamps) - SPLITS["calib"]
    path = imagenet / "train" / SYNSETS[0] / f"{SYNSETS[0]}_0.JPEG"
    os.utime(path, ns=(1, 1))
    assert indexing.build(str(imagenet), row, 0, hash_all=False)[1] != lines
