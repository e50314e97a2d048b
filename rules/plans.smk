"""Plans: which nodes keep a higher precision, searched for on the host, scored on the select split."""


rule plan_precision:
    """Search for the cheapest nodes to keep in a higher precision, or check the nodes of a manual plan."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        qat=qat_checkpoint,
        calibration=calibration,
        given=user_file("precision.fallback.plan"),
        calib=images("calib"),
        select=select,
        code=host_code("plan_precision.py"),
    output:
        plan="results/{dataset}/plans/{model}.{precision}.json",
    log:
        "results/logs/{dataset}/plan_precision.{model}.{precision}.log",
    threads: EVERY_CORE
    params:
        given=user_path("precision.fallback.plan"),
        options=options(needs="fallback", classes=dataset.classes, graph=slices.plan_graph, recipe=PLANNING),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --checkpoint {input.checkpoint:q} --qat={input.qat:q} '
        "--calibration={input.calibration:q} --given={params.given:q} --calib-images {input.calib:q} "
        "--images {input.select[0]:q} --index {input.select[1]:q} --reference {input.select[2]:q} {params.options} "
        "--model {input.model:q} --plan {output.plan:q} --threads {threads} --log {log:q}"


rule evaluate_typed:
    """Evaluate a strongly typed graph in ONNX Runtime on the select split: a plan's prediction for its engines."""
    input:
        model="results/{dataset}/models/{model}.json",
        onnx="results/{dataset}/typed/{model}.{precision}.onnx",
        images=images("select"),
        index="results/{dataset}/data/index.json",
        reference="results/{dataset}/select/{model}.torch.npy",
        code=host_code("evaluate_engine.py", "runtimes/onnxruntime.py"),
    output:
        accuracy="results/{dataset}/typed/{model}.{precision}.json",
    log:
        "results/logs/{dataset}/evaluate_typed.{model}.{precision}.log",
    threads: EVERY_CORE
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --engine {input.onnx:q} --images {input.images:q} --index {input.index:q} '
        "--reference {input.reference:q} --runtime onnxruntime --recipe '{{}}' --identity '{{}}' --split select "
        "--model {input.model:q} --accuracy {output.accuracy:q} --log {log:q}"


rule bisect_precision:
    """Bisect the fallback with an engine build per step, as the original did, to compare plans with."""
    input:
        model="results/{dataset}/models/{model}.json",
        onnx=clean_graph,
        cache=peer_cache,
        images=images("select"),
        code=device_code("bisect_precision.py"),
    output:
        bisect="results/{dataset}/bisect/{model}.{precision}.{target}.json",
    log:
        "results/logs/{dataset}/bisect_precision.{model}.{precision}.{target}.log",
    threads: device_cores
    resources:
        **BOARDS,
    params:
        device=on_device,
        options=options(recipe=BUILDING, identity=slices.runtime_identity),
    shell:
        "{params.device} {input.code[0]:q} --onnx {input.onnx:q} --cache={input.cache:q} "
        "--images {input.images:q} --model {input.model:q} {params.options} --bisect {output.bisect:q} --log {log:q}"
