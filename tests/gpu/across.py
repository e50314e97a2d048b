"""Time engines of TensorRT and of PyTorch in turns on one GPU, each in a process of the Python that has its runtime.

    LEVIT_PLUGIN=plugin.so TORCH_PYTHON=python3 python tests/gpu/across.py OUT.json BATCH ENGINE ENGINE...

Run it with the Python that has TensorRT; an engine of PyTorch has `.torch-` in its name. Each turn is a CUDA graph
without transfers; `over_first` has each engine's speed over the first one's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

from measure import interleaved, paired, stats  # noqa: E402

BUNDLE = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "LEVIT_PLUGIN")  # of the Python that has TensorRT
FIRST, TURN = (1000, 500, 20), (60, 250, 20)  # ms to warm up, ms to time, least queries


class Contender:
    """An engine in a process of its own that times it on request."""

    def __init__(self, path):
        runtime = "pytorch" if ".torch-" in Path(path).name else "tensorrt"
        left, python = dict(os.environ), sys.executable
        if runtime == "pytorch":
            left = {key: value for key, value in os.environ.items() if key not in BUNDLE}
            python = os.environ.get("TORCH_PYTHON", "python3")
        command, pipe = [python, __file__, "serve", runtime, path], subprocess.PIPE
        self.process = subprocess.Popen(command, env=left, stdin=pipe, stdout=pipe, text=True)

    def ask(self, *question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def serve(runtime, path):
    """Answer each line [batch, loop] by the median milliseconds of a query."""
    import runtimes
    from measure import timing

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    session, options = runtimes.load(runtime).load(path), {"cuda_graph": True, "spin_wait": True, "transfers": False}
    for line in sys.stdin:
        batch, loop = json.loads(line)
        times = session.time(timing.images_for(session, batch), timing.Loop(*loop, options))
        answer = {"ms": stats.median(sorted(map(float, times.compute))), **session.facts}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main():
    out, batch, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    contenders = [Contender(path) for path in paths]
    facts = [contender.ask(batch, FIRST) for contender in contenders]
    turns = [[] for _ in contenders]
    for number in range(interleaved.ROUNDS):
        for place in interleaved.order(len(contenders), number):
            turns[place].append(contenders[place].ask(batch, TURN)["ms"])
    engines = {}
    for path, times, fact in zip(paths, turns, facts):
        ratio = paired.speed_ratio(times, turns[0])
        engines[Path(path).stem] = {**fact, "ms": stats.median(sorted(times)), "rounds_ms": times, "over_first": ratio}
    Path(out).write_text(json.dumps({"batch": batch, "engines": engines}, indent=1))


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1] == "serve" else main()
