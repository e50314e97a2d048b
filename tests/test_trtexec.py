"""trtexec's exported times through our statistics: the numbers that it prints of them."""

import json

import pytest

from files import UserError
from measure import stats, trtexec


def query(number, compute):
    """Return a row as trtexec writes it: a copy of 0.5 ms, the network, a copy of 0.25 ms, one query each 10 ms."""
    start = 10.0 * number
    return {
        **{"startEnqMs": start + 0.25, "endEnqMs": start + 0.375, "startH2dMs": start, "endH2dMs": start + 0.5},
        **{"startComputeMs": start + 0.5, "endComputeMs": start + 0.5 + compute, "startD2hMs": start + 0.5 + compute},
        **{"endD2hMs": start + 0.75 + compute, "h2dMs": 0.5, "computeMs": compute, "d2hMs": 0.25},
        "latencyMs": 0.75 + compute,
    }


@pytest.fixture
def export(tmp_path):
    """1,000 queries whose networks take 1.001, 1.002, ... 2 ms, in another order."""
    path = tmp_path / "times.json"
    computes = [1 + ((7 * number) % 1000 + 1) / 1000 for number in range(1000)]
    path.write_text(json.dumps([query(number, compute) for number, compute in enumerate(computes)]))
    return path, computes


def test_numbers_of_an_export(export):
    path, computes = export
    times = trtexec.read(path)
    assert len(times.latency) / times.wall == pytest.approx(1000 / ((9990 + 0.75 + computes[-1]) / 1e3))
    found = stats.summary(times.compute)
    assert found["min"] == 1.001 and found["max"] == 2.0 and found["median"] == pytest.approx(1.5005)
    assert found["mean"] == pytest.approx(1.5005)
    assert [found[name] for name in ("p90", "p95", "p99")] == [1.9, 1.95, 1.991]  # in single precision, as it is there
    assert stats.summary(times.latency)["p99"] == pytest.approx(0.75 + 1.991)
    assert set(times.enqueue.round(6)) == {0.125} and set(times.h2d) == {0.5} and set(times.d2h) == {0.25}


def test_names_of_older_versions(tmp_path):
    row = {
        "startInMs": 0.0,
        "endInMs": 0.5,
        "startComputeMs": 0.5,
        "endComputeMs": 1.5,
        "startOutMs": 1.5,
        "endOutMs": 2.0,
    }
    row.update(inMs=0.5, computeMs=1.0, outMs=0.5, latencyMs=2.0, endToEndMs=2.0)
    (tmp_path / "times.json").write_text(json.dumps([row]))
    times = trtexec.read(tmp_path / "times.json")
    assert times.wall == 0.002 and list(times.h2d) == [0.5] and times.enqueue is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"latencyMs": 1}]'])
def test_other_files(tmp_path, text):
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(UserError, match="times.json is no file of trtexec --exportTimes"):
        trtexec.read(tmp_path / "times.json")
