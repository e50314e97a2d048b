"""Timings of contenders that take turns: each in a process of its own, round by round, so that load hits all alike."""

import multiprocessing
import time

CALM, PATIENCE = 0.2, 5  # share of the processors that other work may take before a timing, seconds to wait for that


def speeds(timer, contenders, wanted, rounds, seconds, patience=PATIENCE):
    """Return {(contender, batch): [median milliseconds of each round]} of the pairs in `wanted`.

    timer: a module's function contender -> function (batch, seconds) -> median milliseconds of a query; patience: the
    seconds to wait at most for a calm machine before each timing.
    """
    context, pipes = multiprocessing.get_context("spawn"), {}
    for contender in contenders:
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(timer, contender, theirs), daemon=True).start()
        theirs.close()  # else a process that dies is waited for without end
        pipes[contender] = ours
        _answer(ours, contender)
    found = {key: [] for key in wanted}
    for _ in range(rounds):
        for contender, batch in wanted:
            wait_for_calm(patience)
            pipes[contender].send((batch, seconds))
            found[contender, batch].append(_answer(pipes[contender], contender))
    for pipe in pipes.values():
        pipe.send(None)
    return found


def _answer(pipe, contender):
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"error: the process of {contender} ended: its last line is above") from None


def wait_for_calm(patience):
    """Wait until hardly anything else runs, as the system tells of its processors; go on in the end as it is."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = _processors()
        time.sleep(0.3)
        busy, total = (after - first for first, after in zip(before, _processors()))
        if busy < CALM * total:
            return


def _processors():
    """Return (busy, all) ticks of the processors since the start: proc_stat(5), where idle and iowait are not busy."""
    with open("/proc/stat", encoding="ascii") as stream:
        ticks = [int(text) for text in stream.readline().split()[1:]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _serve(timer, contender, pipe):
    measure = timer(contender)
    pipe.send("ready")
    while True:
        request = pipe.recv()
        if request is None:
            return
        pipe.send(measure(*request))


def medians(run):
    """Return a function (batch, seconds) -> median milliseconds of a function (batch, measure.timing.Loop) -> array."""
    from measure import stats, timing

    return lambda batch, seconds: stats.median(sorted(run(batch, timing.Loop(200, 1000 * seconds, 10))))
