"""What becomes of jobs where SLURM does not answer, has forgotten them or holds them: a stand-in for its plugin."""

import asyncio
import logging
import os
from types import SimpleNamespace

import pytest

from snakefile import slurm_jobs

RUN = "levit_1"


class Records:
    """Snakemake's records: outputs that were marked and are there."""

    def __init__(self, *names):
        self.names = names

    async def incomplete(self, job):
        return [name for name in job.output if name in self.names]


def submitted(number, *cut, parts=1):
    """Return a submission of some jobs, of whose outputs those named in `cut` are left from before."""
    dag = SimpleNamespace(workflow=SimpleNamespace(persistence=Records(*cut)))
    jobs = [SimpleNamespace(output=[f"{number}.{part}"]) for part in range(parts)]
    group = SimpleNamespace(dag=dag, is_group=lambda: parts > 1, jobs=jobs, output=jobs[0].output)
    return SimpleNamespace(external_jobid=number, job=group)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder of SLURM's commands; each writes down what it was given."""

    def write(name, text="exit 1"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n{text}\n')
        (tmp_path / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return SimpleNamespace(write=write, asked=lambda: (tmp_path / "asked").read_text().splitlines())


def states(*jobs, command=None, watch=None):
    watch = watch or slurm_jobs.Watch()
    watch.jobs = jobs
    found, seconds = asyncio.run(watch.states(command or slurm_jobs.SQUEUE.format(RUN), logging.getLogger()))
    assert seconds >= 0
    return found


def test_states_are_squeues(commands):
    commands.write("squeue", 'echo "1|RUNNING|None"; echo "2|COMPLETED|None"; echo "3|PENDING|Resources"')
    assert states(submitted("1"), submitted("2")) == {"1": "RUNNING", "2": "COMPLETED", "3": "PENDING"}
    assert commands.asked() == [f"squeue --states=all --noheader --format=%i|%T|%r --name={RUN}"]


def test_why_jobs_wait_is_told_once_where_waiting_may_not_help(commands, caplog):
    drained = "ReqNodeNotAvail, UnavailableNodes:n1"
    commands.write("squeue", f'echo "1|PENDING|Priority"; echo "2|PENDING|{drained}"; echo "3|PENDING|{drained}"')
    watch = slurm_jobs.Watch()
    for _ in range(2):
        assert set(states(submitted("2"), watch=watch).values()) == {"PENDING"}
    assert caplog.messages == [f"SLURM lets job 2 wait: {drained} (squeue --jobs=2)"]


@pytest.mark.parametrize("text", ["exit 1", "echo '1|RUNNING|None'; exit 1", "sleep 30"])
def test_nothing_is_known_while_slurm_does_not_answer_and_that_is_told_once(commands, text, caplog, monkeypatch):
    monkeypatch.setattr(slurm_jobs, "TIMEOUT", 0.3)
    commands.write("squeue", text)
    watch = slurm_jobs.Watch()
    assert states(submitted("1"), watch=watch) == states(submitted("1"), watch=watch) == {}
    assert caplog.text.count("SLURM does not answer squeue: waiting until it does") == 1


def test_a_forgotten_job_is_done_where_its_node_said_so(commands, caplog):
    commands.write("squeue", 'echo "7|RUNNING|None"')
    jobs = [submitted("5"), submitted("6", "6.1", parts=2), submitted("7", "7.0")]
    assert states(*jobs) == {"5": slurm_jobs.ENDED, "6": "FAILED", "7": "RUNNING"}
    assert "no longer knows job 6: it did not end" in caplog.text


@pytest.mark.parametrize("reason", ["launch failed requeued held", "launch_failed_requeued_held"])
def test_a_held_job_is_cancelled(commands, reason):
    commands.write("squeue", f'echo "5|PENDING|{reason}"')
    commands.write("scancel", "exit 0")
    assert states(submitted("5", "5.0")) == {"5": "FAILED"}
    assert states(submitted("5")) == {"5": slurm_jobs.ENDED}
    assert commands.asked()[1] == "scancel 5"


def test_tasks_of_an_array_are_known_by_its_number(commands):
    commands.write("squeue", 'echo "5_[2-9]|PENDING|None"; echo "5_1|RUNNING|None"')
    assert states(submitted("5_4", "5_4.0")) == {"5_[2-9]": "PENDING", "5_1": "RUNNING"}


def test_accounting_may_learn_of_a_job_later_and_says_who_cancelled_one(commands):
    commands.write("sacct", 'echo "1|CANCELLED by 0"; echo "2|PREEMPTED"')
    assert states(submitted("3"), command="sacct -X") == {"1": "CANCELLED", "2": "CANCELLED"}


class Executor:
    """As the plugin's."""

    wait, logger, given, ended = True, logging.getLogger(), [], False

    async def check_active_jobs(self, active_jobs):
        known, _ = await plugin.query_job_status(plugin.query_job_status_squeue(RUN), self.logger)
        for job in active_jobs:
            if known.get(job.external_jobid) != "COMPLETED":
                yield job

    def run_jobs(self, jobs):
        for job in jobs:
            self.run_job(job)

    def run_job(self, job):
        self.given.append(job)

    def cancel(self):
        assert not self.wait
        raise OSError("scancel: no answer")

    def shutdown(self):
        self.ended = True


plugin = SimpleNamespace(Executor=Executor, WorkflowError=OSError)
slurm_jobs.attach(plugin)


def test_jobs_are_submitted_when_a_controller_answers(commands, tmp_path, monkeypatch):
    executor = Executor()
    monkeypatch.setattr(slurm_jobs, "PAUSE", 0.01)
    commands.write("scontrol", f"test -e {tmp_path}/back || {{ touch {tmp_path}/back; exit 1; }}")
    executor.run_job("a job")
    assert executor.given == ["a job"] and commands.asked() == ["scontrol ping"] * 2


def test_of_jobs_that_are_ready_at_once_the_longest_go_first(commands, monkeypatch):
    executor, jobs = Executor(), [SimpleNamespace(resources=given) for given in ({"runtime": 5}, {}, {"runtime": 20})]
    monkeypatch.setattr(executor, "given", [])
    commands.write("scontrol", "exit 0")
    executor.run_jobs(jobs)
    assert executor.given == [jobs[2], jobs[0], jobs[1]]


def test_an_interrupted_run_ends_where_slurm_cancels_nothing(caplog):
    executor = Executor()
    executor.cancel()
    assert executor.ended and "jobs go on, and the same command waits for them: scancel: no answer" in caplog.text


def test_jobs_go_on_while_slurm_is_silent(commands):
    executor = Executor()

    async def left(*jobs):
        return [job.external_jobid async for job in executor.check_active_jobs(jobs)]

    commands.write("squeue")
    assert asyncio.run(left(submitted("1"))) == ["1"]
    commands.write("squeue", 'echo "1|COMPLETED|None"; echo "2|RUNNING|None"')
    assert asyncio.run(left(submitted("1"), submitted("2"))) == ["2"]


def test_the_queue_is_looked_at_less_and_less_but_soon_after_a_job_began_or_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    waited, now, marks = [], [0.0], tmp_path / slurm_jobs.MARKS
    marks.mkdir(parents=True)

    async def pass_time(seconds):
        now[0] += seconds
        if now[0] == 80:
            (marks / "one").touch()
            os.utime(marks, ns=(1, 1))

    async def waits(watch, count):
        for _ in range(count):
            began = now[0]
            await watch.sleep()
            waited.append(now[0] - began)

    monkeypatch.setattr(slurm_jobs.asyncio, "sleep", pass_time)
    monkeypatch.setattr(slurm_jobs.time, "monotonic", lambda: now[0])
    asyncio.run(waits(slurm_jobs.Watch(), 9))
    assert waited == [3, 3, 6, 12, 24, 30, 5, 3, 6], "78 s have passed after six looks, 80 when the node writes"
