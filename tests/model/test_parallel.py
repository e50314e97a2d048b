"""Training in several processes is that of one: batches, BatchNorm, going on after a kill; other number formats."""

import functools
import logging
import os
import re
import signal
import subprocess
import textwrap
import time
import types

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from test_train import ROW, command_of, stripes, top1, train  # noqa: F401 (stripes is a fixture)

from conftest import ROOT
from core import provenance
from core.files import UserError
from model import checkpoint, context, parallel, shared_gradients, synced_batchnorm, zoo
from model.training import Optimizer

KILLED = "error: one of 2 processes .*was killed.*, perhaps because memory ran out: run again to go on"
EPOCHS = {"epochs": 3, "small_epochs": 1, "compute": "fp32"}
PROCESSES = pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])


def shared(listing, target, processes, **recipe):
    """Return the command line of a training in several processes, and its environment."""
    return command_of(listing, target, options=["--processes", str(processes)], **recipe)


def run(listing, target, processes, **recipe):
    line, environment = shared(listing, target, processes, **recipe)
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return checkpoint.read(target)


@pytest.fixture(scope="module")
def alone(stripes, tmp_path_factory):  # noqa: F811
    """Return what one process trains."""
    path = tmp_path_factory.mktemp("alone") / "m.pth"
    code, text = train(stripes, path, **EPOCHS)
    assert code == 0 and "in float32 on cpu, 1 processes" in text, text
    return checkpoint.read(path)


def apart(one, other):
    """Return the largest difference of two networks' logits on noise, as a share of their spread.

    Some weights decide nothing (biases of keys, which softmax ignores): rounding alone moves those.
    """
    assert one.keys() == other.keys()
    images = torch.randn(16, 3, ROW["size"], ROW["size"], generator=torch.Generator().manual_seed(0))
    model, found = zoo.create(ROW, 2), []
    for state in (one, other):
        model.load_state_dict(state)
        with torch.no_grad():
            found.append(model.eval()(images))
    return float((found[0] - found[1]).abs().max() / found[0].std())


@PROCESSES
def test_any_number_of_processes_trains_the_same_network(alone, stripes, tmp_path, processes):  # noqa: F811
    """Statistics of BatchNorm included: a share of two images has others than its batch of eight."""
    assert apart(alone, run(stripes, tmp_path / "m.pth", processes, **EPOCHS)) < 0.02


@PROCESSES
def test_micro_batches_train_the_same_network_in_any_number_of_processes(alone, stripes, tmp_path, processes):  # noqa: F811
    """Two micro-batches: one process has both, or two have one each, or four share them in pairs."""
    halves = {**EPOCHS, "micro_batch": 4}
    one, several = (run(stripes, tmp_path / f"{count}.pth", count, **halves) for count in (1, processes))
    assert apart(one, several) < 0.02 < apart(one, alone)


@pytest.fixture
def dying(tmp_path):
    """Write a program that runs another one, and whose second process is killed in the second epoch."""
    text = """
        import os, runpy, signal, sys
        sys.path.insert(0, {folder!r})
        from model.trainer import Trainer

        def step(self, inputs, labels, step, old=Trainer.step, seen=[]):
            seen.append(step // self.per_epoch)
            if seen.count(1) == 2 and os.environ["LOCAL_RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            return old(self, inputs, labels, step)

        Trainer.step = step
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    (tmp_path / "dying.py").write_text(textwrap.dedent(text.format(folder=str(ROOT / "workflow_scripts"))))
    return str(tmp_path / "dying.py")


def test_a_killed_process_ends_all_in_a_line_and_another_number_goes_on(alone, stripes, tmp_path, dying):  # noqa: F811
    target, state = tmp_path / "m.pth", tmp_path / "m.pth.resume"
    line, environment = shared(stripes, target, 2, **EPOCHS)
    done = subprocess.run([line[0], dying, *line[1:]], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and re.fullmatch(KILLED, done.stderr.splitlines()[-1]), done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr and not target.exists()
    assert torch.load(state)["state"]["step"] == 10, "those of one epoch"
    assert apart(alone, run(stripes, target, 1, **EPOCHS)) < 0.02 and not state.exists()
    context = provenance.read(target)["context"]
    assert context["processes"] == 1 and context["processes_before"] == [2]


def test_a_process_ends_with_its_parent():
    """One that waits for NCCL sees no signal that Python handles."""
    alive, held = os.pipe()
    parent = os.fork()
    if not parent:
        if not os.fork():
            parallel.end_with_parent()
            os.write(held, b".")
        time.sleep(60)
        os._exit(1)
    os.close(held)
    assert os.read(alive, 1) == b"."
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(alive, 1) == b"", "the last end of the pipe is closed"


def test_another_launcher_around_the_workflow_changes_nothing(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with parallel.group(torch.device("cpu"), 1) as found:
        assert found == (0, 1, torch.device("cpu"))


@pytest.fixture
def connected():
    """Connect this process, alone, for collectives."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_batchnorm_of_one_process_that_shares(connected, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 4, 3, 3, generator=generator, requires_grad=True)
    norms = [torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)]
    (wanted,) = torch.autograd.grad(norms[0](inputs).pow(3).sum(), inputs)
    exchanged = functools.partial(synced_batchnorm._exchanged, dist.group.WORLD)
    monkeypatch.setattr(F, "batch_norm", functools.partial(synced_batchnorm._batch_norm, F.batch_norm, exchanged))
    (found,) = torch.autograd.grad(norms[1](inputs).pow(3).sum(), inputs)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(norms[0].running_var, norms[1].running_var)


@pytest.mark.parametrize("shared", [True, False], ids=["in shared memory", "in one call"])
def test_averaged_gradients_keep_their_layout(connected, monkeypatch, shared):
    """Optimizers that are fused go through memory, whatever the order of its dimensions."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    network.to(memory_format=torch.channels_last)
    parameters = [*network.parameters(), torch.nn.Parameter(torch.ones(3))]
    monkeypatch.setattr(parallel, "_gradients", shared_gradients.file() if shared else None)
    optimizer = types.SimpleNamespace(parameters=parameters)
    parallel.average_gradients(optimizer)
    for seed in range(2):
        network.zero_grad()
        images = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
        network(images).square().sum().backward()
        wanted = [value.grad.clone() for value in parameters[:-1]]
        optimizer.exchange()
        for value, grad in zip(parameters, wanted):
            assert torch.equal(value.grad, grad) and value.grad.stride() == value.stride()
        assert parameters[-1].grad is None


@pytest.mark.parametrize("inputs", [torch.randn(6, 4, 3, 3), torch.randn(12, 4)], ids=["images", "tokens"])
def test_each_micro_batch_has_statistics_of_its_own(inputs):
    norm = (torch.nn.BatchNorm2d if inputs.ndim == 4 else torch.nn.BatchNorm1d)(4)
    with synced_batchnorm.synced(2, 1):
        found = norm(inputs)
        evaluated = norm.eval()(inputs)
    half = len(inputs) // 2
    wanted = [norm.train()(part) for part in (inputs[:half], inputs[half:])]
    assert torch.equal(found, torch.cat(wanted)) and not torch.allclose(found, norm(inputs), atol=1e-3)
    assert not torch.allclose(evaluated, found, atol=1e-3)


@pytest.mark.parametrize(
    ("recipe", "threads", "processes"),
    [
        ({"batch": 32}, 8, 1),
        ({"batch": 32, "micro_batch": 16}, 8, 2),
        ({"batch": 32, "micro_batch": 16}, 1, 1),
        ({"batch": 64, "micro_batch": 16}, 3, 2),
    ],
)
def test_a_cpu_has_a_process_for_each_micro_batch_or_core(recipe, threads, processes):
    assert context.processes_of(0, recipe, "cpu", threads) == processes


@pytest.mark.parametrize(("wanted", "fits"), [(2, True), (4, True), (12, True), (3, False), (5, False)])
def test_processes_have_whole_micro_batches_or_share_one(wanted, fits):
    recipe = {"batch": 24, "micro_batch": 6}
    if fits:
        assert context.processes_of(wanted, recipe, "cpu", 1) == wanted
        return
    with pytest.raises(UserError, match="cannot share batch 24 of 4 micro-batches evenly: set LEVIT_PROCESSES="):
        context.processes_of(wanted, recipe, "cpu", 1)


@pytest.mark.parametrize(("text", "shown"), [("RuntimeError: Broken pipe", False), ("RuntimeError: shapes", True)])
def test_what_a_killed_process_does_to_another_is_told_by_the_error_alone(text, shown):
    error = torch.multiprocessing.ProcessRaisedException(f"Traceback\n{text}", 0, 1)
    record = logging.LogRecord("launcher", logging.ERROR, "api.py", 1, "failed", (), (type(error), error, None))
    assert parallel._unexpected(record) == shown


@pytest.mark.parametrize("compute", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_network_learns_in_other_formats(stripes, tmp_path, compute):  # noqa: F811
    code, text = train(stripes, tmp_path / "m.pth", compute=compute)
    assert code == 0 and f"in {'float16' if compute == 'fp16' else 'bfloat16'} on cpu" in text
    assert top1(tmp_path / "m.pth", stripes, "val") >= 0.9


def steps(kind, factor, count=3):
    """Return a weight after steps whose gradients are that small or large, and the optimizer."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = Optimizer([{"params": [weight], "weight_decay": 0.0}], 10, {"learning_rate": 0.1}, kind)
    for _ in range(count):
        loss = (weight.to(kind or torch.float32).float() * factor).sum()
        optimizer.step(loss, "it diverged")
    return weight, optimizer


def test_the_scale_keeps_gradients_that_float16_has_not():
    plain = torch.nn.Parameter(torch.ones(4))
    (plain.to(torch.float16).float() * 1e-9).sum().backward()
    assert not plain.grad.any()
    weight, optimizer = steps(torch.float16, 1e-9)
    assert torch.allclose(weight, steps(None, 1e-9)[0], atol=1e-4) and (weight < 0.99).all()
    assert optimizer.state()["scaler"]["scale"] == 65536 and steps(None, 1.0)[1].state()["scaler"] == {}


def test_a_step_whose_scaled_gradients_overflow_is_skipped_at_half_the_scale():
    weight, optimizer = steps(torch.float16, 2.0, count=2)
    assert torch.equal(weight, torch.ones(4)) and optimizer.state()["scaler"]["scale"] == 65536 / 4
    other = Optimizer([{"params": [weight], "weight_decay": 0.0}], 10, {"learning_rate": 0.1}, torch.float16)
    other.restore(optimizer.state())
    assert other.scaler.get_scale() == 65536 / 4
