"""Images that a GPU decodes, on a CPU: crops, filters and labels equal those of loading processes."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import RECIPE, ROW, stripes  # noqa: F401 (stripes is a fixture)

from core.files import UserError
from data import augment, index, preprocess
from model import gpu_decoder, training

DEVICE = torch.device("cpu")


@pytest.fixture
def decoder(monkeypatch):
    """Have Pillow decode in place of nvJPEG; return how many JPEGs each call had."""
    calls = []

    def decode_jpeg(files, mode, device):
        calls.append(len(files))
        images = (preprocess.opened(bytes(file.numpy()), "x").convert("RGB") for file in files)
        return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]

    monkeypatch.setattr("torchvision.io.decode_jpeg", decode_jpeg)
    return calls


@pytest.fixture
def images(stripes, tmp_path, monkeypatch):  # noqa: F811
    """Return the stripes as training images of which three are large photos, one of them with CMYK."""
    found = augment.TrainImages(index.read(stripes), stripes, ROW, {**RECIPE, "flip": 0.5, "decoder": "gpu"}, 0)
    found.files, rng = list(found.files), np.random.RandomState(0)
    monkeypatch.setattr(gpu_decoder, "SHARE", (1, 2))
    for number, (size, mode) in enumerate((((300, 200), "RGB"), ((150, 260), "L"), ((90, 70), "CMYK"))):
        blocks = rng.randint(0, 255, (9, 9, 3), dtype=np.uint8)
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(blocks).resize(size, Image.BICUBIC).convert(mode).save(path, quality=90)
        found.files[2 * number] = str(path)  # odd ones are the share of the processors
    contents = [preprocess.content(file) for file in found.files]
    found.reader.read = contents.__getitem__
    return found


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("largest", [gpu_decoder.LARGEST, 1], ids=["at once", "one by one"])
def test_crops_and_mirrors_are_those_of_the_processes(images, decoder, monkeypatch, interpolation, largest):
    monkeypatch.setattr(gpu_decoder, "LARGEST", largest)
    images.geometry = {**images.geometry, "interpolation": interpolation}
    draws = [augment.Draw(position, epoch, 32) for position in range(5) for epoch in range(3)]
    batch = gpu_decoder.gathered([gpu_decoder.Files(images)[draw] for draw in draws])
    found = gpu_decoder.made(batch, interpolation, DEVICE)
    wanted, labels = training.stacked([images[draw] for draw in draws])
    error = (found.float() - wanted.float()).abs()
    assert error.mean() < 0.4 and error.max() <= 8 and batch.labels.tolist() == labels.tolist()
    assert decoder == [6], "two of the files, in three epochs; processes decode CMYK"
    assert batch.mirrored.any() and not batch.mirrored.all()


@pytest.fixture
def loaded(images, decoder, monkeypatch):
    """Return a function that returns the training's batches of three epochs, as if this were a GPU."""
    monkeypatch.setattr(gpu_decoder, "check", lambda device: None)
    draws = [[augment.Draw(position, epoch, 32) for position in range(5)] for epoch in (0, 1, augment.CLEAN)]
    return lambda workers=0: training.batches(images, draws, ROW, DEVICE, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_thread_decodes_ahead_in_the_order_of_the_draws(loaded, images, decoder, workers):
    found = list(loaded(workers))
    assert len(found) == 3 and decoder == [2, 2], "the processors alone make images for evaluation"
    for epoch, (inputs, labels) in zip((0, 1, augment.CLEAN), found):
        pixels, kinds = training.stacked([images[augment.Draw(position, epoch, 32)] for position in range(5)])
        wanted = training.to_input(pixels, ROW["mean"], ROW["std"], DEVICE)
        assert (inputs - wanted).abs().mean() < 0.01 and torch.equal(labels, kinds)


def test_the_thread_ends_with_the_training_and_passes_its_error_on(loaded, monkeypatch):
    batches = loaded()
    next(batches)
    assert any("ThreadPool" in thread.name for thread in threading.enumerate())
    batches.close()
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())

    def broken(files, mode, device):
        raise RuntimeError("nvjpegDecode failed: 5")

    monkeypatch.setattr("torchvision.io.decode_jpeg", broken)
    with pytest.raises(UserError, match="gpu of a training: nvjpegDecode failed: 5: leave it out$"):
        next(loaded())


def test_the_share_of_a_gpu_is_so_many_of_so_many(images, monkeypatch):
    monkeypatch.setattr(gpu_decoder, "_sides", lambda data: (90, 70))
    for share, places in (((1, 2), [0, 2, 4]), ((3, 4), [0, 1, 2, 4]), ((1, 1), [0, 1, 2, 3, 4])):
        monkeypatch.setattr(gpu_decoder, "SHARE", share)
        items = [gpu_decoder.Files(images)[augment.Draw(position, 0, 32)] for position in range(5)]
        assert [place for place, item in enumerate(items) if item.data.ndim == 1] == places


def test_evaluation_is_of_the_processes_alone(images):
    draw = augment.Draw(0, augment.CLEAN, 32)
    pixels, label = training.gathered([gpu_decoder.Files(images)[draw]])
    assert torch.equal(pixels[0], torch.from_numpy(preprocess.pixels(images.reader.read(0), "0", {**ROW, "size": 32})))
    assert int(label) == images.labels[0]


def test_what_no_gpu_decodes_is_said(images, monkeypatch):
    with pytest.raises(UserError, match="decoder: gpu of a training: it is on cpu: leave it out, or train on a GPU"):
        gpu_decoder.check(DEVICE)
    images.reader.read = lambda position: b"no image"
    with pytest.raises(UserError, match=r"0.jpg cannot be read .*: replace or remove it"):
        gpu_decoder.Files(images)[augment.Draw(0, 0, 32)]

    def broken(files, mode, device):
        raise RuntimeError("nvjpegDecode failed: 5\nCallstack")

    monkeypatch.setattr("torchvision.io.decode_jpeg", broken)
    with pytest.raises(UserError, match="gpu of a training: nvjpegDecode failed: 5: leave it out$"):
        gpu_decoder.decoded([torch.zeros(9, dtype=torch.uint8)], DEVICE)
