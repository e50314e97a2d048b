"""Interleaved timing of several engines: round by round, so that interference reaches all of them alike.

Each engine has a process of its own; while one is timed the others wait. Each round times every engine once, and each
second round runs in the reverse order of the round before.
"""

from __future__ import annotations

import math
import multiprocessing
from typing import Any, Sequence

import runtimes
from core.files import UserError
from measure import stats, timing

ROUNDS = 12
DIED = "its process died (out of memory?)"


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

    def time(self, batch: int, loop: tuple, options: dict) -> float:
        """Return the median milliseconds of a query; loop: (warmup_ms, duration_ms, iterations)."""
        try:
            self.pipe.send((batch, loop, options))
        except BrokenPipeError:
            raise UserError(f"{self.engine}: {DIED}") from None
        return self._reply()

    def end(self) -> None:
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
    """Load an engine and time it as often as asked, until the other end is closed."""
    try:
        session = runtimes.load(runtime).load(engine, threads)
        pipe.send(({**session.facts, "on_gpu": session.on_gpu}, None))
        while True:
            pipe.send((_median(session, *pipe.recv()), None))
    except (EOFError, BrokenPipeError):
        return
    except UserError as problem:
        pipe.send((None, str(problem)))
    except Exception as problem:  # noqa: BLE001 (the process that asked reports it, in one line)
        pipe.send((None, f"{type(problem).__name__}: {problem}"))


def _median(session, batch, loop, options):
    warmup_ms, duration_ms, iterations = loop
    timed = session.time(timing.images_for(session, batch), timing.Loop(warmup_ms, duration_ms, iterations, options))
    return stats.median(sorted(timed.latency))


def round_times(engines: Sequence[EngineProcess], batch: int, recipe: dict, options: dict) -> list[list[float]]:
    """Return each engine's median milliseconds in each round; each is timed as long as a benchmark would take."""
    share = (math.ceil(recipe["warmup_ms"] / ROUNDS), recipe["duration_ms"] / ROUNDS)
    loop = (*share, math.ceil(recipe["iterations"] / ROUNDS))
    for engine in engines:
        engine.time(batch, (recipe["warmup_ms"], 0, 1), options)
    times: list[list[float]] = [[] for _ in engines]
    for number in range(ROUNDS):
        for turn in order(len(engines), number):
            times[turn].append(engines[turn].time(batch, loop, options))
    return times
