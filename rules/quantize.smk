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
    threads: EVERY_CORE
    params:
        options=options(
            needs="calibration.candidates", classes=dataset.classes, recipe=precision.calibration["images candidates"]
        ),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --threads {threads} --log {log:q}'


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
    threads: SHORT
    resources:
        cores=EVERY_CORE,
    params:
        options=options(needs="calibration.method", classes=dataset.classes, recipe=slices.calibration),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --threads {resources.cores} --log {log:q}'


rule train_qat:
    """Train a QAT checkpoint from the calibrated model, with the FP32 model as teacher."""
    input:
        "results/{dataset}/data/train.tsv",  # beside the index, which names it
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        calibration="results/{dataset}/calibration/{model}.{precision}.json",
        index="results/{dataset}/data/index.json",
        images=proof_images,
        code=host_code("train_qat.py"),
    output:
        qat="results/{dataset}/qat/{model}.{precision}.pth",
    threads: EVERY_CORE
    resources:
        processes=run_checks.one_line(slices.processes)(tables, precision.qat),
    params:
        options=options(needs="qat", classes=dataset.classes, augmentation=AUGMENTATION, recipe=QAT, seed=seed),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --threads {threads} '
        "--processes {resources.processes} --log {log:q}"


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
    wildcard_constraints:
        precision=rf"(?!(?:{CHOOSING}|{NNCF})\.)[A-Za-z0-9_-]+",
    params:
        options=options(
            classes=dataset.classes,
            passes=graph.passes,
            placement=graph.placement,
            activations=graph.activations,
            probabilities=graph.probabilities,
            chained=slices.chained,
        ),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'


rule quantize_nncf:
    """Run a graph variant's passes over the exported graph and let NNCF put Q/DQ pairs on it."""
    input:
        model="results/{dataset}/models/{model}.json",
        onnx="results/{dataset}/onnx/{model}.onnx",
        images=images("calib"),
        code=host_code("quantize_nncf.py"),
    output:
        quantized="results/{dataset}/quantized/{model}.{precision}.{graph}.onnx",
    wildcard_constraints:
        precision=NNCF,
    threads: EVERY_CORE
    params:
        options=options(recipe=precision.calibration, passes=graph.passes),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'


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
    threads: EVERY_CORE
    params:
        options=options(count=precision.calibration.images, placement=slices.engine_placement, version=slices.version),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --threads {threads} --log {log:q}'
