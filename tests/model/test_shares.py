"""Threads that share a batch train as one does: gradients, BatchNorm's statistics, and what a failure of one ends."""

import contextlib
import copy

import pytest
import torch
from test_train import ROW

from model import shares, synced_batchnorm, zoo


@pytest.fixture
def network():
    torch.manual_seed(0)
    return zoo.create(ROW, 2).train().to(memory_format=torch.channels_last)


def computed(network, images, count):
    """Return (loss, gradients, state dict) of a step on the mean square of the logits."""
    model, loss = copy.deepcopy(network), lambda model, images: model(images).square().mean()
    shared = shares.Shares(list(model.parameters()), count)
    shared.take(model)
    with shared, synced_batchnorm.synced(shared.meeting):
        value, gradients = shared.compute(loss, images)
    if gradients is None:
        gradients = torch.autograd.grad(value, shared.parameters)
    return value.detach(), gradients, model.state_dict()


@pytest.mark.parametrize("count", [2, 3])
def test_shares_compute_what_the_whole_batch_does(network, count):
    images = torch.randn(12, 3, ROW["size"], ROW["size"], generator=torch.Generator().manual_seed(1))
    (loss, gradients, state), (whole, expected, before) = (computed(network, images, n) for n in (count, 1))
    assert torch.allclose(loss, whole, rtol=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert all(torch.allclose(a, b, rtol=1e-2, atol=1e-4 * largest) for a, b in zip(gradients, expected))
    assert all(torch.allclose(state[name], before[name], rtol=1e-4, atol=1e-5) for name in before)
    again = computed(network, images, count)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again[1]))


def test_a_share_that_fails_ends_the_step_with_its_own_error(network):
    shared = shares.Shares(list(network.parameters()), 2)
    shared.take(network)

    def loss(model, images):
        if model is not network:
            raise ValueError("no images")
        return model(images).mean()

    with shared, synced_batchnorm.synced(shared.meeting), pytest.raises(ValueError, match="no images"):
        shared.compute(loss, torch.zeros(4, 3, ROW["size"], ROW["size"]))


@pytest.mark.parametrize(
    ("batch", "threads", "expected"), [(16, 2, 2), (16, 64, 4), (18, 4, 3), (6, 2, 1), (17, 2, 1), (16, 1, 1)]
)
def test_shares_are_equal_and_of_several_images(batch, threads, expected):
    with threads_set_to(threads):
        assert shares.number(batch, torch.device("cpu"), torch.bfloat16) == expected


@contextlib.contextmanager
def threads_set_to(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_fp16_and_several_processes_share_no_batch():
    with threads_set_to(2):
        assert shares.number(16, torch.device("cpu"), torch.float16) == 1
        assert shares.number(16, torch.device("cpu"), None, processes=2) == 1


def test_dropout_is_seen(network):
    images = torch.zeros(2, 3, ROW["size"], ROW["size"])
    state = torch.get_rng_state()
    assert not shares.is_random(network, images)
    assert shares.is_random(torch.nn.Sequential(network, torch.nn.Dropout(0.5)).train(), images)
    assert torch.equal(state, torch.get_rng_state())
