"""What a target is."""


rule fingerprint:
    """Record a target's identity: device, runtime version, driver."""
    input:
        code=device_code("fingerprint.py"),
    output:
        identity="results/targets/{target}.json",
    log:
        "results/logs/targets/fingerprint.{target}.log",
    params:
        recipe=options(target=recipes.facts),
        identity=options(identity=recipes.identity),
    shell:
        '"$LEVIT_PYTHON_{wildcards.target}" {input.code[0]:q} {params.recipe} --identity {output.identity:q} --log {log:q}'


rule everything:
    """All results that make sense, here or anywhere: for dry runs."""
    input:
        every_result,
