"""Statistics, the timing loop and accuracy, against values worked out by hand or by another library."""

import time
import tracemalloc

import numpy as np
import pytest

from core.files import UserError
from measure import accuracy, meters, stats, timing


def test_percentiles_are_trtexec_s():
    """n = 10, p = 90: index 10 - 1 - int(1.0000002) = 8; n = 100, p = 99: 100 - 1 - int(0.9999990) = 99."""
    ordered = [float(i) for i in range(1, 11)]
    assert stats.percentile(ordered, 90) == 9.0
    assert stats.percentile(ordered, 95) == 10.0
    assert stats.percentile(ordered, 99) == 10.0
    assert stats.percentile([7.0], 99) == 7.0
    hundred = [float(i) for i in range(100)]
    assert [stats.percentile(hundred, p) for p in (90, 95, 99)] == [89.0, 94.0, 99.0]


def test_summary():
    found = stats.summary([4.0, 1.0, 2.0, 3.0])
    assert found == {"mean": 2.5, "median": 2.5, "p90": 4.0, "p95": 4.0, "p99": 4.0, "min": 1.0, "max": 4.0}
    assert stats.summary([3.0, 1.0, 2.0])["median"] == 2.0
    assert stats.summary(None) is None


def test_variation():
    values = [1.0, 2.0, 3.0, 4.0]
    assert stats.variation(values) == pytest.approx(np.std(values) / np.mean(values))


def test_stability():
    random = np.random.default_rng(0)
    quiet = list(1 + 0.01 * random.standard_normal(200))
    assert stats.is_stable(quiet)
    interrupted = [value + (1.0 if i % 40 == 0 else 0.0) for i, value in enumerate(quiet)]
    assert stats.variation(interrupted) > stats.STABLE and stats.is_stable(interrupted)
    drifting = [value * (1 + i / 1000) for i, value in enumerate(quiet)]
    assert not stats.is_stable(drifting)
    stepped = quiet[:150] + [value * 1.2 for value in quiet[150:]]
    assert not stats.is_stable(stepped)
    loaded = [value + (1.0 if i % 4 == 0 else 0.0) for i, value in enumerate(quiet)]
    assert not stats.is_stable(loaded)
    assert not stats.is_stable([1.0, 1.5, 1.0, 1.5]), "too few for windows, and they vary"
    assert not stats.is_stable([1.0]) and not stats.is_stable([1.0] * 4), "too few to show whether they vary"
    assert stats.is_stable([1.0, 1.01] * 3)


def test_loop_counts_and_times():
    calls = []

    def query():
        calls.append(time.perf_counter())
        time.sleep(0.002)

    latency, wall = timing.Loop(warmup_ms=20, duration_ms=100, iterations=5).run(query)
    assert 5 <= len(latency) < len(calls), "warm-up calls are not timed"
    assert latency.min() >= 2.0 and latency.sum() / 1000 <= wall < 0.5
    assert wall >= 0.1
    assert len(timing.Loop(0, 0, 12).run(query)[0]) == 12


def test_loop_grows():
    """A query that becomes faster after the warm-up outgrows the array that was made for it."""
    state = {"calls": 0}

    def query():
        state["calls"] += 1
        if state["calls"] < 6:
            time.sleep(0.005)

    latency, wall = timing.Loop(warmup_ms=20, duration_ms=100, iterations=1).run(query)
    assert len(latency) > 100 and (latency > 0).all()


def test_clocks():
    mhz = meters.Host().clock_mhz()
    assert mhz is None or 100 < mhz < 10_000
    mode = meters.Host().power_mode()
    assert mode is None or mode.isprintable()


def test_top_k_with_ties_and_few_classes():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 2.0, 1.0]], np.float32)
    labels = np.array([1, 2, 0])
    assert accuracy.correct(logits, labels, 1).tolist() == [False, False, True]
    assert accuracy.correct(logits, labels, 2).tolist() == [True, True, True]
    assert accuracy.correct(logits, labels, 5).all(), "five of three classes"
    assert (logits.argmax(axis=1) == labels).tolist() == accuracy.correct(logits, labels, 1).tolist()
    logits[[0, 1, 2], [1, 0, 0]] = np.nan
    assert accuracy.correct(logits, labels, 1).tolist() == [False] * 3, "NaN is no right answer, nor is one beside it"
    assert not accuracy.correct(np.full((1, 3), np.nan), np.array([0]), 5).any()


def test_top_k_is_sorting():
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((200, 10)), random.integers(0, 10, 200)
    best = np.argsort(-logits, axis=1)[:, :5]
    assert accuracy.correct(logits, labels, 5).tolist() == (best == labels[:, None]).any(axis=1).tolist()


def test_score():
    reference = np.array([[2.0, 1.0], [0.5, 1.0], [1.0, 0.0], [0.0, 4.0]])
    logits = np.array([[2.0, 1.5], [1.5, 1.0], [1.0, 0.0], [0.0, 2.0]])
    found = accuracy.score(logits, np.array([0, 1, 0, 0]), reference)
    assert (found["top1"], found["fp32_top1"], found["top5"]) == (50.0, 75.0, 100.0)
    assert found["agreement_with_fp32"] == 75.0
    assert found["max_abs_logit_error"] == 2.0
    assert found["logit_error_over_spread"] == pytest.approx(2.0 / reference.std())
    assert [found[f"{name}_margin"] for name in ("smallest", "smallest_changed", "largest_changed")] == [0.5, 0.5, 0.5]
    assert found["num_images"] == 4 and found["num_classes"] == 2
    assert accuracy.unpack(found["correct"], 4).tolist() == [True, False, True, False]
    assert (found["paired_with_fp32"]["lost"], found["paired_with_fp32"]["gained"]) == (1, 0)


def test_a_perfect_engine_s_error_is_small_whatever_the_smallest_logit():
    """One logit of zero made a relative error of 423 of rounding."""
    random = np.random.default_rng(0)
    reference = random.standard_normal((3000, 10)).astype(np.float32)
    reference[7, 3] = 0
    found = accuracy.score(reference + np.float32(1e-6), np.zeros(3000, int), reference)
    assert found["logit_error_over_spread"] < 1e-5
    assert found["smallest_changed_margin"] is None and found["largest_changed_margin"] is None
    assert found["smallest_margin"] == np.diff(np.sort(reference.astype(float), axis=1)[:, -2:]).min()


def test_margins_are_of_the_images_that_changed_sides():
    reference = np.array([[3.0, 0.0, 1.0], [0.0, 0.1, 0.0], [5.0, 4.0, 0.0], [9.0, 0.0, 0.0]])
    logits = np.array([[3.0, 0.0, 1.0], [0.2, 0.1, 0.0], [3.0, 4.0, 0.0], [0.0, 9.0, 0.0]])
    found = accuracy.score(logits, np.zeros(4, int), reference)
    assert [found[f"{name}_margin"] for name in ("smallest", "smallest_changed", "largest_changed")] == [0.1, 0.1, 9.0]


def test_logits_that_are_all_alike_have_no_spread():
    found = accuracy.score(np.ones((2, 1)), np.zeros(2, int), np.ones((2, 1)))
    assert found["logit_error_over_spread"] is None and found["smallest_margin"] is None


def test_scores_of_many_images_take_little_memory_beside_their_logits():
    random = np.random.default_rng(0)
    reference = random.standard_normal((20 * accuracy.ROWS, 50)).astype(np.float32)
    logits = reference + random.standard_normal(reference.shape).astype(np.float32) / 9
    labels = reference.argmax(axis=1)
    tracemalloc.start()
    found = accuracy.score(logits, labels, reference)
    accuracy.check_finite(logits, "e.engine", [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.nbytes / 2
    assert found["top1"] == found["agreement_with_fp32"] == 100 * np.mean(logits.argmax(axis=1) == labels)
    assert found["max_abs_logit_error"] == np.abs(logits.astype(float) - reference).max()
    assert found["logit_error_over_spread"] == pytest.approx(found["max_abs_logit_error"] / reference.std(dtype=float))


def test_score_without_reference():
    found = accuracy.score(np.eye(3), np.arange(3))
    assert found["top1"] == 100.0 and found["agreement_with_fp32"] is None and found["paired_with_fp32"] is None


def test_pack_any_length():
    for count in (1, 7, 8, 9, 360):
        mask = np.random.default_rng(count).random(count) < 0.5
        assert accuracy.unpack(accuracy.pack(mask), count).tolist() == mask.tolist()


def test_paired_interval():
    """b = 3 lost, c = 1 gained of 98: (3.5 - 1.5) / 100 +- 1.96 * sqrt(5 - 0.04) / 100, times 98."""
    reference = np.array([True] * 97 + [False])
    other = np.array([False] * 3 + [True] * 95)
    found = accuracy.paired(reference, other)
    assert (found["lost"], found["gained"], found["net_lost"]) == (3, 1, 2)
    assert found["interval"] == pytest.approx([98 * (0.02 - 0.043651), 98 * (0.02 + 0.043651)], abs=2e-3)


def test_not_finite_is_named():
    logits = np.zeros((3, 2))
    accuracy.check_finite(logits, "e.engine", ["a", "b", "c"])
    logits[1, 0] = np.nan
    with pytest.raises(UserError, match="e.engine: 1 images have logits that are not finite, the first is b"):
        accuracy.check_finite(logits, "e.engine", ["a", "b", "c"])


def test_shapes_that_do_not_fit():
    with pytest.raises(UserError, match="2 rows of logits for 3 labels"):
        accuracy.score(np.zeros((2, 4)), np.arange(3))
    with pytest.raises(UserError, match="a label is 4, and the network has 4 classes"):
        accuracy.score(np.zeros((1, 4)), np.array([4]))
    with pytest.raises(UserError, match="the reference's logits are"):
        accuracy.score(np.zeros((1, 4)), np.array([0]), np.zeros((1, 5)))
