"""Result files: a new one is checked against its schema; what an older one lacks is null. Standard library to read."""

from __future__ import annotations

from typing import Any

from core import provenance
from core.files import UserError, read_json, write_json
from core.sources import ROOT

SCHEMA = "result.schema.yaml"
VERSION = 2  # of SCHEMA; results of version 1 do not name it
OLDER = "an older version of the project wrote it: run snakemake for it again"
PARTS = {**dict.fromkeys(("dataset", "accuracy", "engine", "target_identity", "provenance"), dict), "benchmark": list}
NAMES = ("model", "precision", "target")
# keys that older results lack, by part: null, or the value in EMPTY
LATER: dict[str, tuple[str, ...]] = {
    "": (
        *("chosen", "chosen_batch", "objective", "candidates", "paired_benchmark", "over_pytorch"),
        *("trtexec", "dla", "plan", "preprocessing"),
    ),
    "dataset": ("subset",),
    "accuracy": (
        *("logit_error_over_spread", "smallest_margin", "smallest_changed_margin", "largest_changed_margin"),
        "machine",
    ),
    "engine": ("int8_share_of_macs", "reformats", "precision_of_layers", "layers", "machine"),
    "plan": ("met", "select", "path"),
    "provenance": ("weights_part", "git_commit"),
}
EMPTY: dict[str, dict] = {"engine": {"warnings": []}, "provenance": {"versions": {}, "recipe": {}, "trained": {}}}
TIMED = ("power_mode", "power_mode_asked", "board", "beside", "timed", "timing_key", "machine", "energy_mj_per_image")
CANDIDATE = ("latency_ms", "within_limit", "taken", "paired")


def read(path: str) -> dict[str, Any]:
    """Return a result; raise UserError if it is invalid, was changed since, or is of a newer schema version."""
    provenance.check(path)
    result = read_json(path)
    if not is_result(result):
        raise UserError(f"{path} is not a result: delete it and run again")
    if result.get("schema_version", 1) > VERSION:
        version = result["schema_version"]
        raise UserError(f"{path} is of schema version {version}, and this project reads up to {VERSION}: update it")
    return completed(result)


def current(path: str) -> dict[str, Any]:
    """Return a result of this version; raise UserError for an older one."""
    result = read(path)
    if result["schema_version"] < VERSION:
        raise UserError(f"{path}: {OLDER}")
    return result


def write(path: str, result: dict[str, Any]) -> None:
    """Check a result, then write it."""
    check(result)
    write_json(path, result)


def check(result: dict[str, Any]) -> None:
    """Raise UserError that names the first place where a result violates rules/schemas/result.schema.yaml."""
    import jsonschema
    import yaml

    schema = yaml.safe_load((ROOT.parent / "rules" / "schemas" / SCHEMA).read_text(encoding="utf-8"))
    violations = jsonschema.Draft7Validator(schema).iter_errors(result)
    first = min(violations, key=lambda error: list(map(str, error.path)), default=None)
    if first:
        where = ".".join(map(str, first.path)) or "the result"
        raise UserError(f"the result violates {SCHEMA}: {where}: {first.message}")


def is_result(value: Any) -> bool:
    """Return whether a JSON value has the parts that results of every version have."""
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in NAMES):
        return False
    timed = value.get("benchmark")
    parts = all(isinstance(value.get(name), kind) for name, kind in PARTS.items())
    return parts and isinstance(value.get("schema_version", 1), int) and all(isinstance(e, dict) for e in timed or ())


def completed(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result with null for the keys that it is too old to have."""
    complete = {**dict.fromkeys(LATER[""]), "schema_version": 1, "notes": [], **result}
    for part, names in LATER.items():
        if part and complete[part] is not None:
            complete[part] = {**dict.fromkeys(names), **EMPTY.get(part, {}), **complete[part]}
    if complete["candidates"]:
        complete["candidates"] = [{**dict.fromkeys(CANDIDATE), **one} for one in complete["candidates"]]
    complete["benchmark"] = [{**dict.fromkeys(TIMED), **entry} for entry in complete["benchmark"]]
    return complete
