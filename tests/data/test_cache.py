"""decode_split.py and the file it writes: order, processes, damaged images, the store."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import forks
from conftest import ROOT
from core.files import UserError, sha256_file, write_json
from data import cache, index, preprocess, row_file
from described import model_file

GEOMETRY = {"size": 32, "crop": 0.9, "crop_mode": "center", "interpolation": "bilinear"}


@pytest.fixture
def listing(tmp_path):
    """Write 21 images and an index of them whose val goes backwards; return the index's path."""
    images = []
    for number in range(21):
        pixels = np.random.RandomState(number).randint(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
        digest = sha256_file(tmp_path / f"{number:02d}.png")
        images.append({"path": f"{number:02d}.png", "label": 0, "bytes": 1, "sha256": digest})
    positions = {"calib": [0], "select": [1, 3], "val": list(range(20, -1, -1))}
    write_json(tmp_path / "index.json", {"classes": ["c"], "root": ".", "images": images, "splits": positions})
    return tmp_path / "index.json"


def arguments(listing, split, workers, geometry=GEOMETRY, shard=None):
    line = ["--index", str(listing), "--model", model_file(listing.parent, geometry)]
    line += ["--split", split, "--workers", str(workers), *(["--shard", shard] if shard else [])]
    name = f"{split}.{shard.replace('/', '-of-')}.u8" if shard else f"{split}.u8"
    return [*line, "--images", str(listing.parent / "out" / name)]


def decode(listing, split="val", workers=3, geometry=GEOMETRY, shard=None, **environment):
    script = str(ROOT / "workflow_scripts" / "decode_split.py")
    line = [forks.python_without_torch(), script, *arguments(listing, split, workers, geometry, shard)]
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
        table = index.read(listing)
        table["images"][7]["sha256"] = sha256_file(image)
        write_json(listing, table)
    code, text = decode(listing)
    said = "07.png cannot be read (" if damage == "cut" else "07.png is in the index but does not exist"
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
    monkeypatch.setattr(preprocess, "pixels", lambda *image: os._exit(9))
    with pytest.raises(UserError, match=r"decode x.u8: a process was killed, perhaps because memory ran out"):
        cache.write(listing.parent / "x.u8", [str(listing)] * 20, GEOMETRY, 2)


def test_no_memory_is_an_error_that_names_the_image(listing, monkeypatch):
    def exhausted(*image):
        raise MemoryError

    monkeypatch.setattr(preprocess, "pixels", exhausted)
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


def test_a_killed_run_goes_on_where_it_was(listing):
    """Rows that are there are kept, one that never reached the disk is made again: the bytes are those of any run."""
    assert decode(listing)[0] == 0
    path = listing.parent / "out" / "val.u8"
    whole = path.read_bytes()
    path.unlink()
    process = started(listing, slow=True)
    while done_rows(path) < 6:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = done_rows(path)
    assert not path.exists() and 6 <= before < 21
    _zero_a_row(path)
    code, text = decode(listing)
    assert code == 0 and f"{21 - before + 1} of 21 images in" in text, text
    assert path.read_bytes() == whole
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["val.u8", "val.u8.provenance"]


def test_shards_join_to_the_bytes_of_one_job(listing):
    assert decode(listing)[0] == 0
    folder = listing.parent / "out"
    shards = [folder / f"val.{number}-of-4.u8" for number in range(1, 5)]
    for number in range(1, 5):
        code, text = decode(listing, shard=f"{number}/4")
        assert code == 0 and f"{5 + (number == 4)} of {5 + (number == 4)} images in" in text, text
    cache.join(folder / "joined.u8", shards, 21)
    assert (folder / "joined.u8").read_bytes() == (folder / "val.u8").read_bytes()
    with pytest.raises(UserError, match=r"1-of-4.u8 \[5, 32, 32, 3\], .* are not the shards of a split of 21 images"):
        cache.join(folder / "joined.u8", shards[:3], 21)


def test_more_shards_than_images_are_refused(listing):
    code, text = decode(listing, split="select", shard="3/3")
    assert code == 1 and "select has 2 images, fewer than `shards` of the dataset (3): lower it" in text
    code, text = decode(listing, shard="4/3")
    assert code == 2 and "argument --shard: invalid" in text


def test_what_is_left_of_other_images_or_of_another_crop_is_not_used(listing):
    path = listing.parent / "out" / "val.u8"
    kill_midway(listing, path)
    table = index.read(listing)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(listing.parent / "20.png")
    table["images"][20]["sha256"] = sha256_file(listing.parent / "20.png")
    write_json(listing, table)
    before = done_rows(path)
    code, text = decode(listing)
    assert code == 0 and f"{21 - before + 1} of 21 images" in text
    assert np.array_equal(cache.read(path)[0], np.broadcast_to(np.uint8([1, 2, 3]), (32, 32, 3)))
    path.unlink()
    kill_midway(listing, path)
    code, text = decode(listing, geometry=dict(GEOMETRY, crop=0.5))
    assert code == 0 and "21 of 21 images" in text


def started(listing, slow):
    """Start a decoding of val in a process group of its own, `slow` with a pause before each image."""
    program = (
        "import sys, time; sys.path.insert(0, 'workflow_scripts'); import decode_split; from data import preprocess\n"
    )
    program += (
        "of = preprocess.content; preprocess.content = lambda image: (time.sleep(0.1), of(image))[1]\n" if slow else ""
    )
    program += "decode_split.command().run(decode_split.run)"
    line = [sys.executable, "-c", program, *arguments(listing, "val", 2)]
    return subprocess.Popen(line, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)


def done_rows(path):
    state = path.with_name(f"{path.name}.done")
    return int(np.fromfile(state, row_file.STATE)["done"].sum()) if state.exists() else 0


def kill_midway(listing, path):
    process = started(listing, slow=True)
    while done_rows(path) < 6:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _zero_a_row(path):
    """Undo the first row that is done, as a machine that went down might."""
    position = int(np.flatnonzero(np.fromfile(f"{path}.done", row_file.STATE)["done"])[0])
    filled = np.load(f"{path}.rows", mmap_mode="r+")
    filled[position] = 0
    filled.flush()


def test_all_images_that_cannot_be_read_are_told_at_once(listing):
    for name in ("03.png", "12.png"):
        (listing.parent / name).write_bytes(b"no image")
    code, text = decode(listing)
    assert code == 1 and "03.png has changed since it was indexed" in text and "(and 1 others)" in text
    assert "12.png has changed" in text and done_rows(listing.parent / "out" / "val.u8") == 19


def test_batches_of_a_memory_map_do_not_stay_in_memory(tmp_path, monkeypatch):
    images = np.lib.format.open_memmap(tmp_path / "x.u8", mode="w+", dtype=np.uint8, shape=(64, 224, 224, 3))
    images[:] = np.arange(64, dtype=np.uint8)[:, None, None, None]
    images.flush()
    del images
    monkeypatch.setattr(cache, "RELEASE", 1 << 20)
    mapped = cache.read(tmp_path / "x.u8")
    for start, batch in cache.batches(mapped, 5):
        assert (batch == np.arange(start, start + len(batch))[:, None, None, None]).all()
        assert resident(tmp_path / "x.u8") < 3 << 20
    assert start == 60 and len(batch) == 4


def resident(path):
    """Return how many bytes of a mapped file are in this process's memory."""
    text = Path("/proc/self/smaps").read_text()
    blocks = [block for block in text.split("VmFlags") if str(path) in block]
    return 1024 * sum(int(block.split("\nRss:")[1].split()[0]) for block in blocks)
