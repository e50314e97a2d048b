"""Results as rows and grids: what the summary, the printed table and the page all show. Standard library only."""

from files import UserError, read_json

BASELINE = "fp32"  # the precision that ratios are to
IMAGENET = {"num_classes": 1000, "num_images": 50_000}  # its validation set: what published accuracies are of

TABLE = ("fp32", "fp16", "bf16", "int8_ptq", "int8_qat")  # the well-known precisions in their usual order

COLUMNS = (
    "model",
    "precision",
    "target",
    "dataset",
    "batch",
    "images_per_second",
    "ratio_to_fp32",
    "latency_median_ms",
    "latency_p99_ms",
    "ratio_to_trtexec",
    "stable",
    "top1",
    "top5",
    "agreement_with_fp32",
    "within_budget",
    "engine_bytes",
    "layers_int8",
    "layers",
    "reformats",
    "nodes_high_precision",
    "plan_agreement",
    "engine_builds",
    "threads",
)


def load(paths):
    """Return the results in the files, sorted by target, model and precision; raise UserError for what is none."""
    results = [read_json(path) for path in paths]
    for path, result in zip(paths, results):
        if not isinstance(result, dict) or not {"model", "precision", "target", "benchmark"} <= set(result):
            raise UserError(f"{path} is not a result: delete it and run again")
    return sorted(results, key=lambda r: (r["target"], r["model"], r["precision"]))


def timing(result, batch):
    """Return a result's benchmark entry at a batch size, or None."""
    return next((entry for entry in result["benchmark"] if entry["batch"] == batch), None)


def baseline(results, result, batch):
    """Return the benchmark entry of the same model, target and batch in FP32, or None."""
    for other in results:
        if (other["model"], other["target"], other["precision"]) == (result["model"], result["target"], BASELINE):
            return timing(other, batch)
    return None


def ratio(results, result, batch):
    """Return images/s over those of the same model and target in FP32 at the same batch; None where not measured."""
    base, own = baseline(results, result, batch), timing(result, batch)
    return own["images_per_second"] / base["images_per_second"] if base and own else None


def beside_trtexec(result, batch):
    """Return our median compute over trtexec's at a batch size, or None where trtexec did not time it."""
    return {entry["batch"]: entry["median_compute_ratio"] for entry in result["trtexec"] or ()}.get(batch)


def predicted(result):
    """Return the agreement with FP32 that a plan predicted on the select split, by its typed graph where it has one."""
    scores = (result["plan"] or {}).get("select")
    return scores and (scores["typed"] or scores["simulated"])["agreement_with_fp32"]


def spoken_ratio(results, result, batch):
    """Return the ratio in words, marked `~` where either of its timings is not stable; empty without a ratio."""
    over = ratio(results, result, batch)
    if over is None:
        return ""
    steady = baseline(results, result, batch)["stable"] and timing(result, batch)["stable"]
    return f"({over:.2f}x)" if steady else f"({over:.2f}x ~)"


def flat(results):
    """Return one {column: value} for each result and batch size."""
    rows = []
    for result in results:
        for entry in result["benchmark"]:
            layers = result["engine"]["precision_of_layers"] or {}
            values = {
                **{name: result[name] for name in ("model", "precision", "target")},
                **{name: result["accuracy"][name] for name in ("top1", "top5", "agreement_with_fp32", "within_budget")},
                **{name: entry[name] for name in ("batch", "images_per_second", "stable", "threads")},
                "dataset": result["dataset"]["name"],
                "ratio_to_fp32": ratio(results, result, entry["batch"]),
                "latency_median_ms": entry["latency_ms"]["median"],
                "latency_p99_ms": entry["latency_ms"]["p99"],
                "ratio_to_trtexec": beside_trtexec(result, entry["batch"]),
                "engine_bytes": result["engine"]["bytes"],
                "layers_int8": layers.get("int8"),
                "layers": result["engine"]["layers"],
                "reformats": result["engine"]["reformats"],
                "nodes_high_precision": (result["plan"] or {}).get("nodes_high_precision"),
                "plan_agreement": predicted(result),
                "engine_builds": result["engine"]["engine_builds"],
            }
            rows.append({name: values[name] for name in COLUMNS})
    return rows


def ordered(names):
    """Return names with the well-known precisions first, in their usual order."""
    return sorted(set(names), key=_rank)


def _rank(name):
    return TABLE.index(name) if name in TABLE else len(TABLE), name


def grids(results):
    """Return one grid a target: {target, device, precisions, batches, models: [(model, {precision: result})]}."""
    found = []
    for target in sorted({result["target"] for result in results}):
        here = [result for result in results if result["target"] == target]
        models = sorted({result["model"] for result in here})
        found.append(
            {
                "target": target,
                "device": device(here[0]),
                "precisions": ordered(result["precision"] for result in here),
                "batches": sorted({entry["batch"] for result in here for entry in result["benchmark"]}),
                "models": [(m, {r["precision"]: r for r in here if r["model"] == m}) for m in models],
            }
        )
    return found


def published_grid(results, published):
    """Return {columns, models: [(model, published top-1, [top-1 measured in each column or None])]}.

    published: {model: ImageNet top-1 in percent}. What was measured on other images, or on a part of those, is not
    comparable and not in it. A column is `precision on target`; there is one of nothing where nothing was measured.
    """
    measured = [r for r in results if {name: r["dataset"][name] for name in IMAGENET} == IMAGENET]
    pairs = sorted({(r["target"], r["precision"]) for r in measured}, key=lambda pair: (pair[0], _rank(pair[1])))
    found = {(r["model"], r["target"], r["precision"]): r["accuracy"]["top1"] for r in measured}
    return {
        "columns": [f"{precision} on {target}" for target, precision in pairs] or ["ours"],
        "models": [(m, top1, [found.get((m, *pair)) for pair in pairs] or [None]) for m, top1 in published.items()],
    }


def device(result):
    """Return a target's device and runtime in a few words."""
    identity, versions = result["target_identity"], result["provenance"]["versions"]
    runtime = identity.get("runtime", "")
    name = identity.get("device") or identity.get("cpu") or identity.get("gpu") or result["target"]
    return f"{name}, {runtime} {versions.get(runtime) or identity.get('version') or ''}".strip(" ,")
