"""ONNX graphs: exported, cleaned for a graph variant, strongly typed."""


rule export_onnx:
    """Export a checkpoint to ONNX: BatchNorm folded, heads averaged, dynamic batch."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        images=proof_images,
        code=host_code("export_onnx.py"),
    output:
        onnx="results/{dataset}/onnx/{model}.onnx",
    log:
        "results/logs/{dataset}/export_onnx.{model}.log",
    params:
        options=options(classes=dataset.classes),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --checkpoint {input.checkpoint:q} --images {input.images:q} '
        "{params.options} --model {input.model:q} --onnx {output.onnx:q} --log {log:q}"


rule clean_onnx:
    """Run a graph variant's passes over the exported graph."""
    input:
        onnx="results/{dataset}/onnx/{model}.onnx",
        code=host_code("clean_onnx.py"),
    output:
        clean="results/{dataset}/clean/{model}.{graph}.onnx",
    log:
        "results/logs/{dataset}/clean_onnx.{model}.{graph}.log",
    params:
        options=options(passes=graph.passes),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --onnx {input.onnx:q} {params.options} --clean {output.clean:q} --log {log:q}'


rule type_onnx:
    """Make a strongly typed graph from a weakly typed one and its plan: Casts set the precision of each layer."""
    input:
        onnx=weakly_typed_graph,
        plan=plan,
        code=host_code("type_onnx.py"),
    output:
        typed="results/{dataset}/typed/{model}.{precision}.onnx",
    log:
        "results/logs/{dataset}/type_onnx.{model}.{precision}.log",
    params:
        options=options(recipe=precision["compute high_precision"]),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --onnx {input.onnx:q} --plan={input.plan:q} {params.options} '
        "--typed {output.typed:q} --log {log:q}"
