"""The command lines from a graph to a result JSON, end to end on a small network, and what they refuse."""

import json
import subprocess

import numpy as np
import pytest

import engine_graphs
import fake_trtexec
import forks
import profile_engine
from conftest import ROOT
from core.files import UserError, canonical, sha256_file
from described import model_file
from devices import probe

MODEL = "model.json"
TIMING = {"batches": [1, 4], "warmup_ms": 20, "duration_ms": 50, "iterations": 10, "threads": 1}
COUNT = 30


def call(script, *arguments, **environment):
    """Run a command line of ours; return (status, its output on stderr)."""
    command = [forks.python_without_torch(), str(ROOT / "workflow_scripts" / script)] + [str(a) for a in arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment})
    return done.returncode, done.stderr


def options(**values):
    """Return {name: value} as --name value."""
    texts = {name: value if isinstance(value, str) else canonical(value) for name, value in values.items()}
    return [part for name, text in texts.items() for part in ("--" + name.replace("_", "-"), text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network, its dataset and its reference logits, with labels on which FP32 is right on 20 of 30."""
    folder = tmp_path_factory.mktemp("commands")
    engine_graphs.network(folder / "net.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3)).astype(np.uint8)
    with open(folder / "val.u8", "wb") as stream:
        np.save(stream, pixels)
    inputs = ((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)
    logits = engine_graphs.expected(inputs).astype(np.float32)
    np.save(folder / "reference.npy", logits)
    order = np.argsort(-logits, axis=1)
    labels = [int(order[i, 0 if i < 20 else 1]) for i in range(COUNT)]
    images = [{"path": f"{i}.png", "label": label, "bytes": 1, "sha256": None} for i, label in enumerate(labels)]
    splits = {"train": [], "calib": [], "select": list(range(COUNT)), "val": list(range(COUNT))}
    index = {"classes": [str(c) for c in range(10)], "root": "images", "images": images, "splits": splits}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "net.pth").write_bytes(b"weights")
    model_file(folder, {"size": 16, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}, MODEL)
    return folder


def build(folder, runtime, engine="net.engine", graph="net.onnx", **recipe):
    recipe = {"compute": "fp32", "batches": [1, 4], "threads": 1, **recipe}
    return call(
        "build_engine.py",
        *options(onnx=str(folder / graph), runtime=runtime, recipe=recipe, identity=probe.facts(runtime)),
        *options(engine=str(folder / engine), description=str(folder / f"{engine}.json")),
    )


def build_by_plan(folder, runtime, tolerance):
    """Build the quantized network by a plan without nodes, which grows by all that is quantized."""
    engine_graphs.quantized(folder / "int8.onnx")
    plan = {"compute": "int8", "fallback_precision": "fp16", "nodes": [], "nodes_total": 16, "nodes_high_precision": 0}
    plan.update(criterion={"budget": 100.0, "tolerance": tolerance}, met=True, measured={}, graph=[])
    plan["groups"] = [{"name": "all", "nodes": ["/qkv", "/conv"], "effect": 0.1}]
    (folder / "plan.json").write_text(json.dumps(plan))
    names = ("val.u8", "index.json", "reference.npy")
    recipe = {"compute": "int8", "high_precision": "fp32", "batches": [1, 4], "threads": 1}
    verification = {"typed": False}
    return call(
        "build_engine.py",
        *options(onnx=str(folder / "int8.onnx"), runtime=runtime, recipe=recipe, identity=probe.facts(runtime)),
        *options(plan=str(folder / "plan.json"), verification=verification, model=str(folder / MODEL)),
        *["--select", *(str(folder / name) for name in names)],
        *options(engine=str(folder / "int8.engine"), description=str(folder / "int8.json")),
    )


def evaluate(folder, runtime, engine, accuracy="accuracy.json", **changes):
    given = {"engine": folder / engine, "images": folder / "val.u8", "index": folder / "index.json"}
    given.update(reference=folder / "reference.npy", accuracy=folder / accuracy)
    given = {name: str(path) for name, path in {**given, **changes}.items()}
    more = options(
        runtime=runtime, split="val", model=str(folder / MODEL), recipe={"threads": 1}, identity=probe.facts(runtime)
    )
    return call("evaluate_engine.py", *options(**given), *more)


def benchmark(folder, runtime, engine):
    where = options(engine=str(folder / engine), benchmark=str(folder / "benchmark.json"))
    return call("benchmark.py", *where, *options(runtime=runtime, recipe=TIMING, identity=probe.facts(runtime)))


def assemble(folder, **changes):
    names = {"description": "net.engine.json", "engine": "net.engine", "accuracy": "accuracy.json"}
    names.update(graph="net.onnx")
    names.update(
        benchmark="benchmark.json", identity="identity.json", checkpoint="net.pth", index="index.json", resolved=MODEL
    )
    given = {name: str(folder / path) for name, path in {**names, **changes}.items()}
    given["trtexec"] = given.get("trtexec", "")
    given.update(model="M", precision="fp32", target="cpu", dataset="digits", recipe={"a": 1}, budget=0.1)
    return call("assemble_result.py", *options(**given), "--result", folder / "result.json")


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def result(request, folder):
    """Every command on a runtime; returns the folder with what they wrote."""
    runtime = request.param
    target = options(target={"runtime": runtime}, identity=str(folder / "identity.json"))
    steps = [build(folder, runtime), call("fingerprint.py", *target), evaluate(folder, runtime, "net.engine")]
    for status, text in steps + [benchmark(folder, runtime, "net.engine"), assemble(folder)]:
        assert status == 0, text
    return runtime, folder


def test_result(result):
    runtime, folder = result
    found = read(folder / "result.json")
    assert found["accuracy"]["top1"] == pytest.approx(100 * 20 / COUNT)
    assert found["accuracy"]["agreement_with_fp32"] == 100.0 and found["accuracy"]["within_budget"]
    assert found["accuracy"]["max_abs_logit_error"] < 1e-4
    whole = {"name": "digits", "split": "val", "num_images": COUNT, "num_classes": 10, "subset": None}
    older = {"class_order": None, "class_names": None, "left_out": None}  # the index is one of before these
    assert found["dataset"] == {**whole, **older}
    assert found["engine"]["sha256"] == sha256_file(folder / "net.engine") and found["engine"]["engine_builds"] == 1
    assert found["engine"]["layers"] >= found["engine"]["precision_of_layers"]["fp32"] > 0
    assert found["engine"]["warnings"] == [] and found["trtexec"] is None
    assert found["provenance"]["graph_sha256"] == sha256_file(folder / "net.onnx")
    assert found["provenance"]["calibration_sha256"] is None and found["plan"] is None
    assert found["provenance"]["versions"][runtime] == probe.facts(runtime)["version"]
    assert found["target_identity"]["runtime"] == runtime
    assert found["checkpoint_bytes"] == len(b"weights")


def test_timings(result):
    entries = read(result[1] / "result.json")["benchmark"]
    assert [entry["batch"] for entry in entries] == [1, 4]
    for entry in entries:
        assert entry["iterations"] >= 10 and entry["threads"] == 1
        assert entry["images_per_second"] == pytest.approx(entry["throughput_qps"] * entry["batch"])
        assert entry["throughput_qps"] <= 1000 / entry["latency_ms"]["mean"]
        assert entry["h2d_ms"] is entry["d2h_ms"] is entry["enqueue_ms"] is entry["energy_mj_per_image"] is None
        assert entry["compute_ms"] == entry["latency_ms"]
        assert entry["latency_ms"]["min"] <= entry["latency_ms"]["median"] <= entry["latency_ms"]["p99"]


def test_trtexec_beside_our_timing(result, tmp_path):
    """Of a trtexec whose times are known; it runs the engine with ONNX Runtime, so OpenVINO's is not for it."""
    runtime, folder = result
    fake_trtexec.install(tmp_path, "8")
    given = options(engine=str(folder / "net.engine"), trtexec=str(folder / "trtexec.json"), runtime=runtime)
    path = f"{tmp_path}:/usr/bin:/bin"
    status, text = call("run_trtexec.py", *given, *options(recipe=TIMING, identity=probe.facts(runtime)), PATH=path)
    if runtime == "openvino":
        assert status == 1 and "trtexec failed with status 1: Engine deserialization failed: " in text
        assert not (folder / "trtexec.json").exists()
        return
    assert status == 0, text
    status, text = assemble(folder, trtexec="trtexec.json")
    assert status == 0, text
    found = read(folder / "result.json")
    for ours, theirs, median in zip(found["benchmark"], found["trtexec"], (1.45, 5.8)):
        assert theirs["batch"] == ours["batch"] and theirs["compute_ms"]["median"] == pytest.approx(median)
        assert theirs["median_compute_ratio"] == pytest.approx(ours["compute_ms"]["median"] / median)
    assert "warning: at batch 4 our median compute is 0.0" in text, "this network takes microseconds"
    (folder / "other.json").write_text(json.dumps({**read(folder / "trtexec.json"), "engine_sha256": "0"}))
    status, text = assemble(folder, trtexec="other.json")
    assert status == 1 and "other.json is of another engine" in text
    assert assemble(folder)[0] == 0 and read(folder / "result.json")["trtexec"] is None


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_plan_that_an_int8_engine_misses_grows_and_is_met(folder, runtime):
    status, text = build_by_plan(folder, runtime, tolerance=1e-3)
    assert status == 0, text
    found = read(folder / "int8.json")
    assert [verdict["met"] for verdict in found["select"]] == [False, True] and found["engine_builds"] == 2
    assert found["precision_of_layers"]["int8"] == 0 and found["plan"]["nodes"] == ["/conv", "/qkv"]
    assert found["plan"]["engine"] == found["select"][1], "of the engine that is kept"
    assert not [path for path in folder.iterdir() if "grown" in path.name]
    assert evaluate(folder, runtime, "int8.engine", "int8.accuracy.json")[0] == 0
    assert read(folder / "int8.accuracy.json")["max_abs_logit_error"] < 1e-3


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_plan_that_an_int8_engine_meets_costs_one_build(folder, runtime):
    status, text = build_by_plan(folder, runtime, tolerance=100.0)
    assert status == 0, text
    found = read(folder / "int8.json")
    assert found["engine_builds"] == 1 and found["select"][0]["met"] and found["precision_of_layers"]["int8"] > 0
    assert found["plan"]["engine"] == found["select"][0]


def test_plain_onnx_is_evaluated(folder):
    status, text = evaluate(folder, "onnxruntime", "net.onnx", "onnx.json")
    assert status == 0, text
    found = read(folder / "onnx.json")
    assert found["top1"] == pytest.approx(100 * 20 / COUNT) and found["split"] == "val"
    assert "top-1 66.67 % of 30 images, PyTorch FP32 66.67 %: net loss 0 images (0 lost, 0 gained" in text


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_two_processes_build_equal_bytes(folder, runtime):
    for name in ("one.engine", "two.engine"):
        assert build(folder, runtime, name)[0] == 0
    assert (folder / "one.engine").read_bytes() == (folder / "two.engine").read_bytes()


def test_wrong_identity(folder):
    identity = {**probe.facts("openvino"), "version": "2020.1"}
    where = options(engine=str(folder / "x.engine"), description=str(folder / "x.json"), onnx=str(folder / "net.onnx"))
    recipe = options(runtime="openvino", recipe={"compute": "fp32", "batches": [1]}, identity=identity)
    status, text = call("build_engine.py", *where, *recipe)
    assert status == 1 and "error: the target's version is 2020.1, and here it is" in text
    assert not (folder / "x.engine").exists() and not (folder / "x.engine.partial").exists()


def test_store_key_has_the_runtime(folder, tmp_path):
    """Another identity or recipe is another key; the same one is answered from the store."""
    arguments = options(onnx=str(folder / "net.onnx"), runtime="onnxruntime", identity=probe.facts("onnxruntime"))
    texts = []
    for batches in ([1], [1], [1, 2]):
        out = options(engine=str(tmp_path / "e"), description=str(tmp_path / "d"))
        recipe = options(recipe={"compute": "fp32", "batches": batches})
        texts.append(call("build_engine.py", *arguments, *recipe, *out, LEVIT_STORE=str(tmp_path / "store"))[1])
    assert ["from the store" in text for text in texts] == [False, True, False]


def test_nan_logits_name_the_image(folder):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(folder / "net.onnx"))
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "b_head")
    head.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), "b_head"))
    onnx.save(model, str(folder / "nan.onnx"))
    status, text = evaluate(folder, "onnxruntime", "nan.onnx", "nan.json")
    assert status == 1 and "nan.onnx: 30 images have logits that are not finite, the first is" in text
    assert "0.png" in text and not (folder / "nan.json").exists()


def test_evaluation_of_what_does_not_fit(folder):
    (folder / "text.npy").write_text("no array")
    status, text = evaluate(folder, "onnxruntime", "net.onnx", reference=folder / "text.npy")
    assert status == 1 and "text.npy is not a .npy of logits" in text
    np.save(folder / "short.npy", np.zeros((3, 10), np.float32))
    status, text = evaluate(folder, "onnxruntime", "net.onnx", reference=folder / "short.npy")
    assert status == 1 and "the reference's logits are [3, 10], the engine's [30, 10]" in text
    table = read(folder / "index.json")
    (folder / "more.json").write_text(json.dumps({**table, "classes": table["classes"] + ["x"]}))
    status, text = evaluate(folder, "onnxruntime", "net.onnx", index=folder / "more.json")
    assert status == 1 and "net.onnx has 10 classes, and the dataset 11" in text


def test_batch_that_was_not_built(folder):
    assert build(folder, "openvino", "one.engine", batches=[1])[0] == 0
    status, text = benchmark(folder, "openvino", "one.engine")
    assert status == 1 and "has no batch 4, only 1: add it to the target's batches" in text


def test_unknown_runtime(folder):
    arguments = options(engine=str(folder / "net.onnx"), benchmark=str(folder / "b.json"), runtime="openvin")
    status, text = call("benchmark.py", *arguments, *options(recipe=TIMING, identity={}))
    assert status == 1 and "unknown runtime openvin: did you mean openvino" in text


@pytest.mark.skipif(probe.unreachable({"runtime": "tensorrt_rtx"}) is None, reason="this machine can run it")
def test_rtx_benchmark_is_refused_in_one_line(folder):
    (folder / "rtx.engine").write_bytes(b"plan")
    arguments = options(engine=str(folder / "rtx.engine"), benchmark=str(folder / "b.json"), runtime="tensorrt_rtx")
    status, text = call("benchmark.py", *arguments, *options(recipe=TIMING, identity={}))
    assert status == 1 and text.count("\n") == 1 and "rtx.engine cannot be loaded here: " in text
    assert "take the engine file to a machine that can run it" in text


# Profiles


def profiled(folder, runtime, batches, engine="net.engine"):
    given = options(engine=str(folder / engine), profile=str(folder / "profile.json"), runtime=runtime)
    recipe = {"batches": batches, "threads": 1}
    return call("profile_engine.py", *given, *options(recipe=recipe, identity=probe.facts(runtime)))


@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_profile_of_each_layer(result, compute):
    (runtime, folder), engine = result, f"{compute}.engine"
    graph, batches = f"{compute}.onnx", [32, 64]  # large enough to take microseconds
    {"fp32": engine_graphs.network, "int8": engine_graphs.quantized}[compute](folder / graph)
    assert build(folder, runtime, engine, graph, compute=compute, high_precision="fp32", batches=batches)[0] == 0
    status, text = profiled(folder, runtime, batches, engine)
    assert status == 0, text
    built, found = read(folder / f"{engine}.json"), read(folder / "profile.json")
    assert found["engine_sha256"] == sha256_file(folder / engine)
    assert [one["batch"] for one in found["profile"]] == batches
    for one in found["profile"]:
        assert len(one["layers"]) >= built["layer_count"] - 1, "all layers, those of no microsecond as well"
        assert sum(layer["share"] for layer in one["layers"]) == pytest.approx(1)
        for name in ("precision", "type"):
            parts = one[f"ms_by_{name}"]
            assert sum(parts.values()) == pytest.approx(one["total_ms"]) and compute in one["ms_by_precision"]
            assert set(parts) == {layer[name] for layer in one["layers"]}
        shown = (
            text.split(f"batch {one['batch']}: {len(one['layers'])} layers in ")[1].split("batch ")[0].splitlines()[1:]
        )
        slowest = sorted((layer["ms"] for layer in one["layers"]), reverse=True)[:10]
        assert [line.split()[0] for line in shown] == [f"{ms:.4f}" for ms in slowest]


def test_profile_of_a_batch_that_was_not_built(folder):
    assert build(folder, "openvino", "one.engine", batches=[1])[0] == 0
    status, text = profiled(folder, "openvino", [4], "one.engine")
    assert status == 1 and "one.engine: OpenVINO cannot load its batch 4" in text and "error: " in text


def test_profile_without_times():
    with pytest.raises(UserError, match="the runtime reports no time for any of the 1 layers at batch 2"):
        profile_engine.profile(2, [{"name": "a", "type": "b", "precision": "fp32", "ms": 0.0}])


def test_sums_and_shares():
    layers = [("conv", "fp32", 1.5), ("conv", "int8", 1.0), ("add", "fp32", 0.5), ("conv", "int8", 2.0)]
    rows = [{"name": str(n), "type": kind, "precision": p, "ms": ms} for n, (kind, p, ms) in enumerate(layers)]
    found = profile_engine.profile(1, rows)
    assert found["total_ms"] == 5.0 and found["ms_by_type"] == {"conv": 4.5, "add": 0.5}
    assert found["ms_by_precision"] == {"fp32": 2.0, "int8": 3.0}
    assert [layer["share"] for layer in found["layers"]] == [0.3, 0.2, 0.1, 0.4]
