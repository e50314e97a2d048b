"""Results as rows and grids, for the summary, the printed table and the page. Standard library only.

A grid holds results of one dataset, or of one subset of it. A speed ratio comes from engines that were timed in turns
(`paired_benchmark` of a result that chooses among engines); otherwise it is the quotient of two separate timings, and
is marked and grey, since it proves little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from core.files import canonical
from measure import beside, paired, proportion
from reporting import result_file

SEPARATE, UNSTABLE, LEVEL, CLEAR = "*", "~", "=", ""  # marks of a ratio
ELSEWHERE = "#"  # mark of a ratio of two machines' timings
BUSY = "&"  # mark of a timing beside other work
BARELY_INT8 = "^"  # mark of an engine
LEAST_INT8 = 0.5  # share of the multiply-accumulates that an INT8 engine should have in INT8
BASELINE = "fp32"  # the precision that speeds are compared with
IMAGENET = {"num_classes": 1000, "num_images": 50_000}  # its validation set, of published accuracies
IMAGES = ("name", "split", "num_images", "num_classes", "subset")  # keys that say which images were classified
BOARD = 6  # digits of a machine's hash that are shown
TABLE = ("fp32", "fp16", "bf16", "int8_ptq", "int8_qat")  # the well-known precisions in their usual order


class Ratio(NamedTuple):
    """A ratio of two speeds; `low` and `high` are its interval, None unless the engines were timed in turns."""

    value: float
    low: float | None
    high: float | None
    mark: str


def load(paths: Iterable[str]) -> list[dict]:
    """Return the results in the files, sorted; raise UserError for a file that is not a result or was changed."""
    return in_order(map(result_file.read, paths))


def in_order(results: Iterable[dict]) -> list[dict]:
    """Return results sorted by dataset, target, model and precision."""
    return sorted(results, key=lambda r: (images_of(r), r["target"], r["model"], r["precision"]))


def images_of(result: dict) -> str:
    """Return a key of the images that a result's accuracy is of: only results with equal keys are compared."""
    return canonical([result["dataset"].get(key) for key in IMAGES])


def format_dataset(result: dict) -> str:
    """Return the name of a result's dataset, with the subset that its accuracy is of."""
    dataset = result["dataset"]
    subset = ", ".join(f"{key} {value}" for key, value in (dataset.get("subset") or {}).items() if value is not None)
    return f"{dataset['name']} ({subset})" if subset else dataset["name"]


def timing(result: dict, batch: int) -> dict | None:
    """Return a result's benchmark entry at a batch size, or None."""
    return next((entry for entry in result["benchmark"] if entry["batch"] == batch), None)


def baseline(results: list[dict], result: dict) -> dict | None:
    """Return the result of the same model, target and images in FP32, or None."""
    wanted = (images_of(result), result["model"], result["target"], BASELINE)
    return next((r for r in results if (images_of(r), r["model"], r["target"], r["precision"]) == wanted), None)


def turns(results: list[dict], batch: int) -> list[dict[str, list[float]]]:
    """Return [{engine's SHA-256: milliseconds of each round}] of all timings in turns at a batch size."""
    entries = [entry for result in results for entry in result.get("paired_benchmark") or () if entry["batch"] == batch]
    return [{engine["engine_sha256"]: engine["median_ms"] for engine in entry["engines"]} for entry in entries]


def ratio(results: list[dict], result: dict, batch: int) -> Ratio | None:
    """Return the Ratio to FP32's speed on the same model, target and images, in turns if it was timed so; or None."""
    base, own = baseline(results, result), timing(result, batch)
    other = timing(base, batch) if base else None
    if not base or not other or not own:
        return None
    hashes = [r["engine"]["sha256"] for r in (result, base)]
    if hashes[0] == hashes[1]:
        return Ratio(1.0, 1.0, 1.0, CLEAR)
    for times in turns(results, batch):
        if set(hashes) <= set(times):
            speed = paired.speed_ratio(*(times[digest] for digest in hashes))
            mark = UNSTABLE if not paired.is_narrow(speed) else LEVEL if paired.is_level(speed) else CLEAR
            return Ratio(speed["ratio"], speed["low"], speed["high"], mark)
    marks = SEPARATE + UNSTABLE * (not (own["stable"] and other["stable"])) + ELSEWHERE * is_elsewhere(own, other)
    return Ratio(own["images_per_second"] / other["images_per_second"], None, None, marks)


def is_elsewhere(one: dict, other: dict) -> bool:
    """Return whether two benchmark entries are known to be of two machines or boards."""
    machines = {one.get("machine"), other.get("machine")}
    return len(machines) == 2 and None not in machines


def board_of(results: list[dict], result: dict, entry: dict) -> str:
    """Return the first digits of a timing's machine where the results of its target are of several, else ""."""
    timed = [one for r in results if r["target"] == result["target"] for one in r["benchmark"]]
    return (entry.get("machine") or "")[:BOARD] if any(is_elsewhere(entry, one) for one in timed) else ""


def ratio_to_trtexec(result: dict, batch: int) -> float | None:
    """Return our median compute time over trtexec's at a batch size, or None if trtexec did not time it."""
    return {entry["batch"]: entry["median_compute_ratio"] for entry in result["trtexec"] or ()}.get(batch)


def predicted(result: dict) -> float | None:
    """Return the agreement with FP32 that a plan predicts on select, by the typed graph if it is scored; or None."""
    scores = (result["plan"] or {}).get("select")
    return scores and (scores["typed"] or scores["simulated"])["agreement_with_fp32"]


def format_ratio(over: Ratio | None) -> str:
    """Return the text of a Ratio with its mark, or an empty text."""
    return f"({over.value:.2f}x {over.mark}".strip() + ")" if over else ""


def style_of(over: Ratio) -> str:
    """Return the style class of a Ratio: `good`, `bad`, or `ratio` (grey) for one that proves nothing."""
    if over.mark or over.value == 1:
        return "ratio"
    return "good" if over.value > 1 else "bad"


def unstable(results: list[dict]) -> list[dict]:
    """Return the results with an unstable timing: their own, or for a choice that of its finalists in turns."""
    timed = [(r, [*(r["benchmark"] if not r["chosen"] else ()), *(r.get("paired_benchmark") or ())]) for r in results]
    return [result for result, entries in timed if not all(entry["stable"] for entry in entries)]


def is_barely_int8(result: dict) -> bool:
    """Return whether a result is of an INT8 precision, and less than LEAST_INT8 of its engine's work is INT8."""
    precision, share = result["provenance"]["recipe"].get("precision", {}), result["engine"]["int8_share_of_macs"]
    return precision.get("compute") == "int8" and share is not None and share < LEAST_INT8


def marks_of(entry: dict) -> str:
    """Return the marks of a benchmark entry, each after a space: not stable, and timed beside other work."""
    wrong = {UNSTABLE: not entry["stable"], BUSY: not beside.is_quiet(entry.get("beside"))}
    return "".join(f" {mark}" for mark, there in wrong.items() if there)


def chosen_of(result: dict) -> str:
    """Return what a result that chooses took and for what, as a line, or an empty text."""
    if not result["chosen"]:
        return ""
    batch = f" at batch {result['chosen_batch']}, for {result['objective']}" if result.get("chosen_batch") else ""
    return f"{result['model']} {result['precision']}: {result['chosen']}{batch}"


def name_of(result: dict) -> str:
    """Return a result's name: {model}.{precision}.{target}."""
    return ".".join(result[key] for key in ("model", "precision", "target"))


def path_of(result: dict) -> str:
    """Return the path of a result's file."""
    return f"results/{name_of(result)}.json"


def artifact_of(result: dict, kind: str, suffix: str = "json") -> str:
    """Return the path of what was made on the way to a result; kind: its folder (engines, profile, bundles...)."""
    return f"results/{result['dataset']['name']}/{kind}/{name_of(result)}.{suffix}"


def title_of(result: dict) -> str:
    """Return a result's name for readers."""
    return f"{result['model']} {result['precision']} on {result['target']}"


def link_of(path: str) -> str:
    """Return the link to a file from the page, which is in results/."""
    return path[len("results/") :] if path.startswith("results/") else f"../{path}"


def best_batch(result: dict) -> int:
    """Return the batch size that a result, or an entry of its history, chose, else that of its highest throughput."""
    fastest = max(result["benchmark"], key=lambda entry: (entry["images_per_second"], -entry["batch"]))
    return result["chosen_batch"] or fastest["batch"]


def notes(results: list[dict]) -> list[str]:
    """Return a line for each mark that a table of the results contains, after the mark."""
    return [f"{mark} {line}" for mark, line in explanations(results).items()]


def explanations(results: list[dict]) -> dict[str, str]:
    """Return {mark: what it means} of the marks that a table of the results contains."""
    ratios = [ratio(results, r, entry["batch"]) for r in results for entry in r["benchmark"]]
    marks = "".join(one.mark for one in ratios if one)
    entries = [entry for r in results for entry in (*r["benchmark"], *(r.get("paired_benchmark") or ()))]
    busy = max((beside.taken_percent(entry.get("beside")) or 0.0 for entry in entries), default=0.0)
    again = unstable(results)
    remedy = f"; on an idle machine: make retime RESULT={path_of(again[0])}" if again else ""
    lines = {
        UNSTABLE: f"timing not stable: other work was running, or the clocks moved{remedy}",
        BUSY: f"other work took up to {busy:.0f} % of the processors during the timing",
        SEPARATE: "not timed in turns, so the ratio proves little: a result of `auto` times its finalists in turns",
        ELSEWHERE: "timed on another board than FP32, so that the ratio is that of the boards as well",
        LEVEL: "timed in turns, and which is faster is not known: the interval of the ratio contains 1",
        BARELY_INT8: "less than half of the engine's multiply-accumulates are INT8: engine.int8_share_of_macs",
    }
    marks += UNSTABLE * bool(again) + BARELY_INT8 * any(map(is_barely_int8, results))
    marks += BUSY * (busy > beside.QUIET)
    return {mark: line for mark, line in lines.items() if mark in marks}


def _scored(key, short):
    """Return the columns of a percentage of images: the value, and the ends of its 95 % interval."""

    def end(place):
        return lambda result, entry, over: _interval(result["accuracy"], key)[place]

    value = {key: lambda result, entry, over: result["accuracy"][key]}
    return {**value, f"{short}_low": end(0), f"{short}_high": end(1)}


def _interval(accuracy, key):
    known = accuracy[key] is not None and accuracy["num_images"]
    return proportion.interval(accuracy[key], accuracy["num_images"]) if known else (None, None)


COLUMNS: dict[str, Callable[[dict, dict, Ratio | None], Any]] = {  # of a result, a benchmark entry and its Ratio
    "model": lambda result, entry, over: result["model"],
    "precision": lambda result, entry, over: result["precision"],
    "target": lambda result, entry, over: result["target"],
    "dataset": lambda result, entry, over: format_dataset(result),
    "batch": lambda result, entry, over: entry["batch"],
    "images_per_second": lambda result, entry, over: entry["images_per_second"],
    "ratio_to_fp32": lambda result, entry, over: over and over.value,
    "ratio_low": lambda result, entry, over: over and over.low,
    "ratio_high": lambda result, entry, over: over and over.high,
    "ratio_taken": lambda result, entry, over: over and ("apart" if over.low is None else "in turns"),
    "latency_median_ms": lambda result, entry, over: entry["latency_ms"]["median"],
    "latency_p99_ms": lambda result, entry, over: entry["latency_ms"]["p99"],
    "ratio_to_trtexec": lambda result, entry, over: ratio_to_trtexec(result, entry["batch"]),
    "stable": lambda result, entry, over: entry["stable"],
    "load_before": lambda result, entry, over: (entry.get("beside") or {}).get("load_before"),
    "load_after": lambda result, entry, over: (entry.get("beside") or {}).get("load_after"),
    "steal_percent": lambda result, entry, over: (entry.get("beside") or {}).get("steal_percent"),
    "others_percent": lambda result, entry, over: (entry.get("beside") or {}).get("others_percent"),
    "timed": lambda result, entry, over: entry.get("timed"),
    "machine": lambda result, entry, over: (entry.get("machine") or "")[:12] or None,
    "power_mode": lambda result, entry, over: entry.get("power_mode"),
    **_scored("top1", "top1"),
    **_scored("top5", "top5"),
    **_scored("agreement_with_fp32", "agreement"),
    "within_budget": lambda result, entry, over: result["accuracy"]["within_budget"],
    "objective": lambda result, entry, over: result.get("objective"),
    "chosen": lambda result, entry, over: result["chosen"],
    "chosen_batch": lambda result, entry, over: result.get("chosen_batch"),
    "engine_bytes": lambda result, entry, over: result["engine"]["bytes"],
    "layers_int8": lambda result, entry, over: (result["engine"]["precision_of_layers"] or {}).get("int8"),
    "int8_share_of_macs": lambda result, entry, over: result["engine"]["int8_share_of_macs"],
    "layers": lambda result, entry, over: result["engine"]["layers"],
    "reformats": lambda result, entry, over: result["engine"]["reformats"],
    "nodes_high_precision": lambda result, entry, over: (result["plan"] or {}).get("nodes_high_precision"),
    "plan_agreement": lambda result, entry, over: predicted(result),
    "engine_builds": lambda result, entry, over: result["engine"]["engine_builds"],
    "threads": lambda result, entry, over: entry["threads"],
}


def table_of(results: list[dict]) -> list[dict[str, Any]]:
    """Return a row {column: value} for each result and batch size."""
    timed = [(result, entry) for result in results for entry in result["benchmark"]]
    facts = [(result, entry, ratio(results, result, entry["batch"])) for result, entry in timed]
    return [{name: value(*row) for name, value in COLUMNS.items()} for row in facts]


def ordered(names: Iterable[str]) -> list[str]:
    """Return the names of precisions without duplicates: the well-known ones first, in their usual order."""
    return sorted(set(names), key=_rank)


def _rank(name):
    return TABLE.index(name) if name in TABLE else len(TABLE), name


def grids(results: list[dict]) -> list[dict[str, Any]]:
    """Return a grid per dataset and target: {dataset, target, device, precisions, batches, models: [(model, row)]}.

    A row is {precision: result}. Results on other images, or on another subset of them, are in another grid.
    """
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        groups.setdefault((images_of(result), result["target"]), []).append(result)
    return [_grid(here) for _, here in sorted(groups.items())]


def _grid(results):
    models = sorted({result["model"] for result in results})
    return {
        "dataset": format_dataset(results[0]),
        "target": results[0]["target"],
        "device": device(results[0]),
        "precisions": ordered(result["precision"] for result in results),
        "batches": sorted({entry["batch"] for result in results for entry in result["benchmark"]}),
        "models": [(m, {r["precision"]: r for r in results if r["model"] == m}) for m in models],
    }


def published_grid(results: list[dict], published: dict[str, float]) -> dict[str, list]:
    """Return {columns, models: [(model, published top-1, [top-1 measured in each column or None])]}.

    published: {model: ImageNet top-1 in percent}. Only results on all of ImageNet's validation images count. A column
    is `precision on target`; without any result there is one empty column.
    """
    measured = [r for r in results if {name: r["dataset"][name] for name in IMAGENET} == IMAGENET]
    pairs = sorted({(r["target"], r["precision"]) for r in measured}, key=lambda pair: (pair[0], _rank(pair[1])))
    top1s = {(r["model"], r["target"], r["precision"]): r["accuracy"]["top1"] for r in measured}
    return {
        "columns": [f"{precision} on {target}" for target, precision in pairs] or ["ours"],
        "models": [(m, top1, [top1s.get((m, *pair)) for pair in pairs] or [None]) for m, top1 in published.items()],
    }


def device(result: dict) -> str:
    """Return the device and the runtime of a result's target, as a text."""
    identity, versions = result["target_identity"], result["provenance"]["versions"]
    runtime = identity.get("runtime", "")
    name = identity.get("device") or identity.get("cpu") or identity.get("gpu") or result["target"]
    return f"{name}, {runtime} {versions.get(runtime) or identity.get('version') or ''}".strip(" ,")
