"""Where jobs go on a cluster: `cluster` in the configuration, which profiles/slurm gives, says what its nodes are.

Jobs that follow one another for one model, one precision or one target are one submission. What gathers results,
downloads or goes to a board by ssh runs where Snakemake does.
"""

from __future__ import annotations

import sys
from typing import Any

from configuration.tables import Tables
from devices import reach
from snakefile import needs, nodes, slurm_jobs
from snakefile.rule_facts import device_purpose, is_host_built
from snakefile.run_checks import one_line, stop

SLOTS = "node_cores"  # a resource that each submission has of its own: its jobs at one time take no more cores
ALONE = "--exclusive"
PLUGIN = "snakemake_executor_plugin_slurm"
LOCAL = {"download", "download_start", "import_checkpoint", "pick_samples", "resolve"}  # need the network, or seconds
GROUPS = {
    "images.{dataset}.{model}": "decode_split",
    "weights.{dataset}.{model}": "train evaluate_torch export_onnx clean_onnx export_program evaluate_onnx dla_fit",
    "quantized.{dataset}.{model}.{precision}": "sweep_calibration calibrate plan_precision train_qat quantize_onnx "
    "quantize_nncf type_onnx evaluate_typed export_cache take_pixels",
    "engines.{dataset}.{target}": "build_engine evaluate_engine benchmark paired_benchmark compare_pytorch run_trtexec "
    "profile_engine",
}
GROUP_OF = {rule: group for group, rules in GROUPS.items() for rule in rules.split()}
ON_BOARDS = "{}_over_ssh"  # name of the local rule of a device's jobs that go to a board


@one_line
def attach(workflow: Any, tables: Tables) -> None:
    """On a cluster, say of each rule what its jobs need, where they run, with which others, and whether alone."""
    if not tables.cluster:
        return
    if not hasattr(workflow, "resource_settings"):
        stop("cluster: Snakemake 7 sends no jobs to a cluster here: use Snakemake 9 (envs/host.txt, envs/slurm.txt)")
    _of_nodes(workflow, tables)
    boards = "|".join(name for name in tables.names("target") if reach.board(tables, name))
    for rule in [rule for rule in workflow.rules if boards and device_purpose(rule)]:
        _copy(workflow, rule, ON_BOARDS.format(rule.name), boards)
    for rule in workflow.rules:
        if _is_local(rule):
            workflow.localrules(rule.name)
        else:
            rule.group = GROUP_OF.get(rule.name)
            _say(rule, {**needs.of(rule.name, tables), **_place(rule, tables), SLOTS: lambda w, threads: threads})


def _of_nodes(workflow, tables):
    """Take cores as those of a node: profiles/default gives Snakemake those of this machine."""
    several = [nodes.cores(tables, name) or 1 for name in (None, *tables.names("target"))]
    workflow.global_resources.update({SLOTS: max(several)})
    workflow.resource_scopes.update({SLOTS: "local"})
    if workflow.nodes and "--mode" not in sys.argv:  # not in a job
        workflow.resource_settings.cores = workflow.global_resources["_cores"] = None
        if PLUGIN in sys.modules:
            slurm_jobs.attach(sys.modules[PLUGIN])


def _say(rule, resources):
    given = rule.workflow.resource_settings._parsed_overwrite_resources.get(rule.name, {})
    rule.resources.update({name: value for name, value in resources.items() if name not in given})


def _copy(workflow, rule, name, targets):
    """Add a copy of a rule that is preferred to it for some targets."""
    from snakemake.ruleinfo import RuleInfo

    changes = RuleInfo()
    _, own = rule.ruleinfo.wildcard_constraints or ((), {})
    changes.wildcard_constraints = ((), {**own, "target": targets})
    workflow.userule(rules=(rule.name,), name_modifier=name)(changes)
    workflow.ruleorder(name, rule.name)


def _is_local(rule):
    gathers = not (is_host_built(rule) or device_purpose(rule))
    return rule.norun or gathers or rule.name in LOCAL or rule.name.endswith(ON_BOARDS.format(""))


def _place(rule, tables):
    """Return {resource: value or function} that say where a rule's jobs run."""
    if device_purpose(rule):
        return _target_place(rule, tables)
    names = GROUPS.get(GROUP_OF.get(rule.name, ""), rule.name).split()
    helped = nodes.gpus(tables) and any(needs.NEEDS.get(name, needs.SMALL).gpu for name in names)
    partition = nodes.gpu_partition(tables) if helped else tables.cluster.get("partition")
    return {**({"slurm_partition": partition} if partition else {}), **({"gpu": nodes.gpus(tables)} if helped else {})}


def _target_place(rule, tables):
    """Return the same for jobs on their targets: nodes of that kind, and a node alone where engines are timed."""

    def of(function):
        return lambda wildcards: function(tables.row("target", wildcards.target))

    place = {
        "slurm_partition": of(lambda row: nodes.partition(row, tables) or None),
        "constraint": of(lambda row: row.get("slurm", {}).get("constraint")),
        "gpu": of(nodes.target_gpus),
    }
    return {**place, **({"slurm_extra": ALONE} if rule.name in GROUP_OF else {})}
