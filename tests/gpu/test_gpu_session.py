"""Queries, chunks, profiles, graphs and timing of a GPU session, on a GPU that is host memory (fake_gpu.py)."""

import time

import numpy as np
import pytest

import fake_gpu
from core.files import UserError
from measure import timing
from measure.meters import Meter
from runtimes import _cuda, _gpu

INTERFACES = {"names": _gpu.Tensors, "numbers": _gpu.Bindings}


@pytest.fixture
def cuda(monkeypatch):
    fake = fake_gpu.Cuda()
    monkeypatch.setattr(_cuda, "library", lambda: fake)
    return fake


def session(cuda, profiles=((1, 8, 8),), interface=None):
    return _gpu.GpuSession(fake_gpu.library(cuda), fake_gpu.Engine(cuda, list(profiles)), "net.engine", interface)


def images(count):
    shape = (count, 3, fake_gpu.SIZE, fake_gpu.SIZE)
    return np.random.default_rng(count).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("interface", INTERFACES.values(), ids=INTERFACES)
def test_an_engine_whose_batch_is_fixed(cuda, interface):
    """As on a DLA: the tensors themselves have the batch, and no profile is asked."""
    engine = fake_gpu.Engine(cuda, [(4, 4, 4)])
    engine.shapes = {name: (4, *shape[1:]) for name, shape in engine.shapes.items()}
    engine.get_tensor_profile_shape = engine.get_profile_shape = None
    found = _gpu.GpuSession(fake_gpu.library(cuda), engine, "net.engine", interface)
    for count in (1, 4, 9):
        assert np.allclose(found.run(images(count)), fake_gpu.logits(images(count)), atol=1e-6)
    with pytest.raises(UserError, match="no profile for batch 8, only for 4"):
        found.optimization_profile(8)


@pytest.mark.parametrize("interface", INTERFACES.values(), ids=INTERFACES)
@pytest.mark.parametrize("profiles", [((1, 8, 8),), ((1, 1, 1), (1, 8, 8)), ((1, 1, 1), (8, 8, 8))])
@pytest.mark.parametrize("count", [1, 3, 8, 9, 20])
def test_any_number_of_images(cuda, interface, profiles, count):
    found = session(cuda, profiles, interface)
    assert np.allclose(found.run(images(count)), fake_gpu.logits(images(count)), atol=1e-6)
    assert np.allclose(found.run(images(2)), fake_gpu.logits(images(2)), atol=1e-6), "another shape after that"


def test_newest_interface_that_there_is(cuda):
    assert isinstance(session(cuda).io, _gpu.Tensors)
    older = fake_gpu.library(cuda, newer=False)
    assert isinstance(_gpu.GpuSession(older, fake_gpu.Engine(cuda, [(1, 1, 1)]), "e").io, _gpu.Bindings)


def test_profile_that_was_tuned_for_the_batch(cuda):
    found = session(cuda, ((1, 1, 1), (1, 64, 64)))
    assert found.batches == [1, 64]
    assert [found.optimization_profile(count) for count in (1, 2, 64)] == [0, 1, 1]


def test_profile_that_excludes_the_batch(cuda):
    found = session(cuda, ((1, 1, 1), (4, 8, 8)))
    with pytest.raises(UserError, match="net.engine has no profile for batch 9, only for 1, 4 to 8: add it to"):
        found.time(images(9), timing.Loop(0, 0, 1))


class Counter(Meter):
    """A meter whose energy grows by 10 mJ whenever it is asked."""

    spent = 0

    def energy_mj(self):
        self.spent += 10
        return self.spent


@pytest.mark.parametrize("interface", INTERFACES.values(), ids=INTERFACES)
@pytest.mark.parametrize("options", [{}, {"cuda_graph": False}, {"transfers": False}, {"spin_wait": False}])
def test_timing(cuda, interface, options):
    found = session(cuda, ((1, 8, 8),), interface)
    start = time.perf_counter()
    times = found.time(images(8), timing.Loop(5, 20, 30, options, Counter()))
    elapsed = time.perf_counter() - start
    assert len(times.latency) >= 30 and elapsed >= 0.025 and 0 < times.wall <= elapsed and times.energy == 10
    assert (times.latency > 0).all() and (times.enqueue > 0).all()
    assert found.facts == {"threads": None, "cuda_graph": options.get("cuda_graph", True)}
    if options.get("transfers", True):
        assert np.allclose(times.latency, times.h2d + times.compute + times.d2h)
        assert 1e3 * times.wall >= times.compute.sum()
    else:
        assert times.h2d is None and times.d2h is None and (times.latency == times.compute).all()


def test_layers_of_the_largest_batch():
    def rows(suffix, precision):
        return [{"name": f"{name}{suffix}", "precision": precision} for name in ("conv", "gemm")]

    assert _gpu.of_largest_batch(rows("", "fp32")) == rows("", "fp32")
    told = rows("", "fp32") + rows(" [profile 1]", "fp16")
    assert _gpu.of_largest_batch(told) == rows(" [profile 1]", "fp16")
    untold = rows("", "fp32") + rows(" [profile 1]", "none")
    assert _gpu.of_largest_batch(untold) == rows("", "fp32") and _gpu.of_largest_batch([]) == []


@pytest.mark.parametrize("iterations", [1, 2, 3, 7])
def test_exactly_as_many_queries_as_asked(cuda, iterations):
    found = session(cuda)
    times = found.time(images(4), timing.Loop(0, 0, iterations))
    assert len(times.latency) == iterations


def test_logits_of_timed_queries(cuda):
    """What is timed is the network on these images, in a graph or not."""
    for graph in (True, False):
        found = session(cuda)
        pipeline = found.pipeline(images(4), {"cuda_graph": graph})
        for slot in pipeline.slots:
            pipeline.submit(slot)
            pipeline.retire(slot)
            assert np.allclose(slot.host["output_0"].array, fake_gpu.logits(images(4)), atol=1e-6)


def test_graph_that_cannot_be_captured(cuda):
    cuda.graphs = False
    found = session(cuda)
    times = found.time(images(4), timing.Loop(0, 0, 3))
    assert len(times.latency) == 3 and found.facts["cuda_graph"] is False


def test_events_spin_or_sleep(cuda):
    for spin, flag in ((True, 0), (False, 1)):
        pipeline = session(cuda).pipeline(images(4), {"spin_wait": spin})
        assert {event.handle["blocking"] for slot in pipeline.slots for event in slot.events} == {flag}


def test_out_of_memory_says_how_much_and_what_to_do(cuda):
    found = session(cuda)
    cuda.memory = 100
    with pytest.raises(UserError, match="MiB are not available .*MemoryAllocation.*: lower the target's b"):
        found.run(images(8))


def test_images_of_another_size(cuda):
    with pytest.raises(UserError, match=r"net.engine takes images of \[3, 4, 4\], got \[1, 3, 8, 8\]"):
        session(cuda).run(np.zeros((1, 3, 8, 8), np.float32))


def test_memory_is_given_back(cuda):
    found = session(cuda)
    found.run(images(8))
    assert cuda.buffers
    del found
    assert not cuda.buffers
