"""Identities of targets, and every result."""


rule fingerprint:
    """Record a target's identity: device, runtime version, driver."""
    input:
        code=device_code("fingerprint.py", purpose="build"),
    output:
        identity="results/targets/{target}.json",
    params:
        options=options(target=FACTS),
        identity=options(identity=slices.runtime_identity),
    shell:
        "{params.device} {input.code[0]:q} {params.files} {params.options} --log {log:q}"


rule everything:
    """Every valid result, within reach or not: for dry runs."""
    input:
        every_result,
