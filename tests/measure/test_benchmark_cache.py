"""Timings that are kept on their machine, engines that take turns, and the interval of what that gives."""

import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from test_engine_commands import TIMING, call, options

import engine_graphs
from conftest import ROOT
from core import processors, sources
from core.files import UserError, digest_of, sha256_file
from devices import probe
from measure import benchmark_cache, interleaved, paired

SCRIPTS = ("benchmark.py", "runtimes/openvino.py")
FACTS = {"engine": "a" * 64, "identity": {"version": "1"}, "recipe": {"warmup_ms": 1}, "power_mode": "15W"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return a function that asks a cache for a timing of some facts; its timings are numbered."""
    monkeypatch.setenv(benchmark_cache.FOLDER, str(tmp_path / "kept"))
    monkeypatch.setattr(benchmark_cache, "machine", lambda: "m" * 32)
    counter = itertools.count()

    def get(output="results/x.json", stable=True, scripts=SCRIPTS, **facts):
        given = benchmark_cache.BenchmarkCache(scripts, output, engine=FACTS["engine"])
        found = given.get(lambda: {"number": next(counter), "stable": stable}, **{**FACTS, **facts})
        return found["number"], found["timed"]

    get.folder = tmp_path / "kept"
    return get


def test_an_equal_key_gives_the_kept_timing(cache):
    assert cache() == (0, "new") and cache() == (0, "kept") and cache(output="results/other.json") == (0, "kept")


@pytest.mark.parametrize(
    "fact, value",
    [
        ("engine", "b" * 64),
        ("identity", {"version": "2"}),
        ("recipe", {"warmup_ms": 2}),
        ("power_mode", "MAXN"),
        ("power_mode", None),
        ("scripts", ("benchmark.py", "runtimes/onnxruntime.py")),
    ],
)
def test_another_key_is_timed_anew(cache, fact, value):
    cache()
    assert cache(**{fact: value}) == (1, "new") and cache() == (0, "kept"), "and the other is still there"


def test_fewer_processors_time_anew(cache, monkeypatch):
    """As under taskset, where the threads of the recipe share one."""
    cache()
    monkeypatch.setattr(processors, "available", lambda: 10**6)
    assert cache() == (1, "new")


def test_another_machine_times_anew(cache, monkeypatch):
    cache()
    monkeypatch.setattr(benchmark_cache, "machine", lambda: "n" * 32)
    assert cache() == (1, "new")


def test_what_is_not_stable_is_never_kept(cache):
    assert [cache(stable=False) for _ in range(2)] == [(0, "new"), (1, "new")]
    assert not cache.folder.exists() or not list(cache.folder.iterdir())


def test_asked_for_again_a_kept_timing_is_dropped_even_where_the_new_one_is_not_stable(cache, monkeypatch):
    cache()
    monkeypatch.setenv(benchmark_cache.RETIME, os.pathsep.join(["results/a.json", "results/x.json"]))
    assert cache(output="results/y.json") == (0, "kept"), "only what is asked for"
    assert cache(stable=False) == (1, "new")
    monkeypatch.delenv(benchmark_cache.RETIME)
    assert cache() == (2, "new") and cache() == (2, "kept")


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"parts": 1}', "edited", "folder"])
def test_a_damaged_file_counts_as_absent(cache, damage):
    cache()
    (path,) = cache.folder.iterdir()
    text = path.read_text()
    path.write_text(text.replace('"number": 0', '"number": 9') if damage == "edited" else damage)
    if damage == "folder":
        path.unlink()
        path.mkdir()
    assert cache() == (1, "new")


def test_nothing_is_kept_without_a_folder_or_a_machine_id(cache, monkeypatch):
    monkeypatch.setattr(benchmark_cache, "machine", lambda: None)
    assert cache() == (0, "new") and cache() == (1, "new")
    monkeypatch.setattr(benchmark_cache, "machine", lambda: "m")
    monkeypatch.delenv(benchmark_cache.FOLDER)
    assert cache() == (2, "new") and cache() == (3, "new") and not cache.folder.exists()


def test_a_folder_that_takes_nothing_costs_a_warning(cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(benchmark_cache.FOLDER, str(tmp_path / "file"))
    assert cache() == (0, "new") and cache() == (1, "new")


def test_a_machine_is_known_by_a_hash_that_does_not_tell_its_id(tmp_path):
    assert benchmark_cache.machine(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("\n")
    assert benchmark_cache.machine(tmp_path) is None, "as an image has it before its first start"
    found = []
    for text in ("0123456789abcdef0123456789abcdef\n", "0123456789abcdef0123456789abcdee\n"):
        (tmp_path / "etc/machine-id").write_text(text)
        found.append(benchmark_cache.machine(tmp_path))
    assert found[0] != found[1] and all(len(name) == 32 for name in found) and found[1][:8] != "01234567"


def test_only_code_that_times_counts(tmp_path, monkeypatch):
    """A comment anywhere, or the plumbing that every command has, is no reason to time again: case 13."""
    shutil.copytree(ROOT / "workflow_scripts", tmp_path / "s", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "ROOT", tmp_path / "s")

    def after(name, old, new):
        path = tmp_path / "s" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        sources._direct.cache_clear()
        sources._text.cache_clear()
        return benchmark_cache.timing_code(*SCRIPTS)

    before = benchmark_cache.timing_code(*SCRIPTS)
    assert {"benchmark.py", "measure/timing.py", "measure/stats.py", "runtimes/openvino.py"} <= set(before)
    assert after("measure/stats.py", '"""Statistics', '"""Our statistics') == before
    assert after("benchmark.py", "def run", "# what a command does\ndef run") == before
    assert after("core/command.py", "import argparse", "import argparse\nimport math") == before
    changed = after("measure/timing.py", "count += 1", "count += 2 - 1")
    assert {name for name in before if before[name] != changed[name]} == {"measure/timing.py"}


# The interval of a ratio


def test_the_interval_holds_the_median_as_often_as_it_says():
    for count in range(6, 31):
        index = paired._rank(count)
        missed = 2 * sum(math.comb(count, k) for k in range(index + 1)) / 2**count
        assert missed <= 0.05 < missed + 2 * math.comb(count, index + 1) / 2**count
    draw, hits = random.Random(0), 0
    for _ in range(4000):
        _, low, high = paired.interval([draw.lognormvariate(0, 0.3) for _ in range(interleaved.ROUNDS)])
        hits += low <= 1 <= high
    assert hits / 4000 == pytest.approx(0.9614, abs=0.01)


def test_a_ratio_of_speeds():
    times = [float(n) for n in range(1, 13)]
    assert paired.speed_ratio(times, [2 * t for t in times]) == {"ratio": 2.0, "low": 2.0, "high": 2.0}
    found = paired.interval(times)
    assert found == (6.5, 3.0, 10.0), "the third from either end"
    with pytest.raises(ValueError, match="5 rounds are too few"):
        paired.interval(times[:5])


def test_a_rise_of_load_between_rounds_moves_no_ratio_and_one_within_them_makes_it_wide():
    steady = [1.0 + n / 1000 for n in range(12)]
    load = [1.0] * 6 + [3.0] * 6
    pair = [[a * b for a, b in zip(steady, load)], [2 * b for b in load]]
    assert paired.is_stable(pair) and not paired.is_level(paired.speed_ratio(*pair))
    alternating = [steady, [0.5 if n % 2 else 2.0 for n in range(12)]]
    assert not paired.is_stable(alternating) and paired.is_level(paired.speed_ratio(*alternating))


# Turns


@pytest.mark.parametrize("count", range(2, 9))
def test_turns_are_balanced(count):
    rounds = [interleaved.order(count, number) for number in range(interleaved.ROUNDS)]
    assert all(sorted(one) == list(range(count)) for one in rounds)
    for one, other in itertools.combinations(range(count), 2):
        assert sum(order.index(one) < order.index(other) for order in rounds) == interleaved.ROUNDS / 2
    if interleaved.ROUNDS % (2 * count) == 0:
        places = [[order.index(one) for order in rounds] for one in range(count)]
        assert all(several.count(place) == interleaved.ROUNDS / count for several in places for place in range(count))


class Counted:
    """A contender that records its calls."""

    def __init__(self):
        self.asked = []

    def time(self, batch, loop, options):
        self.asked.append((batch, loop))
        return interleaved.Turn([float(len(self.asked))] * 3, 0.5)


def test_turns_take_as_long_as_a_benchmark_of_each_and_no_query_more():
    contenders = [Counted(), Counted()]
    pairs = [(contenders[0], 1), (contenders[0], 16), (contenders[1], 16)]
    found = interleaved.in_rounds(pairs, {"warmup_ms": 500, "duration_ms": 3000, "iterations": 50})
    assert [len(several) for several in found] == [interleaved.ROUNDS] * 3
    for one, batch in pairs:
        asked = [loop for of, loop in one.asked if of == batch]
        assert asked[0] == (500, 0, 1) and sum(loop[1] for loop in asked) == pytest.approx(3000)
        assert sum(loop[0] for loop in asked) <= 2 * 500 + interleaved.ROUNDS
        assert 50 <= sum(loop[2] for loop in asked[1:]) < 50 + interleaved.ROUNDS


def test_turns_in_short():
    turns = [interleaved.Turn([1.0, 3.0, 2.0], 0.006), interleaved.Turn([5.0], 0.01)]
    found = interleaved._summary(turns, batch=4)
    assert found["median_ms"] == [2.0, 5.0] and found["images_per_second"] == pytest.approx([2000, 400])
    assert found["latency_ms"] == {"median": 2.5, "p99": 5.0}, "of all queries"


# The commands, with a real runtime


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Two engines of ONNX Runtime with their scores on the select split; returns their folder."""
    folder = tmp_path_factory.mktemp("turns")
    engine_graphs.network(folder / "fp32.onnx")
    engine_graphs.quantized(folder / "int8.onnx")
    facts = probe.facts("onnxruntime")
    for name in ("fp32", "int8"):
        recipe = {"compute": name, "high_precision": "fp32", "batches": [1, 4], "threads": 1}
        given = options(onnx=str(folder / f"{name}.onnx"), runtime="onnxruntime", recipe=recipe, identity=facts)
        made = options(engine=str(folder / f"{name}.engine"), description=str(folder / f"{name}.json"))
        status, text = call("build_engine.py", *given, *made)
        assert status == 0, text
        score = {"top1": 98.0, "fp32_top1": 98.0, "num_images": 1000}
        score["engine_sha256"] = sha256_file(folder / f"{name}.engine")
        (folder / f"{name}.select.json").write_text(json.dumps(score))
    return folder


LIMITED = """
import runpy, sys
if __name__ == "__main__":
    sys.path.insert(0, {folder!r})
    from measure import paired
    paired.STABLE = {limit}
    runpy.run_path({folder!r} + "/paired_benchmark.py", run_name="__main__")
"""


def in_turns(folder, output, lost=None, batches=(1, 4), limit=paired.STABLE, **variables):
    """Run paired_benchmark.py; lost: the name of an engine that is not within the budget; limit: of what is stable."""
    rows = [{"precision": name, "batches": list(batches)} for name in ("fp32", "int8")]
    recipe = {**TIMING, "budget": 0.3, "candidates": rows}
    select = []
    for name in ("fp32", "int8"):
        score = json.loads((folder / f"{name}.select.json").read_text())
        select.append(folder / f"{output}.{name}.select.json")
        select[-1].write_text(json.dumps({**score, "top1": 90.0 if name == lost else 98.0}))
    given = ["--engines", *(folder / f"{name}.engine" for name in ("fp32", "int8")), "--select", *select]
    facts = options(runtime="onnxruntime", recipe=recipe, identity=probe.facts("onnxruntime"))
    given += [*facts, "--paired-benchmark", folder / f"{output}.json"]
    (folder / "limited.py").write_text(LIMITED.format(folder=str(ROOT / "workflow_scripts"), limit=limit))
    status, text = call(folder / "limited.py", *given, **variables)
    return (json.loads((folder / f"{output}.json").read_text()) if status == 0 else None), text


def test_finalists_take_turns(engines):
    found, text = in_turns(engines, "both")
    assert found, text
    assert found["finalists"] == ["fp32", "int8"] and [one["batch"] for one in found["paired_benchmark"]] == [1, 4]
    for entry in found["paired_benchmark"]:
        times = [engine["median_ms"] for engine in entry["engines"]]
        assert all(len(several) == interleaved.ROUNDS and min(several) > 0 for several in times)
        assert entry["stable"] == paired.is_stable(times) and (entry["timed"], entry["timing_key"]) == ("new", None)
        assert all(engine["latency_ms"]["p99"] >= engine["latency_ms"]["median"] for engine in entry["engines"])
        assert 0 <= entry["beside"]["others_percent"] <= 100 and entry["beside"]["load_after"] >= 0
        assert [e["engine_sha256"] for e in entry["engines"]] == [
            sha256_file(engines / f"{n}.engine") for n in ("fp32", "int8")
        ]
    assert "int8 is " in text and "times as fast as fp32" in text


def test_what_is_not_within_the_budget_does_not_run_and_one_alone_is_not_timed(engines):
    found, text = in_turns(engines, "one", lost="int8", batches=[4])
    assert found == {"finalists": ["fp32"], "paired_benchmark": []}, text
    found, text = in_turns(engines, "two batch sizes", lost="int8")
    assert [len(entry["engines"]) for entry in found["paired_benchmark"]] == [1, 1], text


def test_turns_that_are_stable_are_kept_and_given_again(engines, tmp_path):
    """Whether turns are stable is the machine's matter, so the limit decides here."""
    kept = tmp_path / "kept"
    never, text = in_turns(engines, "never", limit=0, LEVIT_BENCHMARKS=str(kept))
    assert not any(entry["stable"] for entry in never["paired_benchmark"]) and not kept.exists(), text
    first, text = in_turns(engines, "kept", limit=10**9, LEVIT_BENCHMARKS=str(kept))
    assert all(entry["stable"] for entry in first["paired_benchmark"]) and len(list(kept.iterdir())) == 1, text
    second, text = in_turns(engines, "again", LEVIT_BENCHMARKS=str(kept))
    for before, after in zip(first["paired_benchmark"], second["paired_benchmark"]):
        assert after == {**before, "timed": "kept"}
    assert "kept timing of 20" in text


def test_an_engine_that_cannot_be_loaded_is_named_in_one_line(engines):
    shutil.copy(engines / "int8.engine", engines / "whole.engine")
    (engines / "int8.engine").write_bytes((engines / "whole.engine").read_bytes()[:1000])
    score = json.loads((engines / "int8.select.json").read_text())
    changed = {**score, "engine_sha256": sha256_file(engines / "int8.engine")}
    (engines / "int8.select.json").write_text(json.dumps(changed))
    try:
        found, text = in_turns(engines, "broken")
    finally:
        shutil.move(engines / "whole.engine", engines / "int8.engine")
        (engines / "int8.select.json").write_text(json.dumps(score))
    lines = [line for line in text.splitlines() if "finalists" not in line]
    assert found is None and len(lines) == 1 and "int8.engine" in lines[0] and not (engines / "broken.json").exists()


def test_a_contender_that_dies_is_named(engines):
    contender = interleaved.EngineProcess("onnxruntime", str(engines / "fp32.engine"), 1)
    assert contender.facts["on_gpu"] is False and contender.time(1, (1, 1, 1), {}).latency[0] > 0
    os.kill(contender.process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"fp32.engine: its process died \(out of memory\?\)"):
        contender.time(1, (1, 1000, 1), {})


def test_contenders_end_with_the_command_that_started_them(engines):
    """However it ends: a process whose other end is gone ends by itself."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from measure import interleaved\n"
        "if __name__ == '__main__':\n"
        "    print(interleaved.EngineProcess('onnxruntime', sys.argv[2], 1).process.pid, flush=True); time.sleep(60)\n"
    )
    (engines / "parent.py").write_text(program)
    command = [sys.executable, engines / "parent.py", ROOT / "workflow_scripts", engines / "fp32.engine"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert ended(child)


def ended(process):
    """Return whether a process ends within ten seconds."""
    import time

    for _ in range(100):
        try:
            with open(f"/proc/{process}/stat") as stream:
                if stream.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_a_benchmark_that_is_stable_is_kept_per_batch(engines, tmp_path):
    facts = probe.facts("onnxruntime")
    given = options(engine=str(engines / "fp32.engine"), runtime="onnxruntime", identity=facts)

    def run(name, **recipe):
        output = tmp_path / f"{name}.json"
        status, text = call(
            "benchmark.py",
            *given,
            *options(benchmark=str(output), recipe={**TIMING, **recipe}),
            LEVIT_BENCHMARKS=str(tmp_path / "kept"),
        )
        assert status == 0, text
        return json.loads(output.read_text())["benchmark"]

    first = run("first")
    second = run("second")
    for before, after in zip(first, second):
        assert after["timed"] == ("kept" if before["stable"] else "new")
        assert not before["stable"] or {**after, "timed": "new"} == before
    assert all(entry["timed"] == "new" for entry in run("other", iterations=11))
    kept_keys = {path.stem for path in (tmp_path / "kept").glob("*.json")}
    assert all(entry["timing_key"] in kept_keys for entry in first if entry["stable"])
    assert digest_of(benchmark_cache.machine()) not in json.dumps(first)
