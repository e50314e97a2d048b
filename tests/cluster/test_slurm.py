"""A real SLURM of two nodes with one core each: what is sent there, and what becomes of a run when parts of it die.

The work is that of tests/support/fake_interpreter.py; test_results.py has real work.
"""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

import slurm
from workflow import FAKE, SNAKEMAKE, Workflow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.missing()), reason="no SLURM: make slurm"),
    pytest.mark.skipif(not (slurm.UNPACKED / "python").is_dir(), reason="no plugin: make slurm"),
]
RESULT = "results/LeViT-tiny.fp32.cpu.json"
CHECKPOINT = "results/digits/checkpoints/LeViT-tiny.pth"
PYTHON = """#!/bin/sh
case "$1" in
  -c) exec {python} "$@";;
  *train.py) while [ -e {folder}/hold ]; do sleep 0.2; done;;
  *evaluate_torch.py) if [ -e {folder}/fail ]; then rm {folder}/fail; exit 1; fi;;
esac
exec {python} {fake} "$@"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = slurm.Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


def _heed_ctrl_c():
    """Take SIGINT as a terminal's process does: a shell that starts the tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Run:
    """A folder with the workflow, and runs of Snakemake there that send jobs to a cluster."""

    def __init__(self, workflow, cluster):
        self.workflow, self.cluster, self.first = workflow, cluster, len(cluster.jobs())
        self.hold = workflow.path("hold")
        python = workflow.path("python")
        python.write_text(PYTHON.format(folder=workflow.folder, python=sys.executable, fake=FAKE))
        python.chmod(0o755)
        path = f"{cluster.bin}:{os.environ['PATH']}"
        plugin = str(slurm.UNPACKED / "python")
        self.variables = {"PATH": path, "PYTHONPATH": plugin, "LEVIT_PYTHON": str(python)}

    def start(self, *targets):
        """Start Snakemake with profiles/slurm."""
        command = [SNAKEMAKE, "--profile", "profiles/slurm", *targets]
        environment = self.workflow.environment(**self.variables)
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        with self.workflow.path("printed").open("w") as printed:
            self.head = subprocess.Popen(
                command, cwd=self.workflow.folder, env=environment, stdout=printed, preexec_fn=_heed_ctrl_c, **options
            )

    def end(self, seconds=300):
        """Wait for Snakemake; return its status and what it printed."""
        return self.head.wait(timeout=seconds), self.printed()

    def printed(self):
        """Return what Snakemake has printed."""
        return self.workflow.path("printed").read_text()

    def jobs(self, form="%k", state="all"):
        """Return squeue's lines on this folder's jobs."""
        lines = self.cluster.jobs(state, form=f"%Z|{form}")
        return [line.split("|", 1)[1] for line in lines if line.startswith(str(self.workflow.folder))]

    def held(self):
        """Return whether the training is at work, and held there."""
        return any("weights" in job for job in self.jobs(state="RUNNING")) and self.training()

    def training(self):
        """Return the process numbers of trainings of this folder."""
        found = subprocess.run(
            ["pgrep", "-f", f"^/bin/sh {self.variables['LEVIT_PYTHON']} .*train.py"], capture_output=True
        )
        return [int(number) for number in found.stdout.split()]

    def trained(self):
        """Return how often the work of a training was done."""
        return sum('"command":"train"' in line for line in self.workflow.work_lines())


def alone(workflow, target):
    """Make a target on one core of this machine."""
    status, output = workflow.run("--cores", "1", "--", target)
    assert status == 0, output


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, cluster):
    """A folder in which a run on the cluster has made all that a training needs, and what the training writes."""
    run = Run(Workflow.fresh(tmp_path_factory.mktemp("indexed") / "work"), cluster)
    run.start("results/digits/data/index.json", "results/digits/models/LeViT-tiny.json")
    status, output = run.end()
    assert status == 0, output
    local = run.workflow.copy(tmp_path_factory.mktemp("local") / "work")
    alone(local, CHECKPOINT)
    return run.workflow, local.path(CHECKPOINT).read_bytes()


@pytest.fixture
def run(indexed, cluster, tmp_path):
    """A run whose training is held on a node."""
    made = Run(indexed[0].copy(tmp_path / "work"), cluster)
    made.workflow.path("work.log").unlink(missing_ok=True)
    made.hold.touch()
    made.start(CHECKPOINT)
    slurm.wait(made.held, 90, cluster.tell)
    yield made
    made.hold.unlink(missing_ok=True)
    if made.head.poll() is None:
        made.head.kill()
    cluster.ask("scancel", f"--user={os.environ.get('USER', 'root')}")
    slurm.wait(lambda: cluster.resume() or cluster.states() == dict.fromkeys(cluster.nodes, "idle"), 60, cluster.tell)


def completes(run, indexed):
    status, output = run.end()
    assert status == 0, output
    assert run.workflow.path(CHECKPOINT).read_bytes() == indexed[1]
    assert run.workflow.plan(CHECKPOINT) == []
    return output


def test_a_killed_job_is_submitted_again_with_twice_the_memory(run, indexed):
    for number in run.training():
        os.kill(number, signal.SIGKILL)
    slurm.wait(lambda: len(run.jobs()) == 2, 60)
    run.hold.unlink()
    completes(run, indexed)
    first, second = (
        int(memory.rstrip("M")) for memory in sorted(run.jobs("%m"), key=lambda text: int(text.rstrip("M")))
    )
    assert second == 2 * first


def test_a_job_that_takes_too_long_is_submitted_again_with_twice_the_time(run, indexed, cluster):
    asked = int(run.jobs("%l")[0].split(":")[0])
    cluster.ask("scontrol", "update", f"jobid={run.jobs('%i')[0]}", "timelimit=1")
    slurm.wait(lambda: "TIMEOUT" in run.jobs("%T"), 150, cluster.tell)
    run.hold.unlink()
    output = completes(run, indexed)
    limits = dict(line.split() for line in run.jobs("%T %l"))
    assert limits["COMPLETED"] == f"{2 * asked}:00" and run.trained() == 1, (asked, limits, output)


def test_of_a_submission_whose_later_part_failed_the_rest_is_not_done_again(indexed, cluster, tmp_path):
    run = Run(indexed[0].copy(tmp_path / "work"), cluster)
    run.workflow.path("work.log").unlink(missing_ok=True)
    run.workflow.path("fail").touch()
    run.start("results/digits/select/LeViT-tiny.torch.json")
    status, output = run.end()
    assert status == 0, output
    assert sorted(line.split()[1] for line in run.jobs("%k %T") if "weights" in line) == ["COMPLETED", "FAILED"]
    assert run.trained() == 1 and not run.workflow.path("fail").exists()


def test_jobs_wait_for_nodes_that_are_drained_and_the_reason_is_told(indexed, cluster, tmp_path):
    for node in cluster.nodes:
        cluster.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=disk")
    run = Run(indexed[0].copy(tmp_path / "work"), cluster)
    run.start(CHECKPOINT)
    slurm.wait(lambda: "SLURM lets job" in run.printed(), 90, run.printed)
    cluster.resume()
    completes(run, indexed)
    assert run.printed().count("SLURM lets job") == 1


def test_a_job_of_a_dead_node_runs_on_another(run, indexed, cluster):
    node = run.jobs("%N", state="RUNNING")[0]
    cluster.kill(node)
    run.hold.unlink()
    try:
        completes(run, indexed)
        assert run.jobs("%N") != [node] and run.trained() == 1
    finally:
        cluster.start_node(node)
        slurm.wait(lambda: cluster.states()[node] == "idle", 60, cluster.tell)


@pytest.mark.parametrize("seconds", [0, 8], ids=["that forgets that the job began", "that knows its jobs"])
def test_a_dead_controller_is_waited_for(run, indexed, cluster, seconds):
    """It writes what it knows after five seconds: without that it starts the job again, and holds it in vain."""
    time.sleep(seconds)
    cluster.kill("slurmctld")
    run.hold.unlink()
    slurm.wait(lambda: run.workflow.path(CHECKPOINT).exists(), 60)
    time.sleep(20)
    cluster.start_controller()
    completes(run, indexed)
    assert run.trained() == 1


def test_a_job_that_slurm_has_forgotten_is_done_where_its_outputs_are(run, indexed, cluster):
    """The head process sleeps for longer than SLURM remembers jobs."""
    cluster.configure("MinJobAge=3600", "MinJobAge=2")
    run.head.send_signal(signal.SIGSTOP)
    run.hold.unlink()
    slurm.wait(lambda: not run.jobs(), 120, cluster.tell)
    run.head.send_signal(signal.SIGCONT)
    output = completes(run, indexed)
    assert "SLURM no longer knows job" in output and run.trained() == 1
    cluster.configure("MinJobAge=2", "MinJobAge=3600")


def test_a_run_waits_for_the_jobs_of_one_that_was_killed(run, indexed, cluster):
    run.head.kill()
    run.head.wait()
    run.start(CHECKPOINT)
    slurm.wait(lambda: "1 submissions of a run that was killed are at work" in run.printed(), 90)
    assert run.training()
    run.hold.unlink()
    completes(run, indexed)
    assert run.trained() == 1 and len(run.jobs()) == 1


def test_ctrl_c_cancels_the_jobs(run, indexed, cluster):
    run.head.send_signal(signal.SIGINT)
    status, output = run.end(90)
    assert status and "interrupted: the same command continues" in output
    slurm.wait(lambda: not run.jobs(state="RUNNING,PENDING") and not run.training(), 30, cluster.tell)
    run.hold.unlink()
    run.start(CHECKPOINT)
    completes(run, indexed)


def test_a_result_is_five_submissions_at_most_and_is_what_this_machine_makes(indexed, cluster, tmp_path):
    here, there = indexed[0].copy(tmp_path / "here"), Run(indexed[0].copy(tmp_path / "there"), cluster)
    there.start(RESULT)
    status, output = there.end()
    assert status == 0, output
    alone(here, RESULT)
    made = [
        path.relative_to(here.folder) for path in here.path("results").rglob("*") if path.suffix in (".pth", ".onnx")
    ]
    assert made and all(here.path(name).read_bytes() == there.workflow.path(name).read_bytes() for name in made)
    jobs = dict(line.split("|") for line in there.jobs("%k|%h"))
    groups = sorted(re.match(r"rule_([a-z]+)", comment).group(1) for comment in jobs)
    assert groups == ["engines", "fingerprint", "images", "weights"], jobs
    assert [shared for comment, shared in jobs.items() if "engines" in comment] == ["NO"]
    assert there.workflow.plan(RESULT) == []


def test_a_target_with_nodes_of_its_own_is_asked_what_it_is_and_runs_there(indexed, cluster, tmp_path):
    run = Run(indexed[0].copy(tmp_path / "work"), cluster)
    run.workflow.edit("config.yaml", "    runtime: openvino", "    slurm: {constraint: n2}\n    runtime: openvino")
    run.start("results/targets/cpu.json")
    status, output = run.end()
    assert status == 0 and "cpu: recorded what it is" in output, output
    assert run.jobs("%N") == ["n2", "n2"] and run.workflow.path(".cache/boards/cpu.json").exists()
    run.workflow.edit("config.yaml", "{constraint: n2}", "{constraint: n3}")
    run.workflow.path(".cache/boards/cpu.json").unlink()
    run.workflow.path("results/targets/cpu.json").unlink()
    run.start("results/targets/cpu.json")
    status, output = run.end()
    assert status and "no node answers for the target cpu" in output.splitlines()[-1], output


def test_shards_are_decoded_on_both_nodes_and_joined_to_the_bytes_of_one_job(indexed, cluster, tmp_path):
    """Real images, decoded."""
    images = "results/digits/data/LeViT-tiny.val.u8"
    here, there = Workflow.fresh(tmp_path / "here"), Run(Workflow.fresh(tmp_path / "there"), cluster)
    there.workflow.config(lambda config: config["datasets"]["digits"].update(shards=2))
    there.variables["LEVIT_PYTHON"] = sys.executable
    there.start(images)
    status, output = there.end()
    assert status == 0, output
    nodes = {line.split()[1] for line in there.jobs("%k %N") if "decode_shard" in line}
    assert nodes == set(cluster.nodes), there.jobs("%k %N")
    status, output = here.run("--cores", "1", "--", images, LEVIT_PYTHON=sys.executable)
    assert status == 0, output
    assert here.path(images).read_bytes() == there.workflow.path(images).read_bytes()
