"""Results as rows and grids: what the summary, the printed table and the page all show. Standard library only.

Only results of one dataset, or of one part of it, stand in a grid. A ratio is of engines that were timed in turns,
where one that chooses has that (`paired_benchmark`); else it is the quotient of two timings of their own, which no
reader may take for more: it is marked and grey.
"""

import collections

from core.files import canonical
from measure import paired
from reporting import result_file

# value: of speeds; low, high: its interval, None where the two were not timed in turns; mark: what a reader must know
Ratio = collections.namedtuple("Ratio", "value low high mark")
APART, UNSTABLE, LEVEL, CLEAR = "*", "~", "=", ""

BASELINE = "fp32"  # the precision that ratios are to
IMAGENET = {"num_classes": 1000, "num_images": 50_000}  # its validation set: what published accuracies are of

LOOKED_AT = ("name", "split", "num_images", "num_classes", "subset")  # of a result's dataset
TABLE = ("fp32", "fp16", "bf16", "int8_ptq", "int8_qat")  # the well-known precisions in their usual order

COLUMNS = (
    "model",
    "precision",
    "target",
    "dataset",
    "batch",
    "images_per_second",
    "ratio_to_fp32",
    "ratio_low",
    "ratio_high",
    "ratio_taken",
    "latency_median_ms",
    "latency_p99_ms",
    "ratio_to_trtexec",
    "stable",
    "timed",
    "power_mode",
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
    """Return the results in the files in their order; raise UserError for what is none or was changed."""
    return in_order(map(result_file.read, paths))


def in_order(results):
    """Return results sorted by dataset, target, model and precision."""
    return sorted(results, key=lambda r: (looked_at(r), r["target"], r["model"], r["precision"]))


def looked_at(result):
    """Return the text of what a result's accuracy is of: results are compared where it is the same."""
    return canonical([result["dataset"].get(key) for key in LOOKED_AT])


def dataset(result):
    """Return the name of what a result's accuracy is of, with the part of it that was looked at."""
    found = result["dataset"]
    part = ", ".join(f"{key} {value}" for key, value in (found.get("subset") or {}).items() if value is not None)
    return f"{found['name']} ({part})" if part else found["name"]


def timing(result, batch):
    """Return a result's benchmark entry at a batch size, or None."""
    return next((entry for entry in result["benchmark"] if entry["batch"] == batch), None)


def baseline(results, result):
    """Return the result of the same model, target and images in FP32, or None."""
    wanted = (looked_at(result), result["model"], result["target"], BASELINE)
    return next((r for r in results if (looked_at(r), r["model"], r["target"], r["precision"]) == wanted), None)


def turns(results, batch):
    """Return [{engine's SHA-256: milliseconds of each round}] of what was timed in turns at a batch size."""
    entries = [entry for result in results for entry in result.get("paired_benchmark") or () if entry["batch"] == batch]
    return [{engine["engine_sha256"]: engine["median_ms"] for engine in entry["engines"]} for entry in entries]


def ratio(results, result, batch):
    """Return the Ratio of a speed to that in FP32 of the same model, target and batch; None where not measured.

    It is of timings that were taken in turns, where there are such of both engines.
    """
    base, own = baseline(results, result), timing(result, batch)
    other = timing(base, batch) if base else None
    if not other or not own:
        return None
    hashes = [r["engine"]["sha256"] for r in (result, base)]
    if hashes[0] == hashes[1]:
        return Ratio(1.0, 1.0, 1.0, CLEAR)
    for times in turns(results, batch):
        if set(hashes) <= set(times):
            found = paired.speed_ratio(*(times[digest] for digest in hashes))
            mark = UNSTABLE if not paired.is_narrow(found) else LEVEL if paired.is_level(found) else CLEAR
            return Ratio(found["ratio"], found["low"], found["high"], mark)
    stable = own["stable"] and other["stable"]
    value = own["images_per_second"] / other["images_per_second"]
    return Ratio(value, None, None, APART if stable else APART + UNSTABLE)


def beside_trtexec(result, batch):
    """Return our median compute over trtexec's at a batch size, or None where trtexec did not time it."""
    return {entry["batch"]: entry["median_compute_ratio"] for entry in result["trtexec"] or ()}.get(batch)


def predicted(result):
    """Return the agreement with FP32 that a plan predicted on the select split, by its typed graph where it has one."""
    scores = (result["plan"] or {}).get("select")
    return scores and (scores["typed"] or scores["simulated"])["agreement_with_fp32"]


def spoken(found):
    """Return a Ratio in words, with its marks; empty without one."""
    return f"({found.value:.2f}x {found.mark}".strip() + ")" if found else ""


def look(found):
    """Return how a Ratio may be coloured: `good`, `bad`, or `ratio` (grey) where it proves nothing."""
    if found.mark:
        return "ratio"
    return "good" if found.value > 1 else "bad" if found.value < 1 else "ratio"


def unstable(results):
    """Return the results whose own timing, or whose finalists' turns, are not stable, in their order."""
    timed = [(r, [*(r["benchmark"] if not r["chosen"] else ()), *(r.get("paired_benchmark") or ())]) for r in results]
    return [result for result, entries in timed if not all(entry["stable"] for entry in entries)]


def path(result):
    """Return the name of a result's file."""
    return f"results/{result['model']}.{result['precision']}.{result['target']}.json"


def notes(results):
    """Return what the marks in a table of results mean, a line each, those alone that are there."""
    found = [ratio(results, r, entry["batch"]) for r in results for entry in r["benchmark"]]
    marks = "".join(one.mark for one in found if one)
    again = unstable(results)
    remedy = f"; on an idle machine: make retime RESULT={path(again[0])}" if again else ""
    lines = {
        UNSTABLE: f"timing not stable: other work was running, or the clocks moved{remedy}",
        APART: "not timed in turns, so the ratio proves little: a result of `auto` times its finalists in turns",
        LEVEL: "timed in turns, and which is faster is not known: the interval of the ratio contains 1",
    }
    shown = [mark for mark in lines if mark in marks or (mark == UNSTABLE and again)]
    return [f"{mark} {lines[mark]}" for mark in shown]


def flat(results):
    """Return one {column: value} for each result and batch size."""
    rows = []
    for result in results:
        for entry in result["benchmark"]:
            over = ratio(results, result, entry["batch"])
            layers = result["engine"]["precision_of_layers"] or {}
            values = {
                **{name: result[name] for name in ("model", "precision", "target")},
                **{name: result["accuracy"][name] for name in ("top1", "top5", "agreement_with_fp32", "within_budget")},
                **{name: entry[name] for name in ("batch", "images_per_second", "stable", "threads")},
                **{name: entry.get(name) for name in ("timed", "power_mode")},
                "dataset": dataset(result),
                "ratio_to_fp32": over and over.value,
                "ratio_low": over and over.low,
                "ratio_high": over and over.high,
                "ratio_taken": over and ("apart" if over.low is None else "in turns"),
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
    """Return one grid a dataset and target: {dataset, target, device, precisions, batches, models: [(model, row)]}.

    A row is {precision: result}. What was measured on other images, or on another part of them, is in another grid.
    """
    found = []
    for seen, target in sorted({(looked_at(result), result["target"]) for result in results}):
        here = [result for result in results if (looked_at(result), result["target"]) == (seen, target)]
        models = sorted({result["model"] for result in here})
        found.append(
            {
                "dataset": dataset(here[0]),
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
