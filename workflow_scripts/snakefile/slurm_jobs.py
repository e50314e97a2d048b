"""What becomes of a run's jobs where SLURM does not answer, has forgotten them or holds them.

Its plugin, version 2.8.0, would wait for them for ever. Where SLURM cannot say how a job ended, Snakemake's records do:
it marks outputs as incomplete from the submission until the job on the node has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from typing import Any

TIMEOUT = 60  # seconds that a command of SLURM has
PAUSE = 5  # seconds until the controller is asked again
SHORTEST, LONGEST = 3, 30  # seconds to the next look at the queue: the plugin would wait up to 180 with idle nodes
MARKS = ".snakemake/incomplete"  # Snakemake's records of jobs that have not ended: a folder that their nodes change
SQUEUE = "squeue --states=all --noheader --format=%i|%T|%r --name={}"
HELD = "launch failed requeued held"  # the controller lost what it knew, and a node has that job already
ENDED = "UNKNOWN"  # the plugin takes such a job as done; Snakemake then looks for its outputs, and tries again without
FAILED = {"PREEMPTED", "REVOKED"}  # final states that the plugin does not know
USUAL = {"None", "Priority", "Resources", "Dependency", "BeginTime", HELD}  # why a job waits that will begin


def attach(plugin: Any) -> None:
    """Let the plugin, which is a module, ask for the states of jobs here, and submit while a controller answers.

    A job's Snakemake runs in the batch script itself: the plugin would start another by srun, for the same node. Of
    jobs that are ready at once, those that ask for the most time go first, so that none of them is left for the end.
    """
    watch, executor = Watch(), plugin.Executor
    check, submit, cancel = executor.check_active_jobs, executor.run_job, executor.cancel
    submit_all = executor.run_jobs

    async def check_active_jobs(self, active_jobs):
        watch.jobs = active_jobs
        async for job in check(self, active_jobs):
            yield job

    async def sleep(self):
        await watch.sleep()

    def run_jobs(self, jobs):
        submit_all(self, sorted(jobs, key=lambda job: -(job.resources.get("runtime") or 0)))

    def run_job(self, job):
        while self.wait and watch.answers(["scontrol", "ping"], self.logger) is None:
            time.sleep(PAUSE)
        submit(self, job)

    def stop(self):
        self.wait = False
        try:
            cancel(self)
        except plugin.WorkflowError as error:
            self.logger.warning(f"jobs go on, and the same command waits for them: {error}")
            self.shutdown()

    executor.check_active_jobs, executor.run_job, executor.cancel = check_active_jobs, run_job, stop
    executor.sleep, executor.run_jobs, executor.additional_general_args = sleep, run_jobs, lambda self: ""
    plugin.query_job_status, plugin.query_job_status_squeue = watch.states, SQUEUE.format
    plugin.get_min_job_age = lambda: sys.maxsize  # for how long SLURM remembers jobs does not matter


class Watch:
    """The jobs whose states are asked for, whether SLURM is silent, and when to look at the queue again."""

    def __init__(self):
        self.jobs, self.silent = [], False
        self.pause, self.marks = SHORTEST, None
        self.told = set(USUAL)

    async def sleep(self) -> None:
        """Wait until the next look: twice as long each time, but soon where a job has begun or ended meanwhile."""
        end = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST)
        while time.monotonic() < end:
            await asyncio.sleep(min(1, SHORTEST))
            if self._marks_changed():
                end, self.pause = min(end, time.monotonic() + SHORTEST), SHORTEST

    def _marks_changed(self):
        before = self.marks
        with contextlib.suppress(OSError):
            self.marks = os.stat(MARKS).st_mtime_ns
        return self.marks != before

    async def states(self, command: str, logger: Any) -> tuple[dict[str, str], float]:
        """Return ({number of a job: state}, seconds), without those of which nothing is known yet: these go on."""
        start, answer = time.monotonic(), self.answers(command.split(), logger)
        if answer is None:
            return {}, 0.0
        rows = dict(row.split("|", 1) for row in answer.splitlines())
        self._tell_why_they_wait(rows, logger)
        states = {number: _state(*rest.split("|")) for number, rest in rows.items()}
        listed = {number.split("_")[0] for number in states}  # of arrays too
        for job in self.jobs if command.startswith("squeue") else ():
            number = job.external_jobid
            if number.split("_")[0] not in listed or states.get(number) == HELD:
                states[number] = await _outcome(job, states.get(number), logger)
        return states, time.monotonic() - start

    def _tell_why_they_wait(self, rows, logger):
        """Tell once of each reason that may keep a job waiting until someone acts: a node that is drained, a limit."""
        for number, row in rows.items():
            state, _, reason = row.partition("|")
            if state == "PENDING" and reason.replace("_", " ") not in self.told:
                self.told.add(reason.replace("_", " "))
                logger.warning(f"SLURM lets job {number} wait: {reason} (squeue --jobs={number})")

    def answers(self, command: list[str], logger: Any) -> str | None:
        """Return what a command of SLURM prints, None where it fails or takes too long; tell of the first time."""
        try:
            answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT).stdout.decode()
        except (OSError, subprocess.SubprocessError) as error:
            if not self.silent:
                logger.warning(f"SLURM does not answer {command[0]}: waiting until it does ({error})")
            self.silent = True
            return None
        self.silent = False
        return answer


def _state(word, reason=""):
    if reason.replace("_", " ") == HELD:
        return HELD
    word = word.split()[0]  # sacct says who cancelled a job
    return "CANCELLED" if word in FAILED else word


async def _outcome(submitted, state, logger):
    """Return how a job ended that SLURM has forgotten or does not start again."""
    if state:
        subprocess.run(["scancel", submitted.external_jobid], timeout=TIMEOUT)
    job = submitted.job
    records = job.dag.workflow.persistence
    cut = [name for each in (job.jobs if job.is_group() else [job]) for name in await records.incomplete(each)]
    outcome = "FAILED" if cut else ENDED
    logger.warning(
        f"SLURM {'holds' if state else 'no longer knows'} job {submitted.external_jobid}: "
        + ("it did not end: submitted again" if cut else "its outputs tell how it ended")
    )
    return outcome
