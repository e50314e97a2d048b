"""The result of a (model, precision, target), and the tables and report over all of them."""


rule assemble_result:
    """Merge an engine's measurements and its provenance into one result."""
    input:
        unpack(result_inputs),
        code=result_code("assemble_result.py"),
        description=active("engines/{model}.{precision}.{target}.json"),
        engine=active("engines/{model}.{precision}.{target}.engine"),
        accuracy=active("accuracy/{model}.{precision}.{target}.json"),
        benchmark=active("benchmark/{model}.{precision}.{target}.json"),
        identity="results/targets/{target}.json",
        checkpoint=active("checkpoints/{model}.pth"),
        index=active("data/index.json"),
        resolved=active("models/{model}.json"),
    output:
        result="results/{model}.{precision}.{target}.json",
    params:
        options=options(dataset=slices.active, recipe=slices.lineage, budget=precision.budget),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --model {wildcards.model} '
        "--precision {wildcards.precision} --target {wildcards.target} --log {log:q}"


rule choose_precision:
    """Choose a target's result and batch size by an objective, within the budget, by the paired timings."""
    input:
        code=result_code("choose_precision.py"),
        results=candidates("results/{m}.{p}.{t}.json"),
        select=candidates(active("select/{m}.{p}.{t}.json")),
        paired_benchmark=active("paired_benchmark/{model}.{precision}.{target}.json"),
    output:
        result="results/{model}.{precision}.{target}.json",
    wildcard_constraints:
        precision=CHOOSING,
    params:
        options=options(budget=precision.budget, objective=slices.objective),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} '
        "--precision {wildcards.precision} --log {log:q}"


rule record_history:
    """Add a result to the history of its name, whose earlier entries a run takes down before it starts."""
    input:
        code=result_code("record_history.py"),
        result="results/{model}.{precision}.{target}.json",
    output:
        history="results/history/{model}.{precision}.{target}.json",
    wildcard_constraints:
        precision="[A-Za-z0-9_-]+",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --log {log:q}'


rule summarize:
    """Gather the listed results in one table of tab-separated values."""
    input:
        code=result_code("summarize.py"),
        results=listed_results,
    output:
        summary=report(
            "results/summary.tsv", caption="captions/summary.rst", category="Results", labels={"results": "table"}
        ),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --log {log:q}'


rule report:
    """Show which engine to run and why, with all measurements of the listed results, as one self-contained HTML page."""
    input:
        code=result_code("report.py", *PAGE),
        results=listed_results,
        histories=listed_histories,
        plans=listed("plans/{m}.{p}.json", tables.has_plan),
        bisects=listed("bisect/{m}.{p}.{t}.json", tables.has_plan, on_request=True),
        descriptions=listed("engines/{m}.{p}.{t}.json"),
        profiles=listed("profile/{m}.{p}.{t}.json", on_request=True),
        timelines=listed("timeline/{m}.{p}.{t}.svg", on_request=True),
        calibrations=listed("calibration/{m}.{p}.json", lambda p, t: tables.has_ranges(p)),
        pictures=listed_dla("svg"),
    output:
        report=report(
            "results/report.html", caption="captions/page.rst", category="Results", labels={"results": "page"}
        ),
    params:
        options=options(models=slices.published, carried=slices.carried),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'
