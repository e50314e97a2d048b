"""Interleaved timing of engines and batch sizes, round by round, so that interference reaches all of them alike.

Each engine has a process of its own; while one is timed the others wait. Each round times every engine once at each of
its batch sizes, and each second round runs in the reverse order of the round before.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from typing import Any, NamedTuple, Sequence

import runtimes
from core.files import UserError
from measure import beside, stats, timing

ROUNDS = 12
DIED = "its process died (out of memory?)"


class Turn(NamedTuple):
    """One engine's queries in a round: milliseconds of each, and seconds of all together."""

    latency: list[float]
    wall: float


def order(count: int, number: int) -> list[int]:
    """Return the order of `count` engines in a round: rotated, in each second round reversed."""
    first = number // 2 % count
    turns = [*range(first, count), *range(first)]
    return turns[::-1] if number % 2 else turns


class EngineProcess:
    """An engine that is loaded in a process of its own; `facts`: how it runs there (see runtimes.Session)."""

    def __init__(self, runtime: str, engine: str, threads: int):
        self.engine, context = engine, multiprocessing.get_context("spawn")
        self.pipe, remote = context.Pipe()
        self.process = context.Process(target=_serve, args=(remote, runtime, engine, threads), daemon=True)
        self.process.start()
        remote.close()
        self.facts = self._reply()

    def time(self, batch: int, loop: tuple, options: dict) -> Turn:
        """Time queries of a batch; loop: (warmup_ms, duration_ms, iterations)."""
        try:
            self.pipe.send((batch, loop, options))
        except BrokenPipeError:
            raise UserError(f"{self.engine}: {DIED}") from None
        return self._reply()

    def close(self) -> None:
        """Let its process end."""
        self.pipe.close()

    def _reply(self) -> Any:
        try:
            value, problem = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            problem = DIED
        if problem:
            raise UserError(f"{self.engine}: {problem}")
        return value


def _serve(pipe, runtime, engine, threads):
    try:
        session = runtimes.load(runtime).load(engine, threads)
        pipe.send(({**session.facts, "on_gpu": session.on_gpu}, None))
        while True:
            pipe.send((_turn(session, *pipe.recv()), None))
    except (EOFError, BrokenPipeError):
        return
    except UserError as problem:
        pipe.send((None, str(problem)))
    except Exception as problem:  # noqa: BLE001 (the process that asked reports it, in one line)
        pipe.send((None, f"{type(problem).__name__}: {problem}"))


def _turn(session, batch, loop, options):
    warmup_ms, duration_ms, iterations = loop
    timed = session.time(timing.images_for(session, batch), timing.Loop(warmup_ms, duration_ms, iterations, options))
    return Turn([float(milliseconds) for milliseconds in timed.latency], timed.wall)


def in_rounds(pairs: Sequence[tuple[EngineProcess, int]], recipe: dict) -> list[list[Turn]]:
    """Return the turns of each (engine, batch), one a round; each pair is timed as long as a benchmark would take."""
    warmup_ms, iterations = (math.ceil(recipe[key] / ROUNDS) for key in ("warmup_ms", "iterations"))
    loop = (warmup_ms, recipe["duration_ms"] / ROUNDS, iterations)
    for engine, batch in pairs:
        engine.time(batch, (recipe["warmup_ms"], 0, 1), recipe)
    turns: list[list[Turn]] = [[] for _ in pairs]
    for number in range(ROUNDS):
        for place in order(len(pairs), number):
            engine, batch = pairs[place]
            turns[place].append(engine.time(batch, loop, recipe))
    return turns


def summaries(pairs: Sequence[tuple[EngineProcess, int]], recipe: dict) -> tuple[list[dict], dict]:
    """Time (engine, batch) pairs in turns; return (a summary of each, what ran beside them).

    A summary is {batch, median_ms, images_per_second: a value of each round, latency_ms: {median, p99} of all queries}.
    """
    window = beside.Window([os.getpid(), *filter(None, {engine.process.pid for engine, _ in pairs})])
    turns = in_rounds(pairs, recipe)
    return [_summary(several, batch) for several, (_, batch) in zip(turns, pairs)], window.end()


def _summary(turns, batch):
    queries = sorted(milliseconds for turn in turns for milliseconds in turn.latency)
    return {
        "batch": batch,
        "median_ms": [stats.median(turn.latency) for turn in turns],
        "images_per_second": [len(turn.latency) * batch / turn.wall for turn in turns],
        "latency_ms": {"median": stats.median(queries), "p99": stats.percentile(queries, 99)},
    }
