"""Check an engine's timing in four ways that must agree, both interfaces of TensorRT, and where the time goes.

python tests/gpu/cross_check.py ENGINE BATCH OUT.json [MILLISECONDS]
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

import numpy as np  # noqa: E402

import runtimes  # noqa: E402
from measure import meters, stats, timing  # noqa: E402
from runtimes import _gpu  # noqa: E402

ENQUEUES = 1000
OPTIONS = {
    "graph": {"cuda_graph": True, "transfers": False},
    "no_graph": {"cuda_graph": False, "transfers": False},
    "graph_with_transfers": {"cuda_graph": True, "transfers": True},
}


def images(session, batch):
    shape = [batch] + session.inputs[session.source][1:]
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def wall(session, batch, graph):
    """Return the milliseconds of a query from the host's clock over many that only compute."""
    pipeline = session.pipeline(images(session, batch), {"cuda_graph": graph, "transfers": False})
    slot, stream = pipeline.slots[0], pipeline.streams[1]
    for count in (100, ENQUEUES):
        start = time.perf_counter()
        for _ in range(count):
            slot.work()
        stream.synchronize()
    return {"ms": 1e3 * (time.perf_counter() - start) / ENQUEUES, "cuda_graph": pipeline.graphs}


def events(session, batch, options, milliseconds):
    """Return what the benchmark's own loop says."""
    times = session.time(images(session, batch), timing.Loop(200, milliseconds, 100, options, meters.gpu_meter()))
    count = len(times.latency)
    return {
        "compute": stats.summary(times.compute),
        "latency": stats.summary(times.latency),
        "enqueue": stats.summary(times.enqueue),
        "queries_ms": 1e3 * times.wall / count,
        "queries": count,
        "cuda_graph": session.facts["cuda_graph"],
        "energy_mj_per_image": times.energy / (count * batch) if times.energy else None,
        "variation": stats.variation(times.compute),
    }


def main():
    engine, batch, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    milliseconds = int(sys.argv[4]) if len(sys.argv) > 4 else 1000
    runtime = runtimes.load("tensorrt")
    found = {"batch": batch}

    def keep(name, function):
        """Note what a function says, or its error, and go on."""
        try:
            found[name] = function()
        except Exception as error:  # noqa: BLE001
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        Path(out + ".partial").write_text(json.dumps(found, indent=1))

    session = runtime.load(engine)
    for name, options in OPTIONS.items():
        keep(name, lambda options=options: events(session, batch, options, milliseconds))
    keep("wall_graph", lambda: wall(session, batch, True))
    keep("wall_no_graph", lambda: wall(session, batch, False))
    interfaces = [kind for kind in (_gpu.Tensors, _gpu.Bindings) if kind.is_available(runtime.library())]
    sessions = {kind.__name__: runtime.load(engine, interface=kind) for kind in interfaces}
    logits = {name: one.run(images(one, batch)) for name, one in sessions.items()}
    found["interfaces"] = {name: float(np.abs(value - logits["Tensors"]).max()) for name, value in logits.items()}
    for name, one in sessions.items():
        keep(f"{name}_graph", lambda one=one: events(one, batch, OPTIONS["graph"], milliseconds))
    keep("layers", lambda: runtime.profile(engine, batch))
    Path(out + ".partial").rename(out)


if __name__ == "__main__":
    main()
