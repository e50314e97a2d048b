"""Changes of a target's row: its engines, its timings, its profiles."""

import pytest

from staleness import CPU, MODEL, PROFILE, Changes, builds, engine, result, row, timed

CHANGES = Changes()
change = CHANGES.change


@change(engine(*CPU[1:]), builds(*CPU[1:]), slow=True)
def high_precision_of_a_target(workflow):
    workflow.config(row("targets", "cpu", high_precision="bf16"))


@change(engine(*CPU), builds(*CPU))
def threads_of_a_target(workflow):
    workflow.config(row("targets", "cpu", threads=1))


@change(engine(*CPU), builds(*CPU), slow=True)
def batches_of_a_target(workflow):
    workflow.config(row("targets", "cpu", batches=[1, 2]))


@change(timed(*CPU))
def benchmark_iterations(workflow):
    workflow.config(row("targets", "cpu", iterations=77))


@change(timed("fp32.ort"), slow=True)
def swapped_durations(workflow):
    workflow.config(row("targets", "ort", warmup_ms=3000, duration_ms=500))  # the defaults, swapped


@change(["fingerprint single", *engine("fp32.single")], builds("fp32.single"), result("fp32.single"))
def new_target(workflow):
    def add(config):
        config["targets"]["single"] = {**config["targets"]["cpu"], "threads": 1}

    workflow.config(add)


@change([f"{rule} {name}" for name in CPU for rule in ("run_trtexec", "assemble_result")])
def trtexec_of_a_target(workflow):
    workflow.config(row("targets", "cpu", trtexec=True))


@change(["profile_engine fp32.cpu"], targets=[PROFILE])
def profile_of_an_engine(workflow):
    pass


TIMELINE = f"results/digits/timeline/{MODEL}.fp32.cpu.svg"


@change(["draw_timeline fp32.cpu", "profile_engine fp32.cpu"], targets=[TIMELINE])
def timeline_of_an_engine(workflow):
    pass


@change(["draw_timeline fp32.cpu"], targets=[TIMELINE], slow=True)
def code_of_a_timeline(workflow):
    workflow.build(TIMELINE)
    workflow.edit("workflow_scripts/reporting/timeline.py", "COLORED = ", "EXTRA = COLORED = ")


@change(["capture_nsys fp32.cpu"], targets=[f"results/digits/timeline/{MODEL}.fp32.cpu.nsys-rep"], slow=True)
def capture_of_an_engine(workflow):
    pass


@change(timed(*CPU), slow=True)
def power_mode_of_a_target(workflow):
    workflow.config(row("targets", "cpu", power_mode="performance", other_power_mode="mark"))


@change(["profile_engine fp32.cpu"], targets=[PROFILE], slow=True)
def code_of_a_profile(workflow):
    workflow.build(PROFILE)
    workflow.edit("workflow_scripts/profile_engine.py", "def run", "EXTRA = 1\n\n\ndef run")


@change(timed(*CPU), targets=[PROFILE])
def iterations_are_no_part_of_a_profile(workflow):
    workflow.build(PROFILE)
    workflow.config(row("targets", "cpu", iterations=78))


@change(["fingerprint ort", *engine("fp32.ort")], builds("fp32.ort"))
def code_of_a_runtime(workflow):
    workflow.edit("workflow_scripts/runtimes/onnxruntime.py", "def build", "EXTRA = 1\n\n\ndef build")


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")
