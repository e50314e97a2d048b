"""Accuracy of PyTorch, of the exported graph and of each engine.

accuracy/ has the scores on the val split, for results; select/ those on the select split, for everything that chooses.
"""


rule evaluate_torch:
    """Evaluate the FP32 checkpoint in PyTorch; its logits are the reference of all other evaluations."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        images=scored_images,
        index="results/{dataset}/data/index.json",
        code=host_code("evaluate_torch.py"),
    output:
        accuracy="results/{dataset}/{scores}/{model}.torch.json",
        logits="results/{dataset}/{scores}/{model}.torch.npy",
    threads: SHORT
    resources:
        cores=EVERY_CORE,
    params:
        options=options(classes=dataset.classes, split=slices.split),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --threads {resources.cores} --log {log:q}'


rule evaluate_onnx:
    """Evaluate the exported graph in ONNX Runtime on the val split."""
    input:
        model="results/{dataset}/models/{model}.json",
        engine="results/{dataset}/onnx/{model}.onnx",
        images=images("val"),
        index="results/{dataset}/data/index.json",
        reference="results/{dataset}/accuracy/{model}.torch.npy",
        code=host_code("evaluate_engine.py", "runtimes/onnxruntime.py"),
    output:
        accuracy="results/{dataset}/accuracy/{model}.onnx.json",
    threads: EVERY_CORE
    params:
        options=options(identity=slices.onnx_identity),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} '
        "--runtime onnxruntime --recipe '{{}}' --split val --log {log:q}"


rule evaluate_engine:
    """Evaluate an engine file on its target."""
    input:
        model="results/{dataset}/models/{model}.json",
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        images=scored_images,
        index="results/{dataset}/data/index.json",
        reference="results/{dataset}/{scores}/{model}.torch.npy",
        plugin=plugin,
        code=device_code("evaluate_engine.py"),
    output:
        accuracy="results/{dataset}/{scores}/{model}.{precision}.{target}.json",
    threads: device_cores
    params:
        options=device_options(split=slices.split, recipe=target["threads"]),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"
