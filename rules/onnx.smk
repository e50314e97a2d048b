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
    params:
        options=options(classes=dataset.classes),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'


rule clean_onnx:
    """Run a graph variant's passes over the exported graph."""
    input:
        onnx="results/{dataset}/onnx/{model}.onnx",
        code=host_code("clean_onnx.py"),
    output:
        clean="results/{dataset}/clean/{model}.{graph}.onnx",
    params:
        options=options(passes=graph.passes),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'


rule type_onnx:
    """Make a strongly typed graph from a weakly typed one and its plan: Casts set the precision of each layer."""
    input:
        onnx=weakly_typed_graph,
        plan=plan,
        code=host_code("type_onnx.py"),
    output:
        typed="results/{dataset}/typed/{model}.{precision}.onnx",
    params:
        options=options(recipe=precision["compute high_precision"]),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'


rule take_pixels:
    """Make a graph take uint8 pixels, where the target's row wants that: the normalization goes into the graph."""
    input:
        onnx=normalized_graph,
        model="results/{dataset}/models/{model}.json",
        code=host_code("take_pixels.py"),
    output:
        pixels="results/{dataset}/{taking,pixels|fused_pixels}/{model}.{precision}.{target}.onnx",
    params:
        options=options(runtime=target.runtime),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'
