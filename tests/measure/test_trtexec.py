"""trtexec beside our own timing: its exported times through our statistics, its options by version, our command."""

import argparse
import json
import subprocess

import pytest

import engine_graphs
import fake_trtexec
import forks
import run_trtexec
import runtimes
from conftest import ROOT
from core.files import UserError, canonical, sha256_file
from devices import probe, toolchain
from measure import stats, trtexec

RECIPE = {"batches": [1, 4], "warmup_ms": 200, "duration_ms": 500, "iterations": 10}


# Exported times


def query(number, compute):
    """Return a row as trtexec writes it: a copy of 0.5 ms, the network, a copy of 0.25 ms, one query each 10 ms."""
    return fake_trtexec.trace(10.0 * number, compute, True)


def exported(path, rows):
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def export(tmp_path):
    """1,000 queries whose networks take 1.001, 1.002, ... 2 ms, in another order."""
    computes = [1 + ((7 * number) % 1000 + 1) / 1000 for number in range(1000)]
    return exported(tmp_path / "times.json", [query(n, compute) for n, compute in enumerate(computes)]), computes


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


# Four queries of each published format, numbers as one reads them there; the first began within a warm-up of 100 ms.
OLDEST = [  # copies are named in and out, nothing is said of the enqueue
    {
        **{"startInMs": start, "endInMs": start + 0.25, "startComputeMs": start + 0.25},
        **{"endComputeMs": start + 0.25 + compute, "startOutMs": start + 0.25 + compute},
        **{"endOutMs": start + 0.5 + compute, "inMs": 0.25, "computeMs": compute, "outMs": 0.25},
        **{"latencyMs": compute + 0.5, "endToEndMs": compute + 1},
    }
    for start, compute in ((99, 9), (110, 2), (120, 4), (130, 3))
]
OLDER = [  # as the newest, with a duration from end to end, and the warm-up exported as well
    {**fake_trtexec.trace(start, compute, True), "endToEndMs": compute + 1}
    for start, compute in ((90, 9), (110, 2), (120, 4), (130, 3))
]
NEWER = [fake_trtexec.trace(start, compute, True) for start, compute in ((110, 2), (120, 4), (130, 3))]
SUMMARY = {"min": 2, "max": 4, "mean": 3, "median": 3, "p90": 4, "p95": 4, "p99": 4}  # of 2, 4, 3: n-1-int(0.1*3) = 2


@pytest.mark.parametrize(
    "rows, copies, enqueue",
    [(OLDEST, (0.25, 0.25), None), (OLDER, (0.5, 0.25), 0.125), (NEWER, (0.5, 0.25), 0.125)],
    ids=["oldest", "older", "newer"],
)
def test_formats_of_versions(tmp_path, rows, copies, enqueue):
    times = trtexec.read(exported(tmp_path / "times.json", rows), 100)
    assert stats.summary(times.compute) == SUMMARY
    assert stats.summary(times.latency) == {name: value + sum(copies) for name, value in SUMMARY.items()}
    assert (set(times.h2d), set(times.d2h)) == ({copies[0]}, {copies[1]})
    assert times.wall == pytest.approx((130 + 3 + sum(copies) - 110) / 1e3), "from the first copy to the last one's end"
    assert 3 / times.wall == pytest.approx(3000 / (23 + sum(copies))), "trtexec's throughput"
    assert times.enqueue is None if enqueue is None else set(times.enqueue) == {enqueue}


def test_copies_that_were_not_timed_are_none(tmp_path):
    rows = [fake_trtexec.trace(start, 2.0, False) for start in (0.0, 10.0)]
    times = trtexec.read(exported(tmp_path / "times.json", rows))
    assert times.h2d is None and times.d2h is None and list(times.latency) == list(times.compute) == [2.0, 2.0]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"latencyMs": 1}]'])
def test_other_files(tmp_path, text):
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(UserError, match="times.json is not a file of trtexec --exportTimes"):
        trtexec.read(tmp_path / "times.json")


def test_nothing_but_warm_up(tmp_path):
    with pytest.raises(UserError, match="with queries after the warm-up"):
        trtexec.read(exported(tmp_path / "times.json", NEWER), 1000)


# Options


@pytest.mark.parametrize(
    "version, options, switches",
    [
        ("8", {}, ["--useCudaGraph", "--useSpinWait"]),
        ("8", {"cuda_graph": True, "spin_wait": False, "transfers": False}, ["--useCudaGraph", "--noDataTransfers"]),
        ("8", {"cuda_graph": False, "spin_wait": False, "transfers": True}, []),
        ("11", {}, ["--includeDataTransfers"]),
        ("11", {"cuda_graph": True, "spin_wait": False, "transfers": False}, ["--noSpinWait"]),
        ("11", {"cuda_graph": False, "transfers": True}, ["--noCudaGraph", "--includeDataTransfers"]),
    ],
)
def test_switches_as_the_installed_version_has_them(tmp_path, version, options, switches):
    fake_trtexec.install(tmp_path, version)
    tool = trtexec.Trtexec(str(tmp_path / "trtexec"))
    assert tool.version == f"{version}000" and "--notAnOption" not in tool.known
    found = tool.arguments("a b.engine", "input_0:1x3x4x4", 0, {**RECIPE, **options}, "t.json")
    assert found[:2] == ["--loadEngine=a b.engine", "--shapes=input_0:1x3x4x4"]
    assert found[2:5] == ["--warmUp=200", "--duration=0.5", "--iterations=10"]
    assert found[5:] == [*switches, "--exportTimes=t.json"]
    fixed = tool.arguments("a b.engine", None, 0, {**RECIPE, **options}, "t.json")
    assert fixed == [argument for argument in found if not argument.startswith("--shapes")]


def test_profile_of_the_engine(tmp_path):
    fake_trtexec.install(tmp_path / "8", "8")
    fake_trtexec.install(tmp_path / "11", "11")
    older, newer = (trtexec.Trtexec(str(tmp_path / version / "trtexec")) for version in ("8", "11"))
    assert older.serves(0) and not older.serves(1) and newer.serves(1)
    assert newer.arguments("e", "i:1", 1, RECIPE, "t")[-2:] == ["--useProfile=1", "--exportTimes=t"]


def test_it_loads_the_plugin_that_the_engine_needs(tmp_path, monkeypatch):
    fake_trtexec.install(tmp_path, "8")
    tool = trtexec.Trtexec(str(tmp_path / "trtexec"))
    assert not any("lugins" in argument for argument in tool.arguments("e", None, 0, RECIPE, "t"))
    monkeypatch.setenv(runtimes.PLUGIN, "/a b.so")
    assert "--plugins=/a b.so" in tool.arguments("e", None, 0, RECIPE, "t")
    tool.known.add("--staticPlugins")
    assert "--staticPlugins=/a b.so" in tool.arguments("e", None, 0, RECIPE, "t")


def test_what_is_no_trtexec(tmp_path):
    with pytest.raises(UserError, match="true --help lists no --loadEngine: it is not trtexec"):
        trtexec.Trtexec("/bin/true")
    (tmp_path / "trtexec").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "trtexec").chmod(0o755)
    with pytest.raises(UserError, match="trtexec does not start .*: set `trtexec: false` in the row"):
        trtexec.Trtexec(str(tmp_path / "trtexec"))


def test_where_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(toolchain, "TRTEXEC", str(tmp_path / "packaged" / "trtexec"))
    assert trtexec.find() is None
    for place in ("packaged", "path"):
        fake_trtexec.install(tmp_path / place, "8")
        assert trtexec.find().program == str(tmp_path / place / "trtexec"), "PATH comes first"
    fake_trtexec.install(tmp_path / "path", "11")
    assert trtexec.find("8.0.0.1").program == str(tmp_path / "packaged" / "trtexec"), "unless it is another TensorRT's"
    assert trtexec.find("9.1.0").program == trtexec.find("11.0.0").program == str(tmp_path / "path" / "trtexec")


@pytest.mark.parametrize(
    "printed, version, same",
    [
        ("8502", "8.5.2.2", True),
        ("8503", "8.5.2.2", False),
        ("8601", "8.6.1", True),
        ("100300", "10.3.0.30", True),
        ("101303", "10.13.3.9", True),
        ("101303", "10.3.0.30", False),
        (None, "8.5.2.2", False),
    ],
)
def test_version_as_it_prints_it(tmp_path, printed, version, same):
    fake_trtexec.install(tmp_path, "8")
    tool = trtexec.Trtexec(str(tmp_path / "trtexec"))
    tool.version = printed
    assert tool.is_of(version) == same


# The command line


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """An engine of ONNX Runtime, built in a process of its own, in a folder with a blank in its name."""
    folder = tmp_path_factory.mktemp("an engine")
    engine_graphs.network(folder / "net.onnx")
    given = {"--onnx": folder / "net.onnx", "--runtime": "onnxruntime", "--engine": folder / "net.engine"}
    given.update({"--recipe": canonical({"compute": "fp32", "batches": [1, 4]}), "--description": folder / "net.json"})
    given["--identity"] = canonical(probe.facts("onnxruntime"))
    status, text = call("build_engine.py", given)
    assert status == 0, text
    return folder / "net.engine"


def call(script, given, path="/usr/bin:/bin"):
    arguments = [str(part) for pair in given.items() for part in pair]
    command = [forks.python_without_torch(), str(ROOT / "workflow_scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": path})
    return done.returncode, done.stderr


def timed(engine, folder, recipe=RECIPE):
    """Run the command with the trtexec of a folder; return (status, its log, what it wrote)."""
    given = {"--engine": engine, "--runtime": "onnxruntime", "--recipe": canonical(recipe), "--identity": "{}"}
    out = folder / "out.json"
    status, text = call("run_trtexec.py", {**given, "--trtexec": out}, f"{folder}:/usr/bin:/bin")
    return status, text, json.loads(out.read_text()) if out.exists() else None


@pytest.mark.parametrize("version", ["8", "11"])
def test_known_numbers(engine, tmp_path, version):
    calls = fake_trtexec.install(tmp_path, version)
    status, text, found = timed(engine, tmp_path)
    assert status == 0, text
    assert found["installed"] and found["version"] == f"{version}000"
    assert found["engine_sha256"] == sha256_file(engine)
    assert [entry["batch"] for entry in found["trtexec"]] == [1, 4]
    for entry, batch in zip(found["trtexec"], (1, 4)):
        by_hand = {"min": 1.0, "median": 1.45, "mean": 1.45, "p90": 1.8, "p95": 1.9, "p99": 1.9, "max": 1.9}
        assert entry["compute_ms"] == pytest.approx({name: batch * value for name, value in by_hand.items()})
        assert entry["latency_ms"] == pytest.approx({n: batch * value + 0.75 for n, value in by_hand.items()})
        assert entry["h2d_ms"]["median"] == 0.5 and entry["d2h_ms"]["max"] == 0.25
        assert entry["enqueue_ms"]["mean"] == pytest.approx(0.125) and entry["iterations"] == 10
        assert entry["throughput_qps"] == pytest.approx(10 / ((90 + 0.75 + batch * 1.6) / 1e3))
    shapes = [argument for line in calls.read_text().splitlines() for argument in json.loads(line)]
    assert [one for one in shapes if one.startswith("--shapes")] == [f"--shapes=input_0:{n}x3x16x16" for n in (1, 4)]
    assert "batch 4: trtexec's compute: median 5.800 ms, p99 7.600 ms, 10 queries" in text


def test_without_copies(engine, tmp_path):
    fake_trtexec.install(tmp_path, "8")
    status, text, found = timed(engine, tmp_path, {**RECIPE, "transfers": False})
    assert status == 0, text
    for entry in found["trtexec"]:
        assert entry["h2d_ms"] is None and entry["d2h_ms"] is None and entry["latency_ms"] == entry["compute_ms"]


@pytest.mark.skipif(toolchain.trtexec() != [], reason="trtexec is installed here")
def test_where_it_is_not_installed(engine, tmp_path):
    status, text, found = timed(engine, tmp_path)
    assert status == 0 and "trtexec is not installed here (neither on PATH nor /usr/src/tensorrt/bin/trtexec)" in text
    sha256 = sha256_file(engine)
    assert found == {"installed": False, "engine_sha256": sha256, "version": None, "trtexec": []}


def test_its_last_error_is_told_in_a_line(engine, tmp_path):
    fake_trtexec.install(tmp_path, "8")
    status, text, found = timed(engine, tmp_path, {**RECIPE, "batches": [0]})
    assert (status, found) == (1, None)
    assert "trtexec failed with status 1: Static dimension mismatch while setting input shape: " in text
    assert text.splitlines()[-1].endswith("set `trtexec: false` in the target's row to do without it")


def test_older_versions_run_the_first_profile_alone(engine, tmp_path, monkeypatch, caplog):
    queries = [(1, "input_0:1x3x16x16", 0), (4, "input_0:4x3x16x16", 1)]
    monkeypatch.setattr(run_trtexec, "queries", lambda *given: queries)
    given = {"runtime": "tensorrt", "engine": str(engine), "recipe": RECIPE}
    args = type("Args", (), {**given, "identity": {}, "plugin": None, "final": str})
    for version, batches in (("8", [1]), ("11", [1, 4])):
        calls = fake_trtexec.install(tmp_path / version, version)
        monkeypatch.setenv("PATH", f"{calls.parent}:/usr/bin:/bin")
        tool = trtexec.Trtexec(str(calls.parent / "trtexec"))
        assert [entry["batch"] for entry in run_trtexec.entries(tool, args, "0" * 64)] == batches
    assert "--useProfile=1" in json.loads(calls.read_text().splitlines()[1])


def test_queries_name_the_engine_s_input_and_profile(monkeypatch):
    class Session(runtimes.Session):
        inputs = {"input_0": (-1, 3, 16, 16)}

        def optimization_profile(self, batch):
            return {1: 0, 16: 1}[batch]

    class Runtime:
        load = staticmethod(lambda engine: Session())

    monkeypatch.setattr(runtimes, "load", lambda name, plugin: Runtime)
    args = argparse.Namespace(runtime="tensorrt", plugin=None, engine="e")
    found = run_trtexec.queries(args, [1, 16])
    assert found == [(1, "input_0:1x3x16x16", 0), (16, "input_0:16x3x16x16", 1)]
