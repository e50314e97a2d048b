"""Engines: built from a graph by a target's runtime, with a description; the plugin that they may take."""


rule build_plugin:
    """Compile the TensorRT plugin on its target, or record why it cannot be compiled there."""
    input:
        sources=PLUGIN_SOURCES,
        code=device_code("build_plugin.py", purpose="build", sources=PLUGIN_SOURCES),
    output:
        plugin="results/plugins/{target}.so",
        description="results/plugins/{target}.json",
    params:
        options=device_options(plugins=target.plugins, toolchain=slices.toolchain),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"


rule build_engine:
    """Build an engine from an ONNX graph and its calibration cache or plan; describe the precision of each layer."""
    input:
        onnx=engine_graph,
        fused=fused_graph,
        plugin=plugin,
        cache=engine_cache,
        plan=plan,
        select=select,
        model=verified_model,
        code=device_code("build_engine.py", purpose="build"),
    output:
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        description="results/{dataset}/engines/{model}.{precision}.{target}.json",
    threads: device_cores
    params:
        options=device_options(recipe=BUILDING, verification=VERIFICATION),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"
