"""The result of a (model, precision, target), and the tables and report over all of them."""


rule assemble_result:
    """Merge an engine's measurements and its provenance into one result."""
    input:
        unpack(optional_inputs),
        code=result_code("assemble_result.py"),
        description=active("engines/{model}.{precision}.{target}.json"),
        engine=active("engines/{model}.{precision}.{target}.engine"),
        accuracy=active("accuracy/{model}.{precision}.{target}.json"),
        benchmark=active("benchmark/{model}.{precision}.{target}.json"),
        identity="results/targets/{target}.json",
        checkpoint=active("checkpoints/{model}.pth"),
        index=active("data/index.json"),
        resolved=active("models/{model}.json"),
        graph=result_graph,
    output:
        result="results/{model}.{precision}.{target}.json",
    log:
        "results/logs/assemble_result.{model}.{precision}.{target}.log",
    params:
        options=options(dataset=slices.active, recipe=slices.lineage, budget=precision.budget),
        files=as_flags,
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --model {wildcards.model} --precision {wildcards.precision} '
        "--target {wildcards.target} {params.options} {params.files} --result {output.result:q} --log {log:q}"


rule choose_precision:
    """Choose the fastest result of a target within the budget, by the paired timings."""
    input:
        code=result_code("choose_precision.py"),
        results=candidates("results/{m}.{p}.{t}.json"),
        select=candidates(active("select/{m}.{p}.{t}.json")),
        paired=active("paired_benchmark/{model}.{precision}.{target}.json"),
    output:
        result="results/{model}.{precision}.{target}.json",
    log:
        "results/logs/choose_precision.{model}.{precision}.{target}.log",
    wildcard_constraints:
        precision=CHOOSING,
    params:
        options=options(budget=precision.budget),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --results {input.results:q} --select {input.select:q} '
        "--paired-benchmark {input.paired:q} --precision {wildcards.precision} {params.options} --result {output.result:q} --log {log:q}"


rule summarize:
    """Gather the listed results in one table of tab-separated values."""
    input:
        code=result_code("summarize.py"),
        results=listed_results,
    output:
        summary="results/summary.tsv",
    log:
        "results/logs/summarize.log",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --results {input.results:q} --summary {output.summary:q} --log {log:q}'


rule report:
    """Draw accuracy, speed and plans of the listed results as one self-contained HTML page."""
    input:
        code=result_code("report.py"),
        template="workflow_scripts/reporting/page.html",
        results=listed_results,
        plans=listed_plans,
        bisects=listed_bisects,
    output:
        report="results/report.html",
    log:
        "results/logs/report.log",
    params:
        options=options(models=slices.published),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --results {input.results:q} --plans {input.plans:q} '
        "--bisects {input.bisects:q} {params.options} "
        "--report {output.report:q} --log {log:q}"
