"""train.py on a small network and pictures it can tell apart, and the parts it is made of."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import types

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import forks
from conftest import ROOT
from core.files import UserError, sha256_file, write_json
from data import augment, index, indexing, integrity, preprocess
from described import USUAL, model_file
from model import checkpoint, context, parallel, training, zoo

ROW = {**USUAL, **yaml.safe_load((ROOT / "config.yaml").read_text())["models"]["LeViT-tiny"]}
RECIPE = {
    "epochs": 4, "small_epochs": 2, "small_size": 0.6, "batch": 8, "learning_rate": 0.003, "betas": [0.9, 0.99],
    "weight_decay": 0.025, "smoothing": 0.1, "warmup": 0.1, "clip": 1.0, "crop_scale": [0.8, 1.0],
    "crop_ratio": [0.9, 1.1], "flip": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Write pictures of standing and of lying stripes; return their index's path."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.RandomState(0)
    for label, name in enumerate(("lying", "standing")):
        (root / name).mkdir()
        for number in range(60):
            line = np.repeat(np.tile([0, 255], 8), rng.randint(2, 5))
            square = np.tile(line, (len(line), 1)) if label else np.tile(line[:, None], (1, len(line)))
            noisy = np.clip(square + rng.randint(-60, 60, square.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(root / name / f"{number}.png")
    row = {"classes": 2, "splits": {"calib": 8, "select": 20, "val": 20}}
    listing, lines = indexing.build(str(root), row, 0, hash_all=True)
    (root / "train.tsv").write_bytes(lines)
    write_json(root / "index.json", dict(listing, root="."))
    return root / "index.json"


def command_of(listing, target, seed=0, classes=2, options=(), **recipe):
    """Return the command line and the environment of a training; recipe: keys of RECIPE that are others."""
    line = [forks.python_with_torch(), str(ROOT / "workflow_scripts" / "train.py"), "--index", str(listing)]
    line += ["--model", model_file(target.parent, ROW), "--classes", str(classes)]
    line += ["--training", json.dumps(dict(RECIPE, **recipe))]
    line += ["--seed", str(seed), "--checkpoint", str(target), "--threads", "1", "--device", "cpu", *options]
    return line, {name: value for name, value in os.environ.items() if name != "LEVIT_STORE"}


def train(*args, **options):
    line, environment = command_of(*args, **options)
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=100)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def trained(stripes):
    code, text = train(stripes, stripes.parent / "first.pth")
    assert code == 0, text
    return stripes.parent / "first.pth", text


def top1(path, listing, split):
    model, known = checkpoint.load_into(zoo.create(ROW, 2), path), index.read(listing)
    images = np.stack([preprocess.prepare(preprocess.load(f), ROW) for f in index.files(known, listing, split)])
    with torch.no_grad():
        logits = model(torch.from_numpy(preprocess.normalize(images, ROW["mean"], ROW["std"])))
    return float((logits.argmax(1).numpy() == index.labels(known, split)).mean())


def test_it_learns_what_it_is_shown(trained, stripes):
    path, text = trained
    assert top1(path, stripes, "val") >= 0.9
    assert "trained on 80 images" in text


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(trained, stripes, tmp_path):
    assert train(stripes, tmp_path / "again.pth")[0] == 0
    assert (tmp_path / "again.pth").read_bytes() == trained[0].read_bytes()
    assert train(stripes, tmp_path / "other.pth", seed=1, epochs=1)[0] == 0
    assert train(stripes, tmp_path / "first.pth", seed=0, epochs=1)[0] == 0
    assert (tmp_path / "other.pth").read_bytes() != (tmp_path / "first.pth").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": 3}, "--classes 3: "),
        ({"batch": 81}, "training.batch 81 is more than the 80 training images"),
        ({"learning_rate": 1e30, "epochs": 2}, "training diverged in epoch"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(stripes, tmp_path, change, said):
    code, text = train(stripes, tmp_path / "x.pth", **change)
    assert code == 1 and said in text and text.count("error:") == 1 and "Traceback" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"], "the input alone"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(stripes, tmp_path):
    code, text = train(stripes, tmp_path / "x.pth", options=["--device", "cuda"])
    assert code == 1 and "--device cuda: torch" in text and "use cpu or auto" in text


def test_an_unreadable_training_image_is_named(stripes, tmp_path):
    listing, lines = index.read(stripes), (stripes.parent / "train.tsv").read_bytes().split(b"\n")
    (tmp_path / "bad.png").write_bytes(b"no image")
    where = os.path.relpath(tmp_path / "bad.png", stripes.parent).encode()
    stamp = f"sha256:{sha256_file(tmp_path / 'bad.png')}".encode()
    lines[3] = b"\t".join([*lines[3].split(b"\t")[:2], stamp, where])
    (stripes.parent / "bad.tsv").write_bytes(b"\n".join(lines))
    listing["train"].update(file="bad.tsv", sha256=sha256_file(stripes.parent / "bad.tsv"))
    write_json(stripes.parent / "bad.json", listing)
    code, text = train(stripes.parent / "bad.json", tmp_path / "x.pth")
    assert code == 1 and "bad.png cannot be read (" in text and not (tmp_path / "x.pth").exists()


def changed(image):
    """Let an image file hold its negative, of as many bytes and of the same time; return what undoes it."""
    before, state = image.read_bytes(), os.stat(image)
    pixels = 255 - np.asarray(Image.open(image))
    Image.fromarray(pixels).save(image)
    image.write_bytes(image.read_bytes().ljust(len(before), b"\0")[: len(before)])
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    return lambda: (image.write_bytes(before), os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns)))


def test_images_that_changed_since_they_were_indexed_train_nothing_and_reach_no_store(stripes, tmp_path, monkeypatch):
    """Neither in this training nor, once they are restored, from the store."""
    monkeypatch.setenv("LEVIT_STORE", str(tmp_path / "store"))
    line, environment = command_of(stripes, tmp_path / "x.pth", epochs=1)
    environment["LEVIT_STORE"] = str(tmp_path / "store")
    image = index.files(index.read(stripes), stripes, "train")[5]
    restore = changed(stripes.parent / os.path.relpath(image, stripes.parent))
    try:
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=100)
    finally:
        restore()
    assert done.returncode == 1 and f"{image} has changed since it was indexed: delete the index" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "x.pth").exists()
    assert not list((tmp_path / "store").rglob("entry.json"))
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0 and "from the store" not in done.stderr


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_changed_image_is_named_whoever_loads_it(stripes, monkeypatch, in_memory):
    monkeypatch.setattr(augment, "IN_MEMORY", 1 << 30 if in_memory else 0)
    images = augment.TrainImages(index.read(stripes), stripes, ROW, RECIPE, 0)
    restore = changed(stripes.parent / os.path.relpath(images.files[7], stripes.parent))
    try:
        with pytest.raises(UserError) as raised:
            list(training.batches(images, augment.shares([6, 7, 8], 3, 0, 64), ROW, torch.device("cpu")))
    finally:
        restore()
    assert str(raised.value) == (
        f"image {images.files[7]} has changed since it was indexed: delete the index and run again"
    )


def test_an_image_that_changes_between_two_epochs_is_named(stripes, monkeypatch):
    """What was hashed in the first epoch is not hashed again, unless its file has changed since."""
    images = augment.TrainImages(index.read(stripes), stripes, ROW, RECIPE, 0)
    monkeypatch.setattr(integrity, "SETTLED", -1)
    images.reader.read(9)
    monkeypatch.setattr(integrity, "_check", lambda *image: pytest.fail("it was hashed again"))
    images.reader.read(9)
    monkeypatch.undo()
    restore = changed(stripes.parent / os.path.relpath(images.files[9], stripes.parent))
    try:
        with pytest.raises(UserError, match="has changed since it was indexed"):
            images.reader.read(9)
    finally:
        restore()
    assert images.reader.read(9)


def test_images_of_a_large_set_are_held_to_their_time(tmp_path, monkeypatch):
    """Too many to hash them when they are indexed: a file that was written since is refused all the same."""
    monkeypatch.setattr(indexing, "HASHED", 0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("L", (8, 8), number).save(tmp_path / name / f"{number}.png")
    listing, lines = indexing.build(
        str(tmp_path), {"classes": 2, "splits": {"calib": 2, "select": 2, "val": 2}}, 0, False
    )
    (tmp_path / "train.tsv").write_bytes(lines)
    listing["folder"] = str(tmp_path)
    images = augment.TrainImages(listing, tmp_path / "index.json", ROW, None, 0)
    timed = [position for position, stamp in enumerate(images.reader.stamps) if stamp.startswith("changed:")]
    assert len(timed) == len(images) - 2 and images[augment.Draw(timed[0], 0, 64)][0].shape == (64, 64, 3)
    images._decoded[timed[0]] = None
    os.utime(images.files[timed[0]], ns=(5, 5))
    with pytest.raises(UserError, match="has changed since it was indexed"):
        images[augment.Draw(timed[0], 0, 64)]


@pytest.mark.filterwarnings("error")  # what Pillow lends may not be written to, which torch warns of
@pytest.mark.parametrize(("in_memory", "workers"), [(True, 2), (False, 0), (False, 1), (False, 2)])
def test_training_images_do_not_depend_on_who_reads_them(stripes, monkeypatch, in_memory, workers):
    listing = index.read(stripes)

    def batches(workers):
        images = augment.TrainImages(listing, stripes, ROW, RECIPE, 0)
        orders = [augment.order(len(images), 0, epoch)[:24] for epoch in (2, 3)]
        draws = [share for order, size in zip(orders, (48, 64)) for share in augment.shares(order, 8, 2, size)]
        return images.in_memory, list(training.batches(images, draws, ROW, torch.device("cpu"), workers))

    kept, first = batches(0)
    monkeypatch.setattr(augment, "IN_MEMORY", 1 << 30 if in_memory else 0)
    read, second = batches(workers)
    assert kept and read == in_memory and [len(a) for a, _ in first] == [8] * 6
    for (a, x), (b, y) in zip(first, second, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
    assert first[0][0].shape == (8, 3, 48, 48) and first[5][0].shape == (8, 3, 64, 64)


def test_processes_share_every_batch_without_repeats_or_loss():
    order = augment.order(48, 0, 1)
    parts = [list(augment.shares(order, 12, 1, 64, rank, 3)) for rank in range(3)]
    for number, shares in enumerate(zip(*parts, strict=True)):
        assert [draw.position for share in shares for draw in share] == order[12 * number : 12 * number + 12]
        assert [len(share) for share in shares] == [4, 4, 4]


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path):
    """Nearly as exactly: at most a few levels of 255."""
    rng = np.random.RandomState(0)
    blocks = Image.fromarray(rng.randint(0, 255, (20, 30, 3), dtype=np.uint8)).resize((2003, 1501), Image.BICUBIC)
    blocks.save(tmp_path / "photo.jpg", quality=92)
    data, sizes = (tmp_path / "photo.jpg").read_bytes(), []
    for seed in range(4):
        crop, whole = (augment.Crop(random.Random(seed), ROW, dict(RECIPE, crop_scale=[0.2, 1.0])) for _ in "ab")
        image = preprocess.opened(data, "photo.jpg", crop.enough)
        error = np.abs(crop.of(image).astype(int) - whole.of(preprocess.opened(data, "photo.jpg")))
        assert error.max() <= 8 and error.mean() < 1
        sizes.append(image.size)
    assert set(sizes) == {(501, 376), (251, 188)}, "a quarter, or an eighth where the crop is large"


def test_a_killed_loading_process_is_said(stripes, monkeypatch):
    """It is a fork also where other processes are spawned, as those of a training are."""
    spawning = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", spawning)
    monkeypatch.setattr(augment, "IN_MEMORY", 0)
    images = augment.TrainImages(index.read(stripes), stripes, ROW, RECIPE, 0)
    monkeypatch.setattr(images.reader, "read", lambda position: os.kill(os.getpid(), signal.SIGKILL))
    said = "a process that loads images was killed, perhaps because memory or /dev/shm is full"
    with pytest.raises(UserError, match=said), parallel.group(torch.device("cpu"), 1):
        list(training.batches(images, augment.shares([6, 7, 8], 3, 0, 64), ROW, torch.device("cpu"), 1))


def test_random_boxes_stay_inside_and_in_range():
    rng = random.Random(0)
    for _ in range(300):
        left, top, right, bottom = augment.random_box(rng, 50, 40, [0.3, 0.9], [0.8, 1.25])
        assert 0 <= left < right <= 50 and 0 <= top < bottom <= 40
        assert 0.25 <= (right - left) * (bottom - top) / 2000 <= 0.9001
    assert augment.random_box(rng, 8, 8, [1.0, 1.0], [1.0, 1.0]) == (0, 0, 8, 8)


def test_the_mirror_mirrors():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    geometry = {"size": 8, "interpolation": "bicubic"}
    recipe = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip": 1.0}
    mirrored = augment.Crop(random.Random(0), geometry, recipe).of(image)
    plain = augment.Crop(random.Random(0), geometry, dict(recipe, flip=0.0)).of(image)
    assert np.array_equal(mirrored, plain[:, ::-1]) and not np.array_equal(mirrored, plain)


def test_the_rate_rises_then_falls_to_zero():
    course = [training.rate_at(step, 100, 0.1) for step in range(101)]
    assert course[0] == pytest.approx(0.1) and max(course) == course[9] == 1.0
    assert course[9:] == sorted(course[9:], reverse=True) and course[100] == pytest.approx(0, abs=1e-9)
    assert [training.rate_at(step, 100, 0.1, "linear") for step in (9, 10, 55, 100)] == [1, 1, 0.5, 0]


def test_only_matrices_and_kernels_decay():
    model = zoo.create(ROW, 2)
    decaying, plain = training.parameter_groups(model, 0.5)
    assert decaying["weight_decay"] == 0.5 and plain["weight_decay"] == 0
    names = {id(value): name for name, value in model.named_parameters()}
    assert all(names[id(value)].endswith("linear.weight") for value in decaying["params"])
    assert len(decaying["params"]) + len(plain["params"]) == len(names)


def test_a_smaller_size_uses_a_corner_of_the_biases():
    model, made = zoo.create(ROW, 2), zoo.create(dict(ROW, size=32), 2)
    whole = {name: value.clone() for name, value in model.named_buffers()}
    for name, value in made.state_dict().items():
        if name.endswith("attention_biases"):  # of a 2x2 grid, cut out of the table of a 4x4 one, and so on
            table = model.state_dict()[name].normal_()
            side, small = int(table.shape[1] ** 0.5), int(value.shape[1] ** 0.5)
            value.copy_(table.view(-1, side, side)[:, :small, :small].flatten(1))
        else:
            value.copy_(model.state_dict()[name])
    image = torch.randn(2, 3, 32, 32)
    training.set_size(model, 32)
    with torch.no_grad():
        assert torch.allclose(model(image), made.eval()(image), atol=1e-5)
    training.set_size(model, 64)
    assert all(torch.equal(value, whole[name]) for name, value in model.named_buffers())


def test_batchnorm_is_recalibrated_as_the_average_of_all_batches():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.2))
    batches = [torch.randn(16, 4) * 3 + 1 for _ in range(5)]
    training.recalibrate_batchnorm(model, iter(batches))
    with torch.no_grad():
        outputs = [model[0](batch) for batch in batches]
    assert torch.allclose(model[1].running_mean, torch.stack([o.mean(0) for o in outputs]).mean(0), atol=1e-5)
    assert torch.allclose(model[1].running_var, torch.stack([o.var(0) for o in outputs]).mean(0), atol=1e-5)
    assert model[1].momentum == 0.2 and not model.training


def test_bfloat16_is_used_only_where_the_processor_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for found, kind in [(["avx512_bf16"], torch.bfloat16), (["amx_bf16"], torch.bfloat16), (["avx2"], None)]:
        monkeypatch.setattr(context, "instructions", lambda found=found: found)
        assert context.product_type(cpu) is kind
        args = types.SimpleNamespace(device="cpu", threads=0, processes=0)
        assert context.of_training(args, RECIPE)["dtype"] == str(kind or torch.float32).rpartition(".")[2]
        assert context.of_training(args, {**RECIPE, "compute": "fp16"})["dtype"] == "float16"


def test_what_is_asked_of_the_processor_is_what_torch_finds():
    able = torch.cpu.get_capabilities()
    for name in context.BFLOAT16:
        assert bool(able.get(name)) == (name in context.instructions())
