"""Whether a DLA can pay: predicted before anything is built, and compared with what the builder did."""


rule dla_fit:
    """Predict which nodes of a clean graph a DLA runs, in which subgraphs, and whether that pays; draw it. Any machine."""
    input:
        clean=clean_graph,
        onnx="results/{dataset}/onnx/{model}.onnx",
        rules="workflow_scripts/dla/rules.yaml",
        code=host_code("dla_fit.py", "dla/rules.yaml", "reporting/dla.svg"),
    output:
        report="results/{dataset}/dla/{model}.{precision}.{target}.json",
        picture=report(
            "results/{dataset}/dla/{model}.{precision}.{target}.svg",
            caption="captions/dla.rst",
            category="Deep learning accelerators",
            labels=NAMES,
        ),
    params:
        options=options(needs="dla", recipe=slices.accelerator),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --model {wildcards.model} '
        "--precision {wildcards.precision} --target {wildcards.target} --log {log:q}"


rule compare_dla:
    """Compare a DLA-fit report with the description of the engine that was built."""
    input:
        report="results/{dataset}/dla/{model}.{precision}.{target}.json",
        description="results/{dataset}/engines/{model}.{precision}.{target}.json",
        code=result_code("compare_dla.py"),
    output:
        comparison="results/{dataset}/dla/{model}.{precision}.{target}.built.json",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --log {log:q}'
