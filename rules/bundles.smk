"""Bundles: an engine with all that an application needs, and that Triton Inference Server needs."""


rule pick_samples:
    """Copy three images of the val split, for bundles."""
    input:
        index="results/{dataset}/data/index.json",
        code=host_code("pick_samples.py"),
    output:
        samples="results/{dataset}/data/samples.zip",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --log {log:q}'


rule bundle:
    """Pack the engine of a result with its preprocessing, classes, clients and sample logits, on its target."""
    input:
        code=device_code("bundle.py", sources=BUNDLE_SOURCES),
        result="results/{model}.{precision}.{target}.json",
        engines=bundled_engines,
        plugin=plugin,
        index=active("data/index.json"),
        samples=active("data/samples.zip"),
    output:
        bundle=active("bundles/{model}.{precision}.{target}.tar.gz"),
    wildcard_constraints:
        precision="[A-Za-z0-9_-]+",
    threads: device_cores
    params:
        options=device_options(recipe=target["threads"], licenses=slices.licenses),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"


rule model_repository:
    """Lay a bundle out as a model repository for Triton Inference Server, with a client, and pack it."""
    input:
        code=result_code("model_repository.py", *TRITON, sources=["workflow_scripts/deployment/triton.md"]),
        bundle=active("bundles/{model}.{precision}.{target}.tar.gz"),
        graphs=served_graphs,
    output:
        repository=active("triton/{model}.{precision}.{target}.tar.gz"),
    wildcard_constraints:
        precision="[A-Za-z0-9_-]+",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --log {log:q}'
