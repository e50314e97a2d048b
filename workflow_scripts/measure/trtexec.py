"""trtexec, where it is installed: its options, and its timing of an engine to compare with benchmark.py's.

Options are looked up in `trtexec --help`: TensorRT 11 inverted three defaults and has options for their opposites.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile

import numpy as np

from core.files import UserError
from devices import toolchain
from runtimes import PLUGIN, Timing

FIELDS = ("latencyMs", "computeMs", "h2dMs", "d2hMs")
OLDER = {"inMs": "h2dMs", "outMs": "d2hMs", "startInMs": "startH2dMs", "endOutMs": "endD2hMs"}
SWITCHES = {  # key of a target's row: the option that turns it on, and the one that turns it off
    "cuda_graph": ("--useCudaGraph", "--noCudaGraph"),
    "spin_wait": ("--useSpinWait", "--noSpinWait"),
    "transfers": ("--includeDataTransfers", "--noDataTransfers"),
}
LOADING = ("--staticPlugins", "--plugins")  # the option that loads a library, and its name before 8.6
OPTION = re.compile(r"^ {1,8}(--\w+)", re.MULTILINE)  # further in, a description mentions it
BANNER = re.compile(r"\[TensorRT v([\d.]+)\]")
ERROR = re.compile(r"\[E\]\s*(.*)")


def find(version: str | None = None) -> Trtexec | None:
    """Return the Trtexec of a TensorRT version such as 8.5.2.2, else the first, or None without any.

    The one on PATH may be of another TensorRT than the engine's, which it could not load.
    """
    tools = [Trtexec(program) for program in toolchain.trtexec()]
    return next((tool for tool in tools if version and tool.is_of(version)), tools[0] if tools else None)


class Trtexec:
    """An installed trtexec: `version` as it prints it, `known` the names of its options."""

    def __init__(self, program: str):
        """Read a program's help; raise UserError where that lists no options."""
        self.program, text = program, _output_of([program, "--help"])
        banner = BANNER.search(text)
        self.version, self.known = banner.group(1) if banner else None, set(OPTION.findall(text))
        if "--loadEngine" not in self.known:
            raise UserError(f"{program} --help lists no --loadEngine: it is not trtexec, take it off PATH")

    def is_of(self, version: str) -> bool:
        """Return whether it is of a version (8.5.2.2); it prints its own as 8502, from 10 on as 100300."""
        digits = re.sub(r"\D", "", self.version or "") or "0"
        number, wide = int(digits), len(digits) > 4
        parts = [number // 10000, number // 100 % 100, number % 100] if wide else [number // 1000, number // 100 % 10]
        wanted = [int(part) for part in re.findall(r"\d+", version)]
        return parts[:2] == wanted[:2] and (parts[2] if wide else number % 100) == (wanted + [0, 0, 0])[2]

    def serves(self, profile: int) -> bool:
        """Return whether it can run an engine's optimization profile of that number; older ones run the first alone."""
        return profile == 0 or "--useProfile" in self.known

    def arguments(self, engine: str, shapes: str | None, profile: int, recipe: dict, times: str) -> list[str]:
        """Return its arguments for a query of `shapes` (name:1x3x4x4, or None), timed as a benchmark's recipe asks.

        An option that it does not list is its default. times: path of the file that it writes.
        """
        options = [f"--loadEngine={engine}"] + ([f"--shapes={shapes}"] if shapes else [])
        options += [f"--warmUp={recipe['warmup_ms']}", f"--duration={recipe['duration_ms'] / 1000:g}"]
        options += [f"--iterations={recipe['iterations']}"]
        wanted = [pair[0 if recipe.get(key, True) else 1] for key, pair in SWITCHES.items()]
        options += [option for option in wanted if option in self.known]
        options += [f"{LOADING[LOADING[0] not in self.known]}={path}" for path in [os.environ.get(PLUGIN)] if path]
        return options + ([f"--useProfile={profile}"] if profile else []) + [f"--exportTimes={times}"]

    def time(self, engine: str, shapes: str | None, profile: int, recipe: dict) -> Timing:
        """Return its Timing of an engine; raise UserError with its last error where it fails."""
        with tempfile.TemporaryDirectory() as folder:
            times = os.path.join(folder, "times.json")
            _output_of([self.program, *self.arguments(engine, shapes, profile, recipe, times)])
            return read(times, recipe["warmup_ms"])


def _output_of(command):
    """Return a command's output; raise UserError with the last error that it prints."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise UserError(f"{command[0]} does not start ({error.strerror}): set `trtexec: false` in the row") from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        errors = ERROR.findall(text) or [line for line in text.splitlines() if line.strip()] or ["it prints nothing"]
        reason = f"{command[0]} failed with status {done.returncode}: {errors[-1].strip()}"
        raise UserError(f"{reason}: set `trtexec: false` in the target's row to do without it")
    return text


def read(path: str, warmup_ms: float = 0) -> Timing:
    """Return the Timing of a file of --exportTimes, without the queries whose network began within the warm-up.

    Some versions export the warm-up as well, others leave it out; all count from its start. Queries per second are
    trtexec's: from the first query's copy to the device to the last one's copy back. Copies are None where none was
    timed. Old versions write inMs and outMs for them. Raises UserError where the file is something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            rows = [{OLDER.get(name, name): value for name, value in row.items()} for row in json.load(stream)]
        rows = [row for row in rows if row["startComputeMs"] >= warmup_ms]
        columns = [np.array([row[name] for row in rows], dtype=np.float64) for name in FIELDS]
        enqueue = np.array([row["endEnqMs"] - row["startEnqMs"] for row in rows]) if "endEnqMs" in rows[0] else None
        wall = (max(row["endD2hMs"] for row in rows) - rows[0]["startH2dMs"]) / 1e3
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(f"{path} is not a file of trtexec --exportTimes with queries after the warm-up") from None
    latency, compute, *copies = columns
    h2d, d2h = (column if column.any() else None for column in copies)
    return Timing(latency, compute, h2d, d2h, enqueue, wall)
