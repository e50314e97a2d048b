"""Models as timm knows them: a silent row is timm's record, what it says is followed, what is not served is refused."""

import json
import subprocess

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import forks
from conftest import ROOT
from core import resolved
from core.files import UserError, read_json
from data import preprocess
from model import checkpoint, input_size, pretrained_cfg, zoo

LEVIT = {"timm": "levit_128s", "options": {"embed_dim": [32, 48, 64], "num_heads": [2, 3, 4], "depth": [1, 1, 1]}}


def run(row, target):
    line = [
        forks.python_with_torch(),
        ROOT / "workflow_scripts/resolve.py",
        "--row",
        json.dumps(row),
        "--model",
        str(target),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stderr


def pictures():
    random = np.random.RandomState(0)
    return [Image.fromarray(random.randint(0, 256, (90 + 7 * i, 120, 3), np.uint8)) for i in range(3)]


@pytest.mark.parametrize("name", ["mobilevit_xxs", "vit_tiny_patch16_224", "levit_128s", "eva02_tiny_patch14_336"])
def test_a_silent_row_gives_timms_own_pipeline(name):
    """Case 3: normalization and logits equal timm's, of networks with four kinds of record."""
    row = pretrained_cfg.resolve({"timm": name})
    torch.manual_seed(1)
    network = zoo.create(row, 12)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config)
    theirs = torch.stack([transform(picture) for picture in pictures()])
    pixels = np.stack([preprocess.prepare(picture, row) for picture in pictures()])
    ours = torch.from_numpy(preprocess.normalize(pixels, row["mean"], row["std"]))
    level = 1.01 / 255 / min(row["std"])  # one uint8 level, as resizing rounds
    assert (ours - theirs).abs().max() <= level
    with torch.no_grad():
        expected, got = network(theirs), network(ours)
    assert (expected - got).abs().max() <= 0.02 * expected.std()
    assert (expected.argmax(1) == got.argmax(1)).all()


def test_mobilevits_images_are_not_imagenets():
    """Case 3: without mean and std in its row, mobilevit_xxs has mean 0 and std 1."""
    found = pretrained_cfg.resolve({"timm": "mobilevit_xxs", "size": 64})
    assert (found["mean"], found["std"], found["size"], found["crop"]) == ([0.0] * 3, [1.0] * 3, 64, 0.9)
    assert found["sources"]["mean"] == "timm" and found["sources"]["size"] == "config.yaml"
    assert found["contradicts"] == {"size": {"config": 64, "timm": 256}}


def test_a_row_is_followed_and_what_it_contradicts_is_said(tmp_path):
    status, said = run({"timm": "mobilevit_xxs", "size": 64, "mean": [0.5, 0.5, 0.5], "crop": 0.9}, tmp_path / "m.json")
    assert (
        status == 0
        and "warning: mean is [0.5, 0.5, 0.5] in config.yaml, which takes precedence, and [0.0, 0.0, 0.0]" in said
    )
    found = read_json(tmp_path / "m.json")
    assert found["mean"] == [0.5] * 3 and set(found["contradicts"]) == {"size", "mean"}
    assert resolved.read(str(tmp_path / "m.json"), resolved.NORMALIZATION) == {"mean": [0.5] * 3, "std": [1.0] * 3}


@pytest.mark.parametrize("name", ["levit_128s", "levit_128", "levit_192", "levit_256", "levit_384"])
def test_the_published_rows_need_say_nothing(name):
    found = pretrained_cfg.record(name)[0]
    assert (found["size"], found["crop"], found["crop_mode"], found["interpolation"]) == (224, 0.9, "center", "bicubic")
    assert (found["mean"], found["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


REFUSED = {
    "size of LeViT": ({**LEVIT, "size": 60}, "size: 60: timm's levit_128s takes no such images .*: 64 or .* fits"),
    "size of MaxViT": ({"timm": "maxvit_tiny_tf_224", "size": 100}, "size: 100: timm's maxvit_tiny_tf_224 takes no"),
    "not square": ({"timm": "vit_base_patch16_sapiens2"}, "1024x768 pixels, not square: set `size`"),
    "borders": ({"timm": "deepseek_vit_412m"}, "crop_mode border: set crop_mode: center"),
    "unknown name": ({"timm": "mobilevit_xxx"}, "no network named 'mobilevit_xxx'; near: mobilevit_xxs"),
    "no logits": ({"timm": "resnet18", "options": {"global_pool": ""}}, "gives no logits: "),
    "unknown option": ({"timm": "resnet18", "options": {"colour": 1}}, "gives no logits: .*colour"),
    "pruned": ({"timm": "resnet18", "options": {"pruned": True}}, "gives no logits: .*resnet18.txt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_served_is_refused_in_one_line(case):
    row, said = REFUSED[case]
    with pytest.raises(UserError, match=said) as problem:
        pretrained_cfg.resolve(row)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", sorted(resolved.REFUSED))
def test_options_that_would_be_followed_in_part_are_refused_by_name(name):
    with pytest.raises(UserError, match=f"options: {name}: remove it: ."):
        pretrained_cfg.resolve({"timm": "resnet18", "options": {name: 1}})


def test_a_size_that_does_not_fit_ends_the_command_and_leaves_nothing(tmp_path):
    status, said = run({**LEVIT, "size": 60}, tmp_path / "m.json")
    assert status == 1 and "Traceback" not in said and said.count("\n") == 1 and "size: 60" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timm_name, size", [("levit_128s", 64), ("vit_tiny_patch16_224", 224)])
def test_weights_of_another_size_are_told_by_the_size(tmp_path, timm_name, size):
    """Case 9."""
    row = {**LEVIT, "timm": timm_name} if timm_name == "levit_128s" else {"timm": timm_name}
    torch.save(zoo.create({**row, "size": size}, 10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=f"correct `size`: 96 px is not what the weights were trained at, {size} px fits"
    ):
        checkpoint.load_into(zoo.create({**row, "size": 96}, 10), str(tmp_path / "w.pth"))


def test_a_file_that_resolve_did_not_write_is_refused(tmp_path):
    (tmp_path / "m.json").write_text('{"size": 64}')
    with pytest.raises(UserError, match="has no mean: resolve.py did not write it"):
        resolved.read(str(tmp_path / "m.json"), resolved.NORMALIZATION)


def test_sizes_near_one_that_does_not_fit_are_the_nearest_that_do():
    with pytest.raises(UserError, match="64 or 48 fits|48 or 64 fits"):
        input_size.check({**LEVIT, "size": 57}, 224)
