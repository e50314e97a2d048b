"""Plans: which nodes keep a higher precision, searched for on the host, scored on the select split."""


rule plan_precision:
    """Search for the cheapest nodes to keep in a higher precision, or check the nodes of a manual plan."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        qat=qat_checkpoint,
        calibration=calibration,
        given=user_file("precision.fallback.plan"),
        calib_images=images("calib"),
        images=images("select"),
        index="results/{dataset}/data/index.json",
        reference="results/{dataset}/select/{model}.torch.npy",
        code=host_code("plan_precision.py"),
    output:
        plan="results/{dataset}/plans/{model}.{precision}.json",
    threads: EVERY_CORE
    params:
        options=options(needs="fallback", classes=dataset.classes, graph=slices.plan_graph, recipe=PLANNING),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --threads {threads} --log {log:q}'


rule evaluate_typed:
    """Evaluate a strongly typed graph in ONNX Runtime on the select split: a plan's prediction for its engines."""
    input:
        model="results/{dataset}/models/{model}.json",
        engine="results/{dataset}/typed/{model}.{precision}.onnx",
        images=images("select"),
        index="results/{dataset}/data/index.json",
        reference="results/{dataset}/select/{model}.torch.npy",
        code=host_code("evaluate_engine.py", "runtimes/onnxruntime.py"),
    output:
        accuracy="results/{dataset}/typed/{model}.{precision}.json",
    threads: EVERY_CORE
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --runtime onnxruntime '
        "--recipe '{{}}' --identity '{{}}' --split select --log {log:q}"


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
    threads: device_cores
    params:
        options=options(recipe=BUILDING, identity=slices.runtime_identity),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"
