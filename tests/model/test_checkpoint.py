"""Weights: strict loading, the original's names, refused pickles, reproducible bytes, and import_checkpoint.py."""

import argparse
import functools
import json
import re
import subprocess

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

import bad_checkpoints
import evaluate_torch
import forks
import original_levit
from conftest import ROOT
from core import provenance
from core.command import log
from core.files import UserError, sha256_file
from described import USUAL, model_file
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

SLOW_NETWORKS = [pytest.param(name, marks=pytest.mark.slow) for name in PARAMETERS if name != "LeViT-128S"]


@pytest.mark.parametrize("name", ["LeViT-tiny", "LeViT-128S", *SLOW_NETWORKS])
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


@functools.lru_cache(maxsize=1)
def original_state(name):
    return original_levit.state(name, 1000, 224)


@functools.lru_cache(maxsize=1)
def untouched(name):
    """Return a network that every file is refused for."""
    return zoo.create(ROWS[name], 1000)


@pytest.mark.parametrize(
    "key",
    ["blocks.0.m.qkv.c.weight", "blocks.0.m.attention_bias_idxs", "blocks.1.m.2.bn.running_var", "head_dist.l.bias"],
)
@pytest.mark.parametrize("name", ["LeViT-128S", *SLOW_NETWORKS])
def test_an_original_file_with_one_key_changed_is_refused_by_the_keys_name(name, key, tmp_path):
    whole, model = original_state(name), untouched(name)
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


@pytest.mark.parametrize("name", ["LeViT-tiny", "LeViT-128S", *SLOW_NETWORKS])
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


def test_weights_of_another_network_ask_for_no_other_classes_or_size(tmp_path):
    torch.save(zoo.create(TINY, 10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"more\): these are weights of another network, or of other `options`$"):
        checkpoint.load_into(zoo.create(ROWS["LeViT-128S"], 10), tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"more\): correct `classes`: the file has 10; these are weights of another net"
    ):
        checkpoint.load_into(zoo.create(ROWS["LeViT-128S"], 12), tmp_path / "w.pth")


@pytest.mark.parametrize("name", bad_checkpoints.FILES)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line_that_says_what_to_do(model, tmp_path, name):
    write, said = bad_checkpoints.FILES[name]
    path, before = tmp_path / "w.pth", {name: value.clone() for name, value in model.state_dict().items()}
    write(path, model.state_dict())
    with pytest.raises(UserError) as error:
        checkpoint.load_into(model, path)
    text = str(error.value)
    assert re.search(said, text) and str(path) in text and "\n" not in text and len(text) < 1500
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


TYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@pytest.mark.parametrize("name", TYPES)
def test_floats_of_other_widths_are_served(model, tmp_path, name):
    wide = {n: v.to(TYPES[name]) if v.is_floating_point() else v for n, v in model.state_dict().items()}
    torch.save(wide, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", {n: v.float() if v.is_floating_point() else v for n, v in wide.items()})


@pytest.mark.parametrize("kind", [np.float64(0.5), np.float32(2), np.int64(3), np.arange(3), np.bool_(True)])
def test_numbers_of_numpy_beside_the_weights_are_served(model, tmp_path, kind):
    torch.save({"state_dict": model.state_dict(), "best": kind}, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", model.state_dict())


def test_tied_and_viewed_tensors_are_served(model, tmp_path):
    state = {name: torch.stack([value, value])[1] for name, value in model.state_dict().items()}
    state["head_dist.linear.weight"] = state["head.linear.weight"]
    torch.save({"model": state, "again": [state["head.linear.weight"]]}, tmp_path / "w.pt")
    assert_loads(tmp_path / "w.pt", state)


NESTS = [
    "model.",
    "net.",
    "model.module.",
    "module.model.",
    "_orig_mod.model.",
    "model._orig_mod.module.",
    "student.net.",
]


@pytest.mark.parametrize("prefix", NESTS)
def test_prefixes_of_any_program_in_any_nesting_are_taken_off(model, tmp_path, prefix):
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.ckpt")
    assert_loads(tmp_path / "w.ckpt", model.state_dict())


def test_parts_that_were_compiled_are_known(model, tmp_path):
    state = {name.replace("stages.0.", "stages.0._orig_mod."): value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", model.state_dict())


def test_an_averaged_models_counter_is_no_weight(model, tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save({"model_ema": averaged.state_dict()}, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", model.state_dict())


def test_a_key_chooses_which_part_is_taken(model, tmp_path, caplog):
    states = {name: shifted(model.state_dict(), by) for by, name in enumerate(("model", "model_ema", "teacher"))}
    torch.save({**states, "deep": {"state_dict": shifted(model.state_dict(), 9)}}, tmp_path / "w.pth")
    log.propagate = True
    for key, state in [
        *states.items(),
        (None, states["model_ema"]),
        ("deep.state_dict", shifted(model.state_dict(), 9)),
    ]:
        loaded = checkpoint.load_into(zoo.create(TINY, 10), tmp_path / "w.pth", key=key).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in state.items())
        assert checkpoint.part_of(tmp_path / "w.pth", key) == (key or "model_ema")
    with pytest.raises(UserError, match="checkpoint_key: ema: .*: it has model_ema, model, teacher, deep.state_dict"):
        checkpoint.load_into(model, tmp_path / "w.pth", key="ema")
    torch.save(states["model"], tmp_path / "w.pth")
    with pytest.raises(UserError, match="checkpoint_key: ema: .*: it is a bare state dict: remove the key"):
        checkpoint.load_into(model, tmp_path / "w.pth", key="ema")
    assert checkpoint.part_of(tmp_path / "w.pth") is None


SIZES = [("LeViT-tiny", 96, 64), ("LeViT-tiny", 64, 128), ("LeViT-128S", 224, 256)]


@pytest.mark.parametrize(("name", "asked", "trained"), SIZES)
def test_weights_of_another_size_name_the_key_and_the_size(name, asked, trained, tmp_path):
    """Case 9."""
    torch.save(zoo.create(dict(ROWS[name], size=trained), 10).state_dict(), tmp_path / "w.pth")
    said = rf"attention_biases .*: correct `size`: {asked} px is not what .* were trained at, {trained} px fits$"
    with pytest.raises(UserError, match=said):
        checkpoint.load_into(zoo.create(dict(ROWS[name], size=asked), 10), tmp_path / "w.pth")


def test_weights_of_another_size_of_a_vision_transformer(tmp_path):
    row = {"timm": "vit_tiny_patch16_224", "size": 160}
    torch.save(zoo.create(dict(row, size=224), 10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"pos_embed \[1, 197, 192\] instead of .*correct `size`: .*, 224 px fits$"):
        checkpoint.load_into(zoo.create(row, 10), tmp_path / "w.pth")


def test_weights_of_other_classes_name_the_key_and_their_number(tmp_path):
    torch.save(zoo.create(TINY, 7).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="head.linear.weight .*: correct `classes`: the file has 7$"):
        checkpoint.load_into(zoo.create(TINY, 10), tmp_path / "w.pth")


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
        ({"options": {"colour": 1}}, "cannot be created with.*colour"),
        ({"options": {"depth": [1]}}, "cannot be created with.*depth"),
    ],
)
def test_a_row_that_makes_no_network_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        zoo.create(dict(TINY, **change), 10)


def import_weights(source, target, *more, classes=10):
    line = [
        forks.python_with_torch(),
        str(ROOT / "workflow_scripts" / "import_checkpoint.py"),
        "--source",
        str(source),
    ]
    line += ["--model", model_file(target.parent, TINY), "--classes", str(classes), "--checkpoint", str(target), *more]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_import_copies_what_fits(model, tmp_path):
    torch.save({"model": original_levit.state("LeViT-tiny", 10, 64)}, tmp_path / "mine.pth")
    code, text = import_weights(tmp_path / "mine.pth", tmp_path / "out.pth")
    assert code == 0, text
    assert (tmp_path / "out.pth").read_bytes() == (tmp_path / "mine.pth").read_bytes()


@pytest.mark.parametrize("key", ["model", "model_ema"])
def test_import_keeps_the_part_that_a_key_chooses_and_records_it(model, tmp_path, key):
    states = {name: shifted(model.state_dict(), by) for by, name in enumerate(("model", "model_ema"))}
    torch.save(states, tmp_path / "mine.pth")
    code, text = import_weights(tmp_path / "mine.pth", tmp_path / "out.pth", "--part", key)
    assert code == 0, text
    assert_loads(tmp_path / "out.pth", states[key])
    assert provenance.read(str(tmp_path / "out.pth"))["context"] == {"weights": key}
    same = (tmp_path / "out.pth").read_bytes() == (tmp_path / "mine.pth").read_bytes()
    assert same == (key == "model_ema"), "the key's default changes nothing"


def test_import_refuses_what_does_not_and_leaves_nothing(model, tmp_path):
    checkpoint.save(model.state_dict(), tmp_path / "mine.pth")
    code, text = import_weights(tmp_path / "mine.pth", tmp_path / "out.pth", classes=12)
    assert code == 1 and "error: " in text and "head.linear.bias [10] instead of [12]" in text
    assert "Traceback" not in text and sorted(p.name for p in tmp_path.iterdir()) == ["mine.pth", "model.json"]


def test_import_names_a_missing_file(tmp_path):
    code, text = import_weights(tmp_path / "none.pth", tmp_path / "out.pth")
    assert code == 1 and "none.pth: no such file" in text


def test_a_network_without_finite_logits_is_no_reference(tmp_path):
    """All its images would count as right: nothing is above NaN."""
    state = zoo.create(TINY, 2).state_dict()
    state["stem.conv1.bn.running_var"].fill_(-1)
    checkpoint.save(state, tmp_path / "c.pth")
    listing = {"classes": ["a", "b"], "root": ".", "splits": {"val": [0]}}
    listing["images"] = [{"path": "a/1.png", "label": 0, "bytes": 1, "sha256": "0" * 64}]
    (tmp_path / "index.json").write_text(json.dumps(listing))
    np.save(tmp_path / "val.npy", np.zeros((1, TINY["size"], TINY["size"], 3), np.uint8))
    paths = {"checkpoint": tmp_path / "c.pth", "index": tmp_path / "index.json", "images": tmp_path / "val.npy"}
    args = argparse.Namespace(**paths, model=model_file(tmp_path, TINY), threads=1, classes=2, split="val")
    with pytest.raises(UserError, match=r"c.pth: 1 images have logits that are not finite, the first is .*a/1.png"):
        evaluate_torch.run(args)
