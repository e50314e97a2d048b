"""Weights: strict loading, the original's names, refused pickles, reproducible bytes, and import_checkpoint.py."""

import argparse
import itertools
import json
import subprocess
import sys

import pytest
import torch
import yaml
from torch.nn import functional

from conftest import ROOT
from files import UserError, sha256_file
from model import checkpoint, zoo

ROWS = yaml.safe_load((ROOT / "config.yaml").read_text())["models"]
TINY = ROWS["LeViT-tiny"]


@pytest.fixture(scope="module")
def model():
    """A tiny network none of whose tensors is what it starts as."""
    torch.manual_seed(0)
    return randomized(zoo.create(TINY, 10))


def randomized(model):
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                spread = torch.rand_like(value) if name.endswith("running_var") else torch.randn_like(value) * 0.2
                value.copy_(spread + (0.5 if value.ndim == 1 and name.endswith(("weight", "running_var")) else 0))
    return model.eval()


def original_state(model):
    """Return the model's weights as the original program saves them, the biases' indices among them."""
    to_original = {name: original for original, name in checkpoint.original_names(model).items()}
    state = {to_original[name]: value for name, value in model.state_dict().items()}
    state["blocks.0.m.attention_bias_idxs"] = torch.zeros(4, 4, dtype=torch.long)
    return state


class Original:
    """A LeViT's evaluation computed from a state dict with the original names alone."""

    def __init__(self, state, stages):
        self.state = state
        self.stages = stages  # [(key_dim, heads, blocks)]

    def norm(self, x, name, eps=1e-5):
        s, shape = self.state, (1, -1) + (1,) * (x.ndim - 2)
        scale = s[f"{name}.weight"] / (s[f"{name}.running_var"] + eps).sqrt()
        return (x - s[f"{name}.running_mean"].view(shape)) * scale.view(shape) + s[f"{name}.bias"].view(shape)

    def linear(self, x, name):
        y = x @ self.state[f"{name}.c.weight"].T
        return self.norm(y.flatten(0, 1), f"{name}.bn").view(y.shape)

    def attention(self, x, name, key_dim, heads, side, stride=1):
        batch, sub = len(x), x
        if stride == 1:
            q, k, v = self.split(self.linear(x, f"{name}.qkv"), heads, [key_dim, key_dim])
        else:
            sub = x.view(batch, side, side, -1)[:, ::stride, ::stride].flatten(1, 2)
            k, v = self.split(self.linear(x, f"{name}.kv"), heads, [key_dim])
            q = self.split(self.linear(sub, f"{name}.q.1"), heads, [])[0]
        offsets, rows = {}, []
        for a in itertools.product(range(0, side, stride), repeat=2):
            for b in itertools.product(range(side), repeat=2):
                rows.append(offsets.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(offsets)))
        bias = self.state[f"{name}.attention_biases"][:, torch.tensor(rows)].view(heads, sub.shape[1], x.shape[1])
        mixed = (q @ k.transpose(-2, -1) * key_dim**-0.5 + bias).softmax(-1) @ v
        return self.linear(functional.hardswish(mixed.transpose(1, 2).flatten(2)), f"{name}.proj.1")

    def split(self, x, heads, sizes):
        parts = x.view(*x.shape[:2], heads, -1)
        return [p.transpose(1, 2) for p in parts.split([*sizes, parts.shape[-1] - sum(sizes)], dim=3)]

    def mlp(self, x, name):
        return self.linear(functional.hardswish(self.linear(x, f"{name}.0")), f"{name}.2")

    def __call__(self, x):
        for layer in (0, 2, 4, 6):
            x = functional.conv2d(x, self.state[f"patch_embed.{layer}.c.weight"], stride=2, padding=1)
            x = self.norm(x, f"patch_embed.{layer}.bn")
            x = functional.hardswish(x) if layer < 6 else x
        side, x, number = x.shape[-1], x.flatten(2).transpose(1, 2), 0
        for stage, (key_dim, heads, blocks) in enumerate(self.stages):
            if stage:
                width = x.shape[-1] // key_dim
                x = self.attention(x, f"blocks.{number}", key_dim, width, side, stride=2)
                x = x + self.mlp(x, f"blocks.{number + 1}.m")
                side, number = (side + 1) // 2, number + 2
            for _ in range(blocks):
                x = x + self.attention(x, f"blocks.{number}.m", key_dim, heads, side)
                x = x + self.mlp(x, f"blocks.{number + 1}.m")
                number += 2
        x, s = x.mean(1), self.state
        heads = [self.norm(x, f"{n}.bn") @ s[f"{n}.l.weight"].T + s[f"{n}.l.bias"] for n in ("head", "head_dist")]
        return (heads[0] + heads[1]) / 2


@pytest.mark.parametrize(
    ("name", "stages"),
    [("LeViT-tiny", [(16, 2, 1), (16, 3, 1), (16, 4, 1)]), ("LeViT-128S", [(16, 4, 2), (16, 6, 3), (16, 8, 4)])],
)
def test_original_names_mean_the_same_network(name, stages, tmp_path):
    torch.manual_seed(1)
    row = ROWS[name]
    source = randomized(zoo.create(row, 10))
    torch.save({"model": original_state(source)}, tmp_path / "original.pth")
    loaded = checkpoint.load_into(zoo.create(row, 10), tmp_path / "original.pth")
    images = torch.randn(2, 3, row["size"], row["size"])
    with torch.no_grad():
        expected = Original(original_state(source), stages)(images)
        assert (loaded(images) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", ["LeViT-tiny", "LeViT-128S", "LeViT-384"])
def test_every_tensor_has_one_original_name(name):
    model = zoo.create(ROWS[name], 10)
    names = checkpoint.original_names(model)
    assert sorted(names.values()) == sorted(model.state_dict())
    assert not set(names) & set(model.state_dict()) - {n for n in names if n.startswith("head") and ".bn." in n}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_are_looked_through(model, tmp_path, wrap, prefix):
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pth")
    loaded = checkpoint.load_into(zoo.create(TINY, 10), tmp_path / "w.pth").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_equal_weights_give_equal_bytes(model, tmp_path):
    state = model.state_dict()
    checkpoint.save(state, tmp_path / "a.pth")
    views = {name: torch.stack([value, value])[1] for name, value in state.items()}
    checkpoint.save(views, tmp_path / "other.pth.partial")
    assert sha256_file(tmp_path / "a.pth") == sha256_file(tmp_path / "other.pth.partial")
    read = checkpoint.read(tmp_path / "a.pth")
    assert list(read) == list(state) and all(torch.equal(read[name], value) for name, value in state.items())


def changed(state, **changes):
    return {name: value for name, value in dict(state, **changes).items() if value is not None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head.bn.bias": None}, "1 missing (head.bn.bias)"),
        ({"extra.weight": torch.ones(1)}, "1 unexpected (extra.weight)"),
        ({"head.linear.bias": torch.ones(1000)}, "(head.linear.bias [1000] instead of [10])"),
        ({"head.linear.bias": torch.ones(10).long()}, "(head.linear.bias [10] of integers instead of [10])"),
        ({"head.linear.bias": torch.full((10,), float("nan"))}, "1 not finite (head.linear.bias)"),
    ],
)
def test_a_state_that_does_not_fit_is_listed_in_one_line(model, tmp_path, change, said):
    path = tmp_path / "w.pth"
    torch.save(changed(model.state_dict(), **change), path)
    fresh = zoo.create(TINY, 10)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(UserError) as error:
        checkpoint.load_into(fresh, path)
    assert said in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_a_long_list_is_cut(tmp_path):
    torch.save(zoo.create(ROWS["LeViT-128S"], 10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"150 unexpected \(.*, and 144 more\); 145 of another shape or type") as error:
        checkpoint.load_into(zoo.create(TINY, 10), tmp_path / "w.pth")
    assert len(str(error.value)) < 1500


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/never-made", "w"))


@pytest.mark.parametrize("content", [Evil(), {"model": {}, "args": argparse.Namespace(lr=1)}, zoo.create(TINY, 2)])
def test_a_pickle_that_is_more_than_weights_is_refused(model, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth is a pickle with more than weights.*torch.save\(model.state_dict"):
        checkpoint.load_into(model, tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, [1], torch.ones(2), {"model": {}}, {"a": 1}])
def test_a_file_without_a_state_dict_is_refused(model, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth holds no state dict"):
        checkpoint.load_into(model, tmp_path / "w.pth")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"<html>", lambda b: b[:5000], lambda b: b[:-100]])
def test_a_damaged_file_is_refused(model, tmp_path, damage):
    checkpoint.save(model.state_dict(), tmp_path / "whole.pth")
    (tmp_path / "w.pth").write_bytes(damage((tmp_path / "whole.pth").read_bytes()))
    with pytest.raises(UserError, match=r"w.pth is not a file of weights, or is a damaged one"):
        checkpoint.load_into(model, tmp_path / "w.pth")


def test_networks_come_in_evaluation_mode_and_average_their_heads(model):
    assert not zoo.create(TINY, 10).training
    with torch.no_grad():
        features = model.forward_head(model.forward_features(torch.ones(1, 3, 64, 64)), pre_logits=True)
        mean = (model.head(features) + model.head_dist(features)) / 2
        assert torch.allclose(model(torch.ones(1, 3, 64, 64)), mean)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timm": "levit_129s"}, "no network named 'levit_129s'; near: levit_128s"),
        ({"options": {"colour": 1}}, "cannot be made with.*colour"),
        ({"options": {"depth": [1]}}, "cannot be made with.*depth"),
    ],
)
def test_a_row_that_makes_no_network_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        zoo.create(dict(TINY, **change), 10)


def import_weights(source, target, classes=10):
    line = [sys.executable, str(ROOT / "workflow_scripts" / "import_checkpoint.py"), "--source", str(source)]
    line += ["--model", json.dumps(TINY), "--classes", str(classes), "--checkpoint", str(target)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_import_copies_what_fits(model, tmp_path):
    torch.save({"model": original_state(model)}, tmp_path / "mine.pth")
    code, text = import_weights(tmp_path / "mine.pth", tmp_path / "out.pth")
    assert code == 0, text
    assert (tmp_path / "out.pth").read_bytes() == (tmp_path / "mine.pth").read_bytes()


def test_import_refuses_what_does_not_and_leaves_nothing(model, tmp_path):
    checkpoint.save(model.state_dict(), tmp_path / "mine.pth")
    code, text = import_weights(tmp_path / "mine.pth", tmp_path / "out.pth", classes=12)
    assert code == 1 and "error: " in text and "head.linear.bias [10] instead of [12]" in text
    assert "Traceback" not in text and sorted(p.name for p in tmp_path.iterdir()) == ["mine.pth"]


def test_import_names_a_missing_file(tmp_path):
    code, text = import_weights(tmp_path / "none.pth", tmp_path / "out.pth")
    assert code == 1 and "none.pth: no such file" in text
