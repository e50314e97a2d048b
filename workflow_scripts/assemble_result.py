"""Merge an engine's measurements and its provenance into the result JSON, and check it against its schema."""

from __future__ import annotations

import logging
import os
import subprocess

from core import provenance, resolved, sources
from core.command import Command, Job, log, tool_versions
from core.files import UserError, read_json, sha256_file
from devices.power_modes import is_same
from reporting import comparison, result_file

CHOICE = ("chosen", "chosen_batch", "objective", "candidates", "paired_benchmark")  # of choose_precision.py's results
SCORES = ("num_images", "top1", "agreement_with_fp32")  # of the select split
PREPROCESSING = (*resolved.GEOMETRY, *resolved.NORMALIZATION, "sources", "contradicts")
ERRORS = ("max_abs_logit_error", "logit_error_over_spread")
MARGINS = ("smallest_margin", "smallest_changed_margin", "largest_changed_margin")
# keys of an engine's description that a result has under the same names
DESCRIBED = ("build_seconds", "engine_builds", "precision_of_layers", "reformats", "warnings", "plugin", "machine")
EPSILON = 1e-9  # rounding of percentages, which are quotients of counts
MAX_DEVIATION = 0.03  # relative, of our median compute time from trtexec's


def run(args: Job) -> None:
    engine, accuracy, timing = (read_json(p) for p in (args.description, args.accuracy, args.benchmark))
    index, other, rival = read_json(args.index), _read(args.trtexec), _read(args.pytorch)
    measured = {args.accuracy: accuracy, args.benchmark: timing, args.trtexec: other, args.pytorch: rival}
    check_engine(args.engine, measured)
    result = {
        "schema_version": result_file.VERSION,
        "model": args.model,
        "precision": args.precision,
        "target": args.target,
        **dict.fromkeys(CHOICE),
        "dataset": dataset_of(args.dataset, accuracy, index),
        "preprocessing": resolved.read(args.resolved, PREPROCESSING),
        "accuracy": accuracy_of(accuracy, args.budget),
        "benchmark": timing["benchmark"],
        "over_pytorch": over_pytorch_of(rival),
        "trtexec": trtexec_of(other, timing["benchmark"]),
        "dla": dla_of(args.dla),
        "engine": engine_of(args.engine, engine, graph_of(args, engine)),
        "plan": plan_of(engine, _read(args.typed)),
        "checkpoint_bytes": os.path.getsize(args.checkpoint),
        "target_identity": read_json(args.identity),
        "provenance": provenance_of(args, engine),
    }
    plugin = _read(args.plugin)
    result["notes"] = [
        *notes_of(result["provenance"]["trained"]),
        *index_notes(index, args.recipe),
        *([f"the engine has no attention plugin: {plugin['reason']}"] if plugin and plugin["reason"] else []),
    ]
    result_file.write(args.result, result)
    log_summary(result)


def _read(path):
    return read_json(path) if path else None


def check_engine(engine: str, measured: dict[str, dict | None]) -> None:
    """Raise UserError if a measurement, of {path: measurement or None}, is of another engine file."""
    sha256 = sha256_file(engine)
    for path, measurement in measured.items():
        if measurement is not None and measurement.get("engine_sha256") != sha256:
            raise UserError(f"{path} is of another engine than {engine}: delete it and run again")


def dataset_of(name: str, accuracy: dict, index: dict) -> dict:
    """Return the dataset of a result; raise UserError if the index has another number of images."""
    split, count = accuracy["split"], accuracy["num_images"]
    if len(index["splits"][split]) != count:
        has = len(index["splits"][split])
        raise UserError(f"the accuracy is of {count} images, split {split} has {has}: run again")
    dataset = {"name": name, "split": split, "num_images": count, "num_classes": len(index["classes"])}
    subset = index.get("subset")
    dataset["subset"] = subset and {key: subset.get(key) for key in ("classes", "images")}
    keys = {"class_order": "class_order", "class_names": "titles", "left_out": "left_out"}
    return {**dataset, **{key: index.get(name) for key, name in keys.items()}}


def index_notes(index: dict, recipe: dict) -> list[str]:
    """Return the warnings on images, and on a class order that neither the user nor training here gave."""
    from data import class_order, doubts

    is_trained = recipe.get("dataset", {}).get("weights") == "train"
    return list(filter(None, [None if is_trained else class_order.warning(index), *doubts.warnings(index)]))


def accuracy_of(accuracy: dict, budget: float) -> dict:
    """Return the accuracy, and whether the loss of top-1 against FP32 is within `budget`, in percentage points."""
    names = ("top1", "top5", "num_images", "agreement_with_fp32", *ERRORS, *MARGINS, "machine")
    lost = accuracy["fp32_top1"] - accuracy["top1"]
    return {**{name: accuracy[name] for name in names}, "budget": budget, "within_budget": lost <= budget + EPSILON}


def trtexec_of(timed: dict | None, benchmark: list[dict]) -> list[dict] | None:
    """Return trtexec's timings or None; each has the ratio of our median compute time to its own, if of one machine."""
    ours = {(entry["batch"], entry["machine"]): entry["compute_ms"] for entry in benchmark if entry["compute_ms"]}
    names = ("batch", "throughput_qps", "latency_ms", "compute_ms", "machine")
    entries = [{name: entry[name] for name in names} for entry in (timed or {}).get("trtexec", ())]
    for entry in entries:
        compute = ours.get((entry["batch"], entry["machine"]))
        entry["median_compute_ratio"] = compute and compute["median"] / entry["compute_ms"]["median"]
    return entries or None


def over_pytorch_of(compared: dict | None) -> dict | None:
    """Return the speed over PyTorch's, from compare_pytorch.py's output, or None without it."""
    if compared is None:
        return None
    return {**{key: compared[key] for key in ("pytorch", "batches")}, "engine_sha256": compared["pytorch_sha256"]}


def dla_of(path: str | None) -> dict | None:
    """Return a summary of the DLA subgraphs predicted and built, or None without the path of a comparison."""
    if not path:
        return None
    comparison = read_json(path)
    predicted, built = comparison["predicted"], comparison["built"]
    return {
        "verdict": predicted["verdict"],
        "predicted_subgraphs": predicted["subgraphs"],
        "built_subgraphs": built and len(built["subgraphs"]),
        "same": comparison["same"],
        "path": path,
    }


def engine_of(path: str, described: dict, graph: str) -> dict:
    """Return the properties of an engine file; described: build_engine.py's description; graph: its source."""
    from runtimes import _macs

    return {
        "path": path,
        "bytes": os.path.getsize(path),
        "sha256": sha256_file(path),
        "layers": described["layer_count"],
        "int8_share_of_macs": _macs.int8_share(graph, described["layers"]),
        **{key: described[key] for key in DESCRIBED},
    }


def plan_of(described: dict, typed: dict | None) -> dict | None:
    """Return an engine's mixed-precision plan in short, with its scores on the select split, or None without one.

    typed: the score of the strongly typed graph in ONNX Runtime, or None.
    """
    plan = described.get("plan")
    if plan is None:
        return None
    scores = {"simulated": plan["measured"], "typed": typed, "engine": plan["engine"]}
    return {
        **{key: plan[key] for key in ("nodes_total", "nodes_high_precision", "path")},
        "met": (plan["engine"] or plan)["met"],
        "select": {who: score and {key: score[key] for key in SCORES} for who, score in scores.items()},
    }


def provenance_of(args: Job, described: dict) -> dict:
    """Return the provenance of a result: hashes, recipe, versions (the runtime's from the engine's description)."""
    here, made = described["fingerprint"], lineage_of(args, described)
    parts = (record.get("context", {}).get("weights") for record in made.values())  # which state dict of a user's file
    return {
        "checkpoint_sha256": sha256_file(args.checkpoint),
        "graph_sha256": sha256_file(graph_of(args, described)),
        "calibration_sha256": sha256_file(args.calibration) if args.calibration else None,
        "recipe": args.recipe,
        "weights_part": next(filter(None, parts), None),
        "versions": {**versions_of(made), here["runtime"]: here["version"]},
        "trained": {path: _trained(record) for path, record in made.items() if record.get("trained")},
        "git_commit": git_commit(),
    }


def graph_of(args: Job, described: dict) -> str:
    """Return the path of the graph that an engine was built from: the fused one where it needs the plugin."""
    return args.fused if described["plugin"] else args.graph


def lineage_of(args: Job, described: dict) -> dict[str, dict]:
    """Return {path: record} of the artifacts that a result was made from: trained ones first, its inputs last."""
    merged = [path for path in (args.checkpoint, args.calibration, graph_of(args, described), args.engine) if path]
    made = provenance.lineage({path: provenance.read(path) for path in merged})
    return dict(sorted(made.items(), key=lambda item: (not item[1].get("trained"), item[0] in merged, item[0])))


def versions_of(made: dict[str, dict]) -> dict[str, str]:
    """Return {package: version} of records; the later record wins."""
    several = [record.get("versions", {}) for record in made.values()]
    return {name: version for versions in several for name, version in versions.items() if version}


def _trained(record):
    return {"versions": {k: v for k, v in record["versions"].items() if v}, "context": record.get("context", {})}


def notes_of(trained: dict[str, dict]) -> list[str]:
    """Return a line for each trained artifact, {path: {"versions"}}, if its versions differ from those installed."""
    names = {name for made in trained.values() for name in made["versions"]} - {"python"}
    now, lines = tool_versions(sorted(names)), []
    for path, made in trained.items():
        pairs = [(name, made["versions"][name], now[name]) for name in sorted(names & made["versions"].keys())]
        other = [each for each in pairs if each[2] not in (None, each[1])]
        built, today = (", ".join(f"{name} {pair[n]}" for name, *pair in other) for n in (0, 1))
        lines += [f"{path}: built with {built}, now {today}"] if other else []
    return lines


def git_commit() -> str | None:
    """Return the commit of the project's repository, with `-dirty` if tracked files differ, or None without one.

    An edited config.yaml does not count, since the rows are recorded.
    """

    def git(*arguments):
        command = ["git", "-C", str(sources.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "assemble_result.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)config.yaml")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def log_summary(result: dict) -> None:
    """Log a result in a line, then its warnings and notes."""
    accuracy = result["accuracy"]
    speed = ", ".join(f"{e['images_per_second']:.1f} images/s at batch {e['batch']}" for e in result["benchmark"])
    log.info("%s: top-1 %.2f %%, %s", comparison.name_of(result), accuracy["top1"], speed)
    if not accuracy["within_budget"]:
        log.warning("more than %.2f top-1 points lost against PyTorch FP32", accuracy["budget"])
    if comparison.is_barely_int8(result):
        log.warning("%.0f %% of the multiply-accumulates are INT8", 100 * result["engine"]["int8_share_of_macs"])
    unstable = [str(entry["batch"]) for entry in result["benchmark"] if not entry["stable"]]
    again = f"make retime RESULT={comparison.path_of(result)}"
    if unstable:
        log.warning("the timing at batch %s is not stable: %s on an idle machine", ", ".join(unstable), again)
    for entry in result["benchmark"]:
        if entry.get("power_mode_asked") and not is_same(entry["power_mode_asked"], entry["power_mode"] or ""):
            modes = entry["batch"], entry["power_mode"], entry["power_mode_asked"]
            log.warning("batch %d was timed in the power mode %s, and the row asks for %s", *modes)
    for entry in (result["over_pytorch"] or {}).get("batches", ()):
        figures = entry["batch"], entry["ratio"], result["over_pytorch"]["pytorch"]
        level, slower = (logging.WARNING, "slower than PyTorch: ") if entry["slower"] else (logging.INFO, "")
        log.log(level, "%sbatch %d: %.2f times as fast as PyTorch (%s)", slower, *figures)
    for entry in result["trtexec"] or ():
        if entry["median_compute_ratio"] and abs(entry["median_compute_ratio"] - 1) > MAX_DEVIATION:
            figures = entry["batch"], entry["median_compute_ratio"], again
            log.warning("at batch %d our median compute is %.3f times trtexec's: %s times both again", *figures)
    for note in result["notes"]:
        log.info("note: %s", note)
    for warning in result["engine"]["warnings"]:
        log.warning("of the engine's build: %s", warning)


def command() -> Command:
    c = Command(__file__, __doc__)
    for name in ("--model", "--precision", "--target", "--dataset"):
        c.param(name, required=True, help="name in config.yaml")
    for name in ("--description", "--engine", "--accuracy", "--benchmark", "--identity", "--checkpoint", "--index"):
        c.input(name)
    c.input("--resolved", help="JSON of resolve.py")
    c.input("--graph", help="graph that the engine was built from, without a plugin")
    for name in ("--trtexec", "--pytorch", "--typed", "--dla", "--calibration", "--fused", "--plugin"):
        c.input(name, nargs="?", required=False)
    c.json_param("--recipe", help="JSON of the rows that decide the result")
    c.param("--budget", type=float, required=True)
    return c.output("--result")


if __name__ == "__main__":
    command().run(run)
