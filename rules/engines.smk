"""The engine that a runtime builds from a graph, and what it is."""


rule build_engine:
    """Build an engine with the target's runtime and read back what it computes in."""
    input:
        onnx=engine_graph,
        cache=engine_cache,
        code=device_code("build_engine.py"),
    output:
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        description="results/{dataset}/engines/{model}.{precision}.{target}.json",
    log:
        "results/logs/{dataset}/build_engine.{model}.{precision}.{target}.log",
    threads: EVERY_CORE
    params:
        recipe=options(runtime=recipes.runtime, recipe=recipes.building, identity=recipes.identity),
    shell:
        '"$LEVIT_PYTHON_{wildcards.target}" {input.code[0]:q} --onnx {input.onnx:q} '
        "--cache={input.cache:q} {params.recipe} "
        "--engine {output.engine:q} --description {output.description:q} --log {log:q}"
