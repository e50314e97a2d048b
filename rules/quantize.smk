"""Calibration and its sweep, quantization-aware training and the explicit Q/DQ graph."""


rule sweep_calibration:
    """Score a precision's candidate calibration recipes on the select split and choose one."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        images=images("calib"),
        select=images("select"),
        index="results/{dataset}/data/index.json",
        code=host_code("sweep_calibration.py"),
    output:
        sweep="results/{dataset}/sweeps/{model}.{precision}.json",
    log:
        "results/logs/{dataset}/sweep_calibration.{model}.{precision}.log",
    threads: EVERY_CORE
    params:
        options=options(
            needs="calibration.candidates", classes=dataset.classes, recipe=precision.calibration["images candidates"]
        ),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --checkpoint {input.checkpoint:q} --images {input.images:q} '
        "--select {input.select:q} --index {input.index:q} {params.options} --sweep {output.sweep:q} "
        "--model {input.model:q} --threads {threads} --log {log:q}"


rule calibrate:
    """Calibrate each quantizer's amax on the calib split, with the precision's recipe or the sweep's choice."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        images=images("calib"),
        sweep=sweep_choice,
        imported=user_file("precision.calibration.import"),
        code=host_code("calibrate.py"),
    output:
        calibration="results/{dataset}/calibration/{model}.{precision}.json",
    log:
        "results/logs/{dataset}/calibrate.{model}.{precision}.log",
    threads: EVERY_CORE
    params:
        imported=user_path("precision.calibration.import"),
        options=options(needs="calibration", classes=dataset.classes, recipe=slices.calibration),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --checkpoint {input.checkpoint:q} --images {input.images:q} '
        "--sweep={input.sweep:q} --imported={params.imported:q} {params.options} "
        "--model {input.model:q} --calibration {output.calibration:q} --threads {threads} --log {log:q}"


rule train_qat:
    """Train a QAT checkpoint from the calibrated model, with the FP32 model as teacher."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        calibration="results/{dataset}/calibration/{model}.{precision}.json",
        index="results/{dataset}/data/index.json",
        listing="results/{dataset}/data/train.tsv",
        images=proof_images,
        code=host_code("train_qat.py"),
    output:
        qat="results/{dataset}/qat/{model}.{precision}.pth",
    log:
        "results/logs/{dataset}/train_qat.{model}.{precision}.log",
    threads: EVERY_CORE
    params:
        options=options(
            needs="qat", classes=dataset.classes, augmentation=AUGMENTATION, recipe=precision.qat, seed=seed
        ),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --checkpoint {input.checkpoint:q} --calibration {input.calibration:q} '
        "--index {input.index:q} --images {input.images:q} --model {input.model:q} {params.options} "
        "--qat {output.qat:q} --threads {threads} --log {log:q}"


rule quantize_onnx:
    """Export the calibrated or QAT model as an explicit Q/DQ graph and run a graph variant's passes over it."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        qat=qat_checkpoint,
        calibration="results/{dataset}/calibration/{model}.{precision}.json",
        plan=plan,
        images=proof_images,
        code=host_code("quantize_onnx.py"),
    output:
        quantized="results/{dataset}/quantized/{model}.{precision}.{graph}.onnx",
    log:
        "results/logs/{dataset}/quantize_onnx.{model}.{precision}.{graph}.log",
    params:
        options=options(
            classes=dataset.classes, passes=graph.passes, placement=graph.placement, activations=graph.activations
        ),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --checkpoint {input.checkpoint:q} --qat={input.qat:q} '
        "--calibration {input.calibration:q} --plan={input.plan:q} --images {input.images:q} {params.options} "
        "--model {input.model:q} --quantized {output.quantized:q} --log {log:q}"


rule export_cache:
    """Write TensorRT's calibration cache: the Q/DQ graph's scales, and calibrated ones of all other activations."""
    input:
        model="results/{dataset}/models/{model}.json",
        clean=clean_graph,
        qat=qat_checkpoint,
        calibration="results/{dataset}/calibration/{model}.{precision}.json",
        images=images("calib"),
        code=host_code("export_cache.py"),
    output:
        cache="results/{dataset}/calibration/{model}.{precision}.{target}.cache",
    log:
        "results/logs/{dataset}/export_cache.{model}.{precision}.{target}.log",
    threads: EVERY_CORE
    params:
        options=options(count=precision.calibration.images, placement=slices.engine_placement, version=slices.version),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --clean {input.clean:q} --qat={input.qat:q} '
        "--calibration {input.calibration:q} --images {input.images:q} {params.options} "
        "--model {input.model:q} --cache {output.cache:q} --threads {threads} --log {log:q}"
