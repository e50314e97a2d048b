"""Latency and throughput of engines, by our timing and by trtexec, and the time of each layer."""


rule benchmark:
    """Time an engine file on its target, with no other job on the machine."""
    input:
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        plugin=plugin,
        code=device_code("benchmark.py"),
    output:
        benchmark="results/{dataset}/benchmark/{model}.{precision}.{target}.json",
    threads: device_cores
    params:
        options=device_options(recipe=TIMING),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"


rule paired_benchmark:
    """Time the engines of a choice that meet the budget on the select split, in turns."""
    input:
        plugin=plugin,
        code=device_code("paired_benchmark.py"),
        engines=candidates("results/{d}/engines/{m}.{p}.{t}.engine"),
        select=candidates("results/{d}/select/{m}.{p}.{t}.json"),
    output:
        paired_benchmark="results/{dataset}/paired_benchmark/{model}.{precision}.{target}.json",
    wildcard_constraints:
        precision=CHOOSING,
    threads: device_cores
    params:
        options=device_options(recipe=slices.timing_in_turns),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"


rule compare_pytorch:
    """Time an engine and PyTorch's in turns, where the target's row names PyTorch's."""
    input:
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        pytorch=pytorch_engine,
        plugin=plugin,
        code=device_code("compare_pytorch.py", "runtimes/pytorch.py"),
    output:
        comparison="results/{dataset}/pytorch/{model}.{precision}.{target}.json",
    threads: device_cores
    params:
        options=device_options(recipe=TIMING, name=target.pytorch),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"


rule run_trtexec:
    """Time an engine with trtexec, where it is installed."""
    input:
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        plugin=plugin,
        code=device_code("run_trtexec.py"),
    output:
        trtexec="results/{dataset}/trtexec/{model}.{precision}.{target}.json",
    threads: device_cores
    params:
        options=device_options(recipe=TIMING),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"


rule profile_engine:
    """Time each layer of an engine, in a run of its own; made on request only."""
    input:
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        plugin=plugin,
        code=device_code("profile_engine.py"),
    output:
        profile="results/{dataset}/profile/{model}.{precision}.{target}.json",
    threads: device_cores
    params:
        options=device_options(recipe=PROFILING),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"
