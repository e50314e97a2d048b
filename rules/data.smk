"""A dataset's index, a model's preprocessing, and the preprocessed images."""


rule index_dataset:
    """Index a dataset's images, labels and splits, with the list of training images; write the images of a builtin one."""
    input:
        user=dataset_files,
        code=dataset_code("index_dataset.py"),
    output:
        index="results/{dataset}/data/index.json",
        train_images="results/{dataset}/data/train.tsv",
        seen="results/{dataset}/data/seen.txt",
    params:
        options=options(
            dataset=dataset[
                "builtin drawing path train val labels synsets class_order manifest subset classes splits"
            ],
            seed=seed,
            state=slices.image_state,
        ),
        images="results/{dataset}/data/images",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} '
        "--images-root {params.images:q} --log {log:q}"


rule resolve:
    """Resolve a model's input size, preprocessing and normalization from its row, or timm's record where that is silent."""
    input:
        code=host_code("resolve.py"),
    output:
        model="results/{dataset}/models/{model}.json",
    params:
        options=run_checks.one_line(options(row=slices.network)),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'


rule decode_split:
    """Decode, resize and crop the images of a split, from the index to one uint8 file."""
    input:
        index="results/{dataset}/data/index.json",
        model="results/{dataset}/models/{model}.json",
        code=host_code("decode_split.py"),
    output:
        images=images("{split}"),
    wildcard_constraints:
        dataset=rf"(?!(?:{SHARDED})/)[A-Za-z0-9_-]+",
    threads: EVERY_CORE
    params:
        shard="1/1",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --split {wildcards.split} --shard {params.shard} '
        "--workers {threads} --log {log:q}"


use rule decode_split as decode_shard with:
    output:
        images=temp(images("{split}.{shard}-of-{shards}")),
    wildcard_constraints:
        dataset=SHARDED,
    params:
        shard="{shard}/{shards}",


rule join_shards:
    """Join the shards of a split, which one job each has decoded, where the dataset's row has `shards`."""
    input:
        index="results/{dataset}/data/index.json",
        shards=shards,
        code=host_code("join_shards.py"),
    output:
        images=images("{split}"),
    wildcard_constraints:
        dataset=SHARDED,
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --split {wildcards.split} --log {log:q}'
