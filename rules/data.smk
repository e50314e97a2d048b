"""A dataset's index and its preprocessed images."""


rule index:
    """Describe a dataset: its images, their labels and the splits; write the PNG files of a builtin one."""
    input:
        user=dataset_files,
        code=dataset_code("index_dataset.py"),
    output:
        index="results/{dataset}/data/index.json",
        train="results/{dataset}/data/train.tsv",
        seen="results/{dataset}/data/seen.txt",
    log:
        "results/logs/{dataset}/index.log",
    params:
        recipe=options(dataset=recipes.dataset, seed=recipes.seed, state=recipes.seen),
        images="results/{dataset}/data/images",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.recipe} '
        "--images-root {params.images:q} --index {output.index:q} --train-images {output.train:q} "
        "--seen {output.seen:q} --log {log:q}"


rule decode:
    """Decode, resize and crop the images of a split once, as uint8."""
    input:
        index="results/{dataset}/data/index.json",
        code=code("decode_split.py"),
    output:
        images="results/{dataset}/data/{preprocess}.{split}.u8",
    log:
        "results/logs/{dataset}/decode.{preprocess}.{split}.log",
    threads: EVERY_CORE
    params:
        recipe=options(geometry=recipes.geometry),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} --index {input.index:q} {params.recipe} --split {wildcards.split} '
        "--images {output.images:q} --workers {threads} --log {log:q}"
