"""Timings of engines that take turns: each in a process of its own, round by round, so that load hits all alike.

The processes share nothing, and while one is timed the others wait. In each round all are timed once; in each second
round the order is that of the round before, backwards.
"""

import math
import multiprocessing

from core.files import UserError
from measure import setup, stats, timing

ROUNDS = 12
DIED = "its process died (out of memory?)"


def order(count, number):
    """Return the order in which `count` contenders take turns in a round: rotated, in each second round backwards."""
    first = number // 2 % count
    turns = [*range(first, count), *range(first)]
    return turns[::-1] if number % 2 else turns


class Contender:
    """An engine that is loaded in a process of its own; `facts`: what it is there."""

    def __init__(self, runtime, engine, threads):
        self.engine, context = engine, multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, runtime, engine, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.facts = self._reply()

    def time(self, batch, loop, options):
        """Return the median milliseconds of a query; loop: (warmup_ms, duration_ms, iterations)."""
        try:
            self.pipe.send((batch, loop, options))
        except BrokenPipeError:
            raise UserError(f"{self.engine}: {DIED}") from None
        return self._reply()

    def end(self):
        """Let its process end."""
        self.pipe.close()

    def _reply(self):
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
        import runtimes

        session = runtimes.load(runtime).load(engine, threads)
        pipe.send(({**session.facts, "on_gpu": session.on_gpu}, None))
        while True:
            pipe.send((_median(session, *pipe.recv()), None))
    except (EOFError, BrokenPipeError):
        return
    except UserError as problem:
        pipe.send((None, str(problem)))
    except Exception as problem:  # noqa: BLE001 (told by the process that asked, in a line)
        pipe.send((None, f"{type(problem).__name__}: {problem}"))


def _median(session, batch, loop, options):
    times = session.time(setup.images_for(session, batch), timing.Loop(*loop, options))
    return stats.median(sorted(times.latency))


def times(contenders, batch, recipe, options):
    """Return [milliseconds of each round] of each contender at a batch: each is timed as long as a benchmark takes."""
    share = (math.ceil(recipe["warmup_ms"] / ROUNDS), recipe["duration_ms"] / ROUNDS)
    loop = (*share, math.ceil(recipe["iterations"] / ROUNDS))
    for contender in contenders:
        contender.time(batch, (recipe["warmup_ms"], 0, 1), options)
    found = [[] for _ in contenders]
    for number in range(ROUNDS):
        for turn in order(len(contenders), number):
            found[turn].append(contenders[turn].time(batch, loop, options))
    return found
