"""A model's checkpoint: downloaded, trained, fine-tuned or imported, as the dataset's `weights` says."""


rule download:
    """Download the official checkpoint and check its SHA-256."""
    input:
        code=host_code("fetch_checkpoint.py"),
    output:
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
    wildcard_constraints:
        dataset=datasets_with("official"),
    params:
        options=options(url=slices.url, sha256=model.sha256),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'


use rule download as download_start with:
    output:
        checkpoint="results/{dataset}/pretrained/{model}.pth",
    wildcard_constraints:
        dataset=datasets_with("finetune"),


rule train:
    """Train a checkpoint on the train split, from scratch or from another checkpoint."""
    input:
        "results/{dataset}/data/train.tsv",  # beside the index, which names it
        model="results/{dataset}/models/{model}.json",
        start=user_file("dataset.from"),
        index="results/{dataset}/data/index.json",
        code=host_code("train.py"),
    output:
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
    wildcard_constraints:
        dataset=datasets_with("train", "finetune"),
    threads: EVERY_CORE
    resources:
        processes=run_checks.one_line(slices.processes)(tables, dataset.training),
    params:
        options=options(classes=dataset.classes, training=TRAINING, seed=seed),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --threads {threads} '
        "--processes {resources.processes} --log {log:q}"


rule import_checkpoint:
    """Check the user's checkpoint against the model and copy its weights."""
    input:
        model="results/{dataset}/models/{model}.json",
        source=user_file("dataset.weights"),
        code=host_code("import_checkpoint.py"),
    output:
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
    wildcard_constraints:
        dataset=datasets_with("import"),
    params:
        options=options(classes=dataset.classes, part=slices.checkpoint_part),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'
