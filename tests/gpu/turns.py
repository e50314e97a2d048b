"""Time TensorRT engines of one batch size in turns, in one process, and the layers of each.

    LEVIT_PLUGIN=liblevit_attention.so python tests/gpu/turns.py OUT.json BATCH ENGINE ENGINE...

Each turn is a CUDA graph without transfers; `over_first` has each engine's speed over the first one's.
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
    return stats.median(sorted(map(float, times.compute))), times.energy and times.energy / count


def main():
    out, batch, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    runtime, meter = runtimes.load("tensorrt"), meters.gpu_meter()
    sessions = [runtime.load(path) for path in paths]
    images = timing.images_for(sessions[0], batch)
    for session in sessions:
        turn(session, images, FIRST_MS, meter)
    turns = [[] for _ in sessions]
    for number in range(interleaved.ROUNDS):
        for place in interleaved.order(len(sessions), number):
            turns[place].append(turn(sessions[place], images, TURN_MS, meter))
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
