"""LeViT to engines: results/{model}.{precision}.{target}.json, rebuilt only where stale."""

from snakemake.utils import min_version

min_version("7.32.4")


include: "rules/config.smk"


configfile: "config.yaml"


include: "rules/common.smk"


rule all:
    """What config.yaml lists under `results`, for the targets that this machine is or can reach."""
    input:
        listed_results,
        listed_onnx_accuracies,
        listed_dla("json"),
        listed_bundles,
        "results/summary.tsv",
        "results/report.html",


include: "rules/data.smk"
include: "rules/checkpoints.smk"
include: "rules/onnx.smk"
include: "rules/programs.smk"
include: "rules/quantize.smk"
include: "rules/plans.smk"
include: "rules/dla.smk"
include: "rules/engines.smk"
include: "rules/accuracy.smk"
include: "rules/benchmark.smk"
include: "rules/timeline.smk"
include: "rules/targets.smk"
include: "rules/results.smk"
include: "rules/bundles.smk"


run_checks.check_requested(sys.argv[1:], workflow.rules, tables)
cluster.attach(workflow, tables)
for prepare in (staleness.attach, command_lines.attach, device_site.trust, signatures.attach):
    prepare(workflow.rules, tables)


onstart:
    job_list.write(workflow.persistence.dag, workflow.rules, tables)
    run_checks.start(workflow.persistence.dag, tables)
    device_site.start(workflow.persistence.dag, tables)
    trained.keep(workflow.persistence.dag.needrun_jobs())
    history.save(workflow.persistence.dag.needrun_jobs())


onsuccess:
    trained.forget()
    run_checks.show(lines)
