"""Weights: strict loading, the original's names, refused pickles, reproducible bytes, and import_checkpoint.py."""

import argparse
import functools
import pathlib
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import yaml

import original_levit
from conftest import ROOT
from described import USUAL, model_file
from files import UserError, sha256_file
from model import checkpoint, formats, zoo

ROWS = {name: {**USUAL, **row} for name, row in yaml.safe_load((ROOT / "config.yaml").read_text())["models"].items()}
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


@functools.cache
def original_file(folder, name, classes, size):
    """Return the path of a file as the original program publishes it, and its state dict."""
    state = original_levit.state(name, classes, size)
    torch.save({"model": state}, folder / f"{name}.pth")
    return folder / f"{name}.pth", state


PARAMETERS = {"LeViT-128S": 7.8, "LeViT-128": 9.2, "LeViT-192": 10.9, "LeViT-256": 18.9, "LeViT-384": 39.1}  # millions


@pytest.mark.parametrize("name", [*PARAMETERS, "LeViT-tiny"])
def test_an_original_file_loads_strictly_and_means_the_same_network(name, tmp_path):
    row = ROWS[name]
    path, state = original_file(tmp_path, name, 1000, row["size"])
    weights = [value for key, value in state.items() if not key.endswith(("idxs", "mean", "var", "tracked"))]
    assert name not in PARAMETERS or abs(sum(map(torch.numel, weights)) / 1e6 - PARAMETERS[name]) < 0.06, "as published"
    loaded = checkpoint.load_into(zoo.create(row, 1000), path)
    images = torch.randn(2, 3, row["size"], row["size"], generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, got = original_levit.Original(state, name, row["size"])(images), loaded(images)
    assert expected.std() > 0.1 and (expected[0] - expected[1]).abs().max() > 0.02, "logits that tell images apart"
    assert (got - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(
    "key",
    ["blocks.0.m.qkv.c.weight", "blocks.0.m.attention_bias_idxs", "blocks.1.m.2.bn.running_var", "head_dist.l.bias"],
)
def test_an_original_file_with_one_key_changed_is_refused_by_the_keys_name(name, key, tmp_path):
    _, whole = original_file(tmp_path, name, 1000, 224)
    model = zoo.create(ROWS[name], 1000)
    missing = {other: value for other, value in whole.items() if other != key}
    changes = {
        f"1 missing ({key})": missing,
        f"1 missing ({key}); 1 unexpected (renamed.{key})": {**missing, f"renamed.{key}": whole[key]},
        f"1 of another shape or type ({key} [": {**whole, key: whole[key][:-1]},
    }
    for said, state in changes.items():
        torch.save({"model": state}, tmp_path / "changed.pth")
        with pytest.raises(UserError) as error:
            checkpoint.load_into(model, tmp_path / "changed.pth")
        assert said in str(error.value) and "changed.pth" in str(error.value)


def test_indices_of_another_order_are_refused(tmp_path):
    _, state = original_file(tmp_path, "LeViT-tiny", 10, 64)
    key = "blocks.2.attention_bias_idxs"
    torch.save({"model": {**state, key: state[key].flip(0)}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"1 with other indices \({key}\)"):
        checkpoint.load_into(zoo.create(TINY, 10), tmp_path / "w.pth")


def test_an_original_file_whose_indices_were_left_out_is_whole(tmp_path):
    _, state = original_file(tmp_path, "LeViT-tiny", 10, 64)
    safetensors.torch.save_file({k: v for k, v in state.items() if not k.endswith("idxs")}, tmp_path / "w.safetensors")
    checkpoint.load_into(zoo.create(TINY, 10), tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["LeViT-tiny", "LeViT-128S", "LeViT-384"])
def test_every_tensor_has_one_original_name(name):
    model = zoo.create(ROWS[name], 10)
    names = formats.original_names(model)
    assert sorted(names.values()) == sorted(model.state_dict())
    assert not set(names) & set(model.state_dict()) - {n for n in names if n.startswith("head") and ".bn." in n}


def shifted(state, by):
    return {name: value + by if value.is_floating_point() else value for name, value in state.items()}


def assert_loads(path, state):
    loaded = checkpoint.load_into(zoo.create(TINY, 10), path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


@pytest.mark.parametrize("wrapper", [None, *formats.WRAPPERS])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_and_prefixes_are_looked_through(model, tmp_path, wrapper, prefix):
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3, "args": argparse.Namespace(lr=1)} if wrapper else state, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", model.state_dict())


def test_the_average_goes_before_the_last_weights(model, tmp_path):
    """Whatever the order in the file: state_dict_ema, model_ema, model, state_dict; what is empty does not count."""
    states = {name: shifted(model.state_dict(), number) for number, name in enumerate(formats.WRAPPERS)}
    for first, name in enumerate(formats.WRAPPERS):
        there = {key: states[key] for key in reversed(formats.WRAPPERS[first:])}
        torch.save({**dict.fromkeys(states), **there}, tmp_path / "w.pth")
        assert_loads(tmp_path / "w.pth", states[name])


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_safetensors_are_known_by_their_content(model, tmp_path, suffix):
    safetensors.torch.save_file(model.state_dict(), tmp_path / f"w.{suffix}", metadata={"format": "pt"})
    assert_loads(tmp_path / f"w.{suffix}", model.state_dict())


def test_a_damaged_safetensors_file_is_refused(model, tmp_path):
    safetensors.torch.save_file(model.state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"w.safetensors is not a file of weights, or is a damaged one"):
        checkpoint.load_into(model, tmp_path / "w.safetensors")


CONV = dict(TINY, timm="levit_conv_128s")


@pytest.mark.parametrize(("saved", "loaded"), [(TINY, CONV), (CONV, TINY), (CONV, CONV)])
def test_linear_layers_and_convolutions_of_one_pixel_have_the_same_weights(saved, loaded, tmp_path):
    source = randomized(zoo.create(saved, 10))
    checkpoint.save(source.state_dict(), tmp_path / "w.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, got = source(images), checkpoint.load_into(zoo.create(loaded, 10), tmp_path / "w.pth")(images)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_an_original_file_fits_a_network_of_convolutions(tmp_path):
    path, state = original_file(tmp_path, "LeViT-tiny", 10, 64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = original_levit.Original(state, "LeViT-tiny", 64)(images)
        assert (checkpoint.load_into(zoo.create(CONV, 10), path)(images) - expected).abs().max() <= 1e-4


def test_new_heads_are_all_that_another_number_of_classes_changes(model, tmp_path):
    checkpoint.save(model.state_dict(), tmp_path / "w.pth")
    fresh = zoo.create(TINY, 3)
    drawn = {name: value.clone() for name, value in fresh.state_dict().items()}
    loaded = checkpoint.load_into(fresh, tmp_path / "w.pth", new_heads=True).state_dict()
    heads = [f"{head}.linear.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")]
    for name, value in loaded.items():
        assert torch.equal(value, drawn[name] if name in heads else model.state_dict()[name]), name
    with pytest.raises(UserError, match=r"head.linear.weight \[10, 64\] instead of \[3, 64\]"):
        checkpoint.load_into(fresh, tmp_path / "w.pth")
    del drawn["stem.conv1.bn.bias"]
    torch.save(drawn, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"1 missing \(stem.conv1.bn.bias\)"):
        checkpoint.load_into(zoo.create(TINY, 10), tmp_path / "w.pth", new_heads=True)


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


@pytest.mark.parametrize("content", [Evil(), {"model": {}, "args": pathlib.PurePosixPath("x")}, zoo.create(TINY, 2)])
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
    line += ["--model", model_file(target.parent, TINY), "--classes", str(classes), "--checkpoint", str(target)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_import_copies_what_fits(model, tmp_path):
    torch.save({"model": original_levit.state("LeViT-tiny", 10, 64)}, tmp_path / "mine.pth")
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
