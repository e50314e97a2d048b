"""decode_split.py and the file it writes: order, processes, damaged images, the store."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from data import cache, preprocess
from files import UserError, write_json

GEOMETRY = {"size": 32, "crop": 0.9, "interpolation": "bilinear"}


@pytest.fixture
def listing(tmp_path):
    """Write 21 images and an index of them whose val goes backwards; return the index's path."""
    images = []
    for number in range(21):
        pixels = np.random.RandomState(number).randint(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
        images.append({"path": f"{number:02d}.png", "label": 0, "bytes": 1, "sha256": None})
    positions = {"train": [0], "calib": [0], "select": [1, 3], "val": list(range(20, -1, -1))}
    write_json(tmp_path / "index.json", {"classes": ["c"], "root": ".", "images": images, "splits": positions})
    return tmp_path / "index.json"


def decode(listing, split="val", workers=3, **environment):
    line = [sys.executable, str(ROOT / "workflow_scripts" / "decode_split.py"), "--index", str(listing)]
    line += ["--geometry", json.dumps(GEOMETRY), "--split", split, "--workers", str(workers)]
    line += ["--images", str(listing.parent / "out" / f"{split}.u8")]
    environment = dict({k: v for k, v in os.environ.items() if k != "LEVIT_STORE"}, **environment)
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60)
    return done.returncode, done.stderr


def test_images_stand_in_the_splits_order_whatever_the_workers(listing):
    assert decode(listing)[0] == 0
    path = listing.parent / "out" / "val.u8"
    images = cache.read(path, 21)
    assert isinstance(images, np.memmap) and images.shape == (21, 32, 32, 3) and images.dtype == np.uint8
    for row, number in enumerate(range(20, -1, -1)):
        whole = preprocess.prepare(preprocess.load(listing.parent / f"{number:02d}.png"), GEOMETRY)
        assert np.array_equal(images[row], whole)
    first = path.read_bytes()
    assert decode(listing, workers=1)[0] == 0 and path.read_bytes() == first


def test_a_split_smaller_than_the_workers_is_written(listing):
    assert decode(listing, split="select")[0] == 0
    assert cache.read(listing.parent / "out" / "select.u8").shape == (2, 32, 32, 3)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_an_image_that_cannot_be_read_is_named_and_nothing_half_done_has_the_name(listing, damage):
    image = listing.parent / "07.png"
    content = image.read_bytes()
    image.unlink()
    if damage == "cut":
        image.write_bytes(content[: len(content) // 2])
    code, text = decode(listing)
    said = "07.png cannot be read (" if damage == "cut" else "07.png is in the index but not there"
    assert code == 1 and said in text and text.count("error:") == 1 and "Traceback" not in text
    assert not (listing.parent / "out" / "val.u8").exists()


def test_equal_inputs_come_from_the_store_without_the_images(listing, tmp_path):
    store = str(tmp_path / "store")
    assert decode(listing, LEVIT_STORE=store)[0] == 0
    path = listing.parent / "out" / "val.u8"
    first = path.read_bytes()
    path.unlink()
    (listing.parent / "07.png").unlink()
    code, text = decode(listing, LEVIT_STORE=store)
    assert code == 0 and "from the store" in text and path.read_bytes() == first


def test_a_decoding_process_that_dies_is_an_error(listing, monkeypatch):
    monkeypatch.setattr(preprocess, "decoded", lambda content, name: os._exit(9))
    with pytest.raises(UserError, match=r"a decoding process died \(status 9\): use fewer --workers"):
        cache.write(listing.parent / "x.u8", [str(listing)] * 20, GEOMETRY, 2)


def test_no_memory_is_an_error_that_names_the_image(listing, monkeypatch):
    def exhausted(content, name):
        raise MemoryError

    monkeypatch.setattr(preprocess, "decoded", exhausted)
    with pytest.raises(UserError, match=r"no memory left at image .*index.json: use fewer --workers"):
        cache.write(listing.parent / "x.u8", [str(listing)] * 20, GEOMETRY, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a file of preprocessed images: delete it"),
        (b"\x93NUMPY\x01\x00", "is not a file of preprocessed images: delete it"),
        (np.zeros((2, 3), np.uint8), r"holds uint8 \[2, 3\], not uint8 \[N, size, size, 3\]: delete it"),
        (np.zeros((2, 4, 4, 3), np.float32), r"holds float32 \[2, 4, 4, 3\], not uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), "holds 2 images, its split 3: delete it"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, said):
    path = tmp_path / "x.u8"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with open(path, "wb") as stream:
            np.save(stream, content)
    with pytest.raises(UserError, match=said):
        cache.read(path, 3)


def test_a_file_cut_short_or_missing_is_refused(tmp_path):
    with open(tmp_path / "x.u8", "wb") as stream:
        np.save(stream, np.zeros((3, 8, 8, 3), np.uint8))
    os.truncate(tmp_path / "x.u8", 300)
    with pytest.raises(UserError, match="is not a file of preprocessed images"):
        cache.read(tmp_path / "x.u8", 3)
    with pytest.raises(UserError, match=r"none.u8 does not exist"):
        cache.read(tmp_path / "none.u8")
