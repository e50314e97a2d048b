"""An engine's timeline: drawn from its profile, or captured with Nsight Systems. Made on request only."""


rule draw_timeline:
    """Draw a profile's layers along time, as SVG."""
    input:
        profile="results/{dataset}/profile/{model}.{precision}.{target}.json",
        code=result_code("draw_timeline.py", "reporting/timeline.svg"),
    output:
        timeline=report(
            "results/{dataset}/timeline/{model}.{precision}.{target}.svg",
            caption="captions/timeline.rst",
            category="Timelines",
            labels=NAMES,
        ),
    params:
        title="{model} {precision} on {target}",
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} --title {params.title:q} --log {log:q}'


rule capture_nsys:
    """Capture an engine's queries with Nsight Systems, where it is installed."""
    input:
        engine="results/{dataset}/engines/{model}.{precision}.{target}.engine",
        plugin=plugin,
        code=device_code("capture_nsys.py"),
    output:
        capture="results/{dataset}/timeline/{model}.{precision}.{target}.nsys-rep",
    threads: device_cores
    params:
        options=device_options(recipe=PROFILING),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"
