"""Fine-tuning: from other weights and classes, frozen parts, going on after a kill, several processes."""

import subprocess
import time

import pytest
import torch
from test_train import ROW, command_of, stripes, top1, train  # noqa: F401 (stripes is a fixture)

import original_levit
from model import checkpoint, zoo

FROZEN = ["stem.*", "stages.0.*"]
SHORT = {"epochs": 3, "small_epochs": 1}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Write the original program's file of a network of ten classes; return its path."""
    path = tmp_path_factory.mktemp("start") / "original.pth"
    torch.save({"model": original_levit.state("LeViT-tiny", 10, ROW["size"])}, path)
    return path


@pytest.fixture(scope="module")
def tuned(stripes, start, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("tuned") / "tuned.pth"
    code, text = train(stripes, path, options=["--start", str(start)], freeze=FROZEN, **SHORT)
    assert code == 0, text
    return path


def test_only_what_is_not_frozen_moves_and_only_heads_start_anew(tuned, start):
    before = checkpoint.load_into(zoo.create(ROW, 10), start).state_dict()
    after = checkpoint.read(tuned)
    assert {name for name, value in after.items() if value.shape != before[name].shape} == {
        f"{head}.linear.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")
    }
    for name, value in after.items():
        frozen = name.startswith(("stem.", "stages.0."))
        if frozen:
            assert torch.equal(value, before[name]), f"{name}, statistics of BatchNorm included"
        elif name.endswith("weight") and value.shape == before[name].shape:
            assert not torch.equal(value, before[name]), name
            assert (value - before[name]).norm() < 0.5 * before[name].norm(), f"{name} is where it started from"


def test_fine_tuning_is_the_same_every_time_and_tells_classes_apart(tuned, start, stripes, tmp_path):  # noqa: F811
    code, text = train(stripes, tmp_path / "again.pth", options=["--start", str(start)], freeze=FROZEN, **SHORT)
    assert code == 0, text
    assert (tmp_path / "again.pth").read_bytes() == tuned.read_bytes()
    assert top1(tuned, stripes, "val") >= 0.8


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        (
            ["stem.*", "stages.9.*"],
            "training.freeze: 'stages.9.*' matches none of head.*, head_dist.*, stages.*, stem.*",
        ),
        (["*"], "training.freeze ['*'] leaves nothing to train"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(stripes, start, tmp_path, freeze, said):  # noqa: F811
    code, text = train(stripes, tmp_path / "x.pth", options=["--start", str(start)], freeze=freeze)
    assert code == 1 and said in text and "Traceback" not in text and not (tmp_path / "x.pth").exists()


def test_weights_of_another_network_are_refused(stripes, start, tmp_path):  # noqa: F811
    state = torch.load(start)["model"]
    state["blocks.2.kv.c.weight"] = state["blocks.2.kv.c.weight"][:-1]
    torch.save(state, tmp_path / "w.pth")
    code, text = train(stripes, tmp_path / "x.pth", options=["--start", str(tmp_path / "w.pth")])
    assert code == 1 and "of another shape or type (blocks.2.kv.c.weight [" in text


def test_a_killed_training_goes_on_from_its_last_epoch_to_the_same_bytes(tuned, stripes, start, tmp_path):  # noqa: F811
    target, options = tmp_path / "killed.pth", ["--start", str(start)]
    state = tmp_path / "killed.pth.resume"
    line, environment = command_of(stripes, target, options=options, freeze=FROZEN, **SHORT)
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not state.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    done = torch.load(state, weights_only=True)["state"]["step"] // 10
    assert not target.exists() and 0 < done <= SHORT["epochs"]
    if done == SHORT["epochs"]:
        pytest.skip("this machine trained every epoch before it could be killed")
    code, text = train(stripes, target, options=options, freeze=FROZEN, **SHORT)
    assert code == 0, text
    assert f"epoch {done}/" not in text and target.read_bytes() == tuned.read_bytes() and not state.exists()


def test_a_batch_that_processes_cannot_share_is_refused(stripes, tmp_path):  # noqa: F811
    code, text = train(stripes, tmp_path / "x.pth", options=["--processes", "3"])
    assert code == 1 and "--processes 3: they cannot share batch 8 evenly: set LEVIT_PROCESSES=2" in text
