"""Time TensorRT engines of one batch size in turns, in one process, and the layers of each.

    LEVIT_PLUGIN=liblevit_attention.so python tests/gpu/turns.py OUT.json BATCH ENGINE ENGINE... [--transfers]

Each turn is a CUDA graph, without transfers unless they are asked for; `over_first` has each engine's speed over the
first one's.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

import runtimes  # noqa: E402
from measure import interleaved, meters, paired, stats, timing  # noqa: E402

OPTIONS = {"cuda_graph": True, "spin_wait": True, "transfers": False}
WARMUP_MS, FIRST_MS, TURN_MS = 60, 1000, 250  # of each turn, of the first run, of a turn
LEAST = 20  # queries of a turn


def turn(session, images, milliseconds, meter):
    times = session.time(images, timing.Loop(WARMUP_MS, milliseconds, LEAST, OPTIONS, meter))
    count = len(times.compute) * len(images)
    queries = times.latency if OPTIONS["transfers"] else times.compute
    return stats.median(sorted(map(float, queries))), times.energy and times.energy / count


def main():
    out, batch, paths = sys.argv[1], int(sys.argv[2]), [word for word in sys.argv[3:] if word != "--transfers"]
    OPTIONS["transfers"] = "--transfers" in sys.argv
    runtime, meter = runtimes.load("tensorrt"), meters.gpu_meter()
    sessions = [runtime.load(path) for path in paths]
    images = [timing.images_for(session, batch) for session in sessions]
    for session, own in zip(sessions, images):
        turn(session, own, FIRST_MS, meter)
    turns = [[] for _ in sessions]
    for number in range(interleaved.ROUNDS):
        for place in interleaved.order(len(sessions), number):
            turns[place].append(turn(sessions[place], images[place], TURN_MS, meter))
    found, first = {"batch": batch, "state": meter.state(), "engines": {}}, [ms for ms, _ in turns[0]]
    for path, session, own in zip(paths, sessions, turns):
        times, energies = zip(*own)
        found["engines"][Path(path).stem] = {
            "ms": stats.median(sorted(times)),
            "rounds_ms": times,
            "over_first": paired.speed_ratio(times, first),
            "energy_mj_per_image": stats.median(sorted(energies)) if all(energies) else None,
            **session.facts,
        }
    Path(out).write_text(json.dumps(found, indent=1))
    for path in paths:
        found["engines"][Path(path).stem]["layers"] = runtime.profile(path, batch)
    Path(out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
