"""The slices of config.yaml that decide each rule, and the command-line options made of them.

A rule names its slices where it stands: `precision.qat` is the value of a key in the row that its wildcard names,
`target["batches threads"]` the part of that row under some keys, `a | b` both, where b's keys replace a's. What several
rules share, or a result records, has a name here. A slice holds no more than its rule needs: what is in it decides
staleness.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable
from typing import Any

from configuration.tables import SCORED, STRONGLY_TYPED_GRAPH, Tables, pick
from core import addresses, resolved, sources
from core.files import UserError, canonical, system_text
from core.objective import DEFAULT
from core.user_files import sha256_of
from devices import probe, reach
from devices import toolchain as compilers
from snakefile import image_stamp

OMITTED = object()  # the value of an option that is left out
PLACE = "processes"  # of a training's row: where it runs, which decides no more than rounding
# of a target's row: where it is, which decides no content
LOCATION = ("python", "ssh", "ssh_config", "workdir", "slurm")


class Slice:
    """A function of the tables and a job's wildcards; `keys`: those of config.yaml that it reads, where it has any."""

    def __init__(self, of: Callable, keys: frozenset = frozenset()):
        self.of, self.keys = of, keys

    def __call__(self, tables: Tables, w):
        """Return the slice of a job."""
        return self.of(tables, w)

    def __or__(self, other: Slice) -> Slice:
        """Return the dict of both, where the other's keys replace this one's; one that is None adds nothing."""
        return Slice(lambda tables, w: {**(self(tables, w) or {}), **(other(tables, w) or {})}, self.keys | other.keys)

    def less(self, *keys: str) -> Slice:
        """Return the dict of this slice without some keys."""
        return Slice(lambda tables, w: {k: v for k, v in (self(tables, w) or {}).items() if k not in keys}, self.keys)

    def where(self, condition: Callable) -> Slice:
        """Return this slice where another one is true, else None."""
        return Slice(lambda tables, w: self(tables, w) if condition(tables, w) else None, self.keys)


class Row(Slice):
    """The row of a table that a wildcard names, or a value in it: `row.key`, `row.key.key`; None where it has none."""

    def __init__(self, kind: str, *path: str):
        super().__init__(self._value, frozenset(path[-1:]))
        self._kind, self._path = kind, path

    def __getattr__(self, key):
        if key.startswith("_"):
            raise AttributeError(key)
        return Row(self._kind, *self._path, key)

    def __getitem__(self, keys: str) -> Slice:
        """Return the part of the row under some keys, given as one text."""
        names = keys.split()
        return Slice(lambda tables, w: pick(self(tables, w), *names), frozenset(names))

    def _value(self, tables, w):
        value = tables.row(self._kind, getattr(w, self._kind))
        for key in self._path:
            value = value.get(key) if isinstance(value, dict) else None
        return value


dataset, model, precision, target, graph = map(Row, ("dataset", "model", "precision", "target", "graph"))

BUILDING = (
    target["batches threads device compile fused_attention compute_capabilities workspace_mb optimization_level"]
    | target["external_tactics dynamic_batch"]
    | precision["compute high_precision dla tf32 batches"]
    | target["high_precision"].where(precision.high_precision)
)
VERIFICATION = target["typed"].where(lambda tables, w: tables.has_plan(w.precision, w.target))  # None: without a plan
PLANNING = precision["compute budget criterion"]
PROFILING = target["batches threads"] | precision["batches"]
TIMING = (
    target["warmup_ms duration_ms iterations threads cuda_graph spin_wait transfers power_mode other_power_mode"]
    | PROFILING
)
FACTS = target[" ".join(reach.FACTS)]
TRAINING = dataset.training.less(PLACE) | dataset["checkpoint_key"]
QAT = precision.qat.less(PLACE)
AUGMENTATION = dataset.training["crop_scale crop_ratio flip decoder"]  # what QAT has of it

seed = Slice(lambda tables, w: tables.config["seed"])  # of splits and trainings


def processes(tables: Tables, row: Slice) -> Callable:
    """Return a function of wildcards that gives how many processes share a training's batches, 0 where nothing says.

    row: of the training; $LEVIT_PROCESSES has precedence. As a resource of Snakemake's, the number makes no job stale.
    """
    number = os.environ.get("LEVIT_PROCESSES", "")
    if number and not number.isdecimal():
        raise UserError(f"LEVIT_PROCESSES={number}: give a number of processes, or nothing")
    return lambda w: int(number or (row(tables, w) or {}).get(PLACE, 0))


active = Slice(lambda tables, w: tables.active)
split = Slice(lambda tables, w: SCORED[w.scores])  # that the scores in a folder are of
runtime_identity = Slice(lambda tables, w: reach.identity(tables, w.target))
toolchain = Slice(lambda tables, w: None if reach.board(tables, w.target) else compilers.facts())  # None: not asked
version = Slice(lambda tables, w: runtime_identity(tables, w).get("version") or "")  # of the runtime, where known
onnx_identity = Slice(lambda tables, w: probe.identity(reach.ONNX) or reach.ONNX)  # of what evaluates exported graphs
engine_graph = Slice(lambda tables, w: tables.row("graph", tables.graph_variant(w.precision, w.target)))
engine_placement = Slice(lambda tables, w: engine_graph(tables, w)["placement"])
chained = Slice(lambda tables, w: tables.row("graph", w.graph).get("chained", OMITTED))
checkpoint_part = Slice(lambda tables, w: tables.row("dataset", w.dataset).get("checkpoint_key", OMITTED))


def timing_in_turns(tables: Tables, w: Any) -> dict:
    """Return how the finalists of a choice are timed in turns, with each candidate's batches and the budget."""
    place, names = tables.row("target", w.target), tables.candidates(w.model, w.precision, w.target, w.dataset)
    batches = {name: tables.row("precision", name).get("batches") or place["batches"] for name in names}
    rows = [{"precision": name, "batches": several} for name, several in batches.items()]
    return {**TIMING.less("batches")(tables, w), "budget": precision.budget(tables, w), "candidates": rows}


vars(timing_in_turns).update(keys=TIMING.keys)


def objective(tables: Tables, w: Any) -> str:
    """Return what a precision that chooses looks for."""
    return precision.objective(tables, w) or DEFAULT


vars(objective).update(keys=frozenset({"objective"}))


def published(tables: Tables, w: Any) -> dict[str, float]:
    """Return the published top-1 of the models that have one, in percent."""
    return {name: row["top1"] for name, row in tables.names("model").items() if row.get("top1")}


def carried(tables: Tables, w: Any) -> dict[str, str | None]:
    """Return {path: SHA-256} of listed results of targets out of reach: as inputs they would be made again if stale."""
    reachable = reach.reachable_results(tables)
    paths = [f"results/{m}.{p}.{t}.json" for m, p, t in tables.valid(tables.listed) if (m, p, t) not in reachable]
    return {path: sha256_of(path) for path in paths if os.path.exists(path)}


def network(tables: Tables, w: Any) -> dict:
    """Return the network and the preprocessing of a model's row; raise UserError for options that are not served."""
    row = model[" ".join(resolved.AUGMENTED)](tables, w)
    try:
        resolved.check_options(row.get("options"))
    except UserError as problem:
        raise UserError(f"models.{w.model}.{problem}") from None
    return row


def url(tables: Tables, w: Any) -> str | None:
    """Return the address of a model's weights without secrets: its job has those from the environment."""
    address = model.url(tables, w)
    return address and addresses.public(address)


def image_state(tables: Tables, w: Any) -> str:
    """Return the fingerprint of a dataset's images or fonts, or that of its last index where they are not here."""
    state = image_stamp.fingerprint(tables.row("dataset", w.dataset))
    return state if state is not None else system_text(f"results/{w.dataset}/data/seen.txt").strip()


def licenses(tables: Tables, w: Any) -> dict:
    """Return the licences of the active dataset's images and of its weights, where the rows name them."""
    row = tables.row("dataset", tables.active)
    official = model.license(tables, w) if "official" in (row["weights"], row.get("from")) else None
    return {**({"weights": official} if official else {}), **row.get("license", {})}


def calibration(tables: Tables, w: Any) -> dict:
    """Return a precision's calibration recipe; a sweep's candidates count by the choice, imports by their content."""
    row = precision.calibration(tables, w)
    if tables.is_swept(w.precision):
        return pick(row, "method", "images")
    return {key: value for key, value in row.items() if key != "import"}


def plan_graph(tables: Tables, w: Any) -> dict:
    """Return the passes of the graph variant whose nodes plans name, and what any variant quantizes."""
    placed = {kind for row in tables.names("graph").values() for kind in row["placement"]}
    return {"passes": tables.row("graph", STRONGLY_TYPED_GRAPH)["passes"], "placement": sorted(placed)}


def accelerator(tables: Tables, w: Any) -> dict:
    """Return what decides which nodes a target's DLA takes, and in what they compute there."""
    row, place = tables.row("precision", w.precision), tables.row("target", w.target)
    facts = {"generation": place["dla_generation"], "version": version(tables, w)}
    return {"batch": row["batches"][0], "compute": row["compute"], **facts}


def lineage(tables: Tables, w: Any) -> dict:
    """Return the config rows that decide a result's numbers: with the commit, enough to rebuild it (reproduce.py)."""
    row, place = tables.row("precision", w.precision), tables.row("target", w.target)
    unused = (*LOCATION, "pytorch", *(() if "high_precision" in row else ("high_precision",)))
    qat = {"qat": QAT(tables, w)} if row.get("qat") else {}
    return {
        "precision": {**{key: value for key, value in row.items() if key != "budget"}, **qat},
        "target": {key: value for key, value in place.items() if key not in unused},
        "building": BUILDING(tables, w),
        "timing": TIMING(tables, w),
        "graphs": tables.graphs_of(w.precision, w.target),
        "seed": tables.config["seed"],
        "model": _model_lineage(tables, w),
        "dataset": _dataset_lineage(tables, w),
    }


def _model_lineage(tables, w):
    """Return what the active dataset takes of a model's row: the weights' address only where it starts from them."""
    row, active_row = tables.row("model", w.model), tables.row("dataset", tables.active)
    official = "official" in (active_row["weights"], active_row.get("from"))
    weights = {"url": url(tables, w), **pick(row, "sha256")} if official else {}
    return {**pick(row, *resolved.AUGMENTED), **weights}


def _dataset_lineage(tables, w):
    row = {key: value for key, value in tables.row("dataset", tables.active).items() if key != "license"}
    training = {key: value for key, value in row["training"].items() if key != PLACE}
    if tables.source(tables.active) not in ("train", "finetune"):
        training = pick(training, *AUGMENTATION.keys) if tables.has_qat(w.precision) else {}
    return {**row, "training": training}


def options(tables: Tables, needs: str = "", **slices: Callable) -> Callable:
    """Return a function of wildcards that gives `--flag value` for each slice, quoted for the shell.

    A command line's options are one text, because Snakemake compares a job's params as a set of values without names:
    two that are swapped would look unchanged. needs: the key that a precision's row must have (`qat`) for the rule to
    make sense (snakefile/run_checks.py).
    """
    texts: dict = {}

    def arguments(wildcards):
        key = tuple(wildcards)
        if key not in texts:
            values = {flag: of(tables, wildcards) for flag, of in slices.items()}
            texts[key] = " ".join(_option(flag, value) for flag, value in values.items() if value is not OMITTED)
        return texts[key]

    keys = {key for of in slices.values() for key in getattr(of, "keys", ())}
    vars(arguments).update(needs=needs, keys=keys)
    return arguments


def _option(flag, value):
    return f"--{flag} {shlex.quote(value if isinstance(value, str) else canonical(value))}"


def user_path(key: str) -> Slice:
    """Return the slice of a path that a key (`dataset.weights`) names, "": none; {model} is replaced, official too."""
    kind, *path = key.split(".")
    row = Row(kind, *path)

    def named(tables, w):
        value = row(tables, w) or ""
        official = f"results/{w.dataset}/pretrained/{w.model}.pth"
        return official if value == "official" else value.replace("{model}", w.model)

    return Slice(named)


@functools.lru_cache(maxsize=None)
def code(*scripts: str) -> list[str]:
    """Return the paths of scripts and of all project modules that they import, the first script first."""
    first, *others = scripts
    known = sources.names(first, *(script for script in others if (sources.ROOT / script).is_file()))
    return [f"workflow_scripts/{name}" for name in [first, *(name for name in known if name != first)]]
