"""The part of config.yaml that each rule gets: what is in it decides staleness, so it is the least that the rule needs.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

from __future__ import annotations

import functools
import os
import shlex

from configuration.tables import ONNX, SCORED, SEEN, TYPED_CLASS, ask, pick
from core import addresses, resolved, sources
from core.files import UserError, canonical, read_json, system_text
from devices import probe
from snakefile import image_stamp

DATASET: tuple[str, ...] = ("builtin", "drawing", "path", "train", "val", "labels", "synsets", "class_order")
DATASET += ("subset", "classes", "splits")  # of its row
FACTS = ("runtime", "version", "architecture", "compute_capability", "dla")  # of a target's row: what the device is

ELSEWHERE = ("python", "ssh", "ssh_config", "workdir")  # of a target's row: where it is, which decides nothing
AUGMENTATION = ("crop_scale", "crop_ratio", "flip")  # of a training, what QAT looks at as well

SEARCH = ("workspace_mb", "optimization_level", "external_tactics", "dynamic_batch")  # of kernels, by a builder
TIMING: tuple[str, ...] = ("batches", "warmup_ms", "duration_ms", "iterations", "threads", "cuda_graph", "spin_wait")
TIMING += ("transfers", "power_mode", "other_power_mode")


OMITTED = object()  # what a function of wildcards gives where its option is left out


class Recipes:
    """Functions of wildcards over the tables; only `seen` and the identities ask about this machine."""

    def __init__(self, tables):
        self.tables = tables
        self._identities, self._options = {}, {}

    def dataset(self, w):
        return pick(self.tables.row("dataset", w.dataset), *DATASET)

    def seen(self, w):
        """Return what is seen of the user's images where they are here, else what was when they were indexed."""
        row, recorded = self.tables.row("dataset", w.dataset), f"results/{w.dataset}/data/seen.txt"
        fonts = row.get("drawing", {}).get("fonts")
        found = image_stamp.state(row) if "path" in row else image_stamp.fonts(fonts) if fonts else ""
        return found if found is not None else system_text(recorded).strip()

    def images(self, w):
        """Return the folder of the user's images, or nothing where they were indexed and may be elsewhere by now."""
        return self._unless_seen(w, self.tables.row("dataset", w.dataset).get("path"))

    def fonts(self, w):
        """Return the same of the fonts that a builtin dataset is drawn with."""
        return self._unless_seen(w, self.tables.row("dataset", w.dataset).get("drawing", {}).get("fonts"))

    def _unless_seen(self, w, folder):
        return "" if os.path.exists(f"results/{w.dataset}/data/seen.txt") else folder or ""

    def beside_images(self, key):
        """Return a function of wildcards: the path that a dataset's row has under `key`, while its images are here."""

        def path(w):
            row = self.tables.row("dataset", w.dataset)
            given = image_stamp.beside(row, key) if os.path.isdir(row.get("path", "")) else None
            return given or ""

        return path

    def own_weights(self, w):
        """Return the path of the user's checkpoint of a model."""
        return self.tables.row("dataset", w.dataset)["weights"].replace("{model}", w.model)

    def part(self, w):
        """Return which state dict of the user's checkpoint is taken, where the row says it."""
        return self.tables.row("dataset", w.dataset).get("checkpoint_key", OMITTED)

    def start(self, w):
        """Return the path of the weights that fine-tuning starts from, or nothing where training is from scratch."""
        return self.tables.start(w.dataset, w.model) or ""

    def given_plan(self, w):
        """Return the path of the hand-made plan of a precision, or nothing."""
        return self.tables.given_plan(w.model, w.precision) or ""

    def own_ranges(self, w):
        """Return the path of the quantized checkpoint that a precision's ranges are imported from, or nothing."""
        row = self.tables.row("precision", w.precision)["calibration"]
        return row.get("import", "").replace("{model}", w.model)

    def classes(self, w):
        return self.tables.row("dataset", w.dataset)["classes"]

    def training(self, w):
        row = self.tables.row("dataset", w.dataset)
        return {**row["training"], **pick(row, "checkpoint_key")}

    def augmentation(self, w):
        return pick(self.training(w), *AUGMENTATION)

    def seed(self, w):
        return self.tables.config["seed"]

    def model(self, w):
        """Return what a model's row says of its network and its images; raise UserError for options not served."""
        row = pick(self.tables.row("model", w.model), *resolved.AUGMENTED)
        try:
            resolved.check_options(row.get("options"))
        except UserError as problem:
            raise UserError(f"models.{w.model}.{problem}") from None
        return row

    def url(self, w):
        """Return the address of a model's weights without secrets, which its job has from the environment."""
        url = self.tables.row("model", w.model).get("url")
        return url and addresses.public(url)

    def sha256(self, w):
        return self.tables.row("model", w.model).get("sha256")

    def passes(self, w):
        return self.tables.row("graph", w.graph)["passes"]

    def placement(self, w):
        return self.tables.row("graph", w.graph)["placement"]

    def calibration(self, w):
        row = self.tables.row("precision", w.precision)["calibration"]
        if self.tables.is_swept(w.precision):
            return pick(row, "method", "images")
        return {key: value for key, value in row.items() if key != "import"}  # a file counts by its content

    def sweep(self, w):
        return pick(self.tables.row("precision", w.precision)["calibration"], "images", "candidates")

    def calibration_images(self, w):
        return self.calibration(w)["images"]

    def qat(self, w):
        return self.tables.row("precision", w.precision)["qat"]

    def plan_graph(self, w):
        """Return the passes of the class whose nodes plans name, and what any class quantizes: plans serve them all."""
        placed = {kind for row in self.tables.names("graph").values() for kind in row["placement"]}
        return {"passes": self.tables.row("graph", TYPED_CLASS)["passes"], "placement": sorted(placed)}

    def planning(self, w):
        return pick(self.tables.row("precision", w.precision), "compute", "budget", "criterion")

    def typing(self, w):
        return pick(self.tables.row("precision", w.precision), "compute", "high_precision")

    def runtime(self, w):
        return self.tables.row("target", w.target)["runtime"]

    def facts(self, w):
        return pick(self.tables.row("target", w.target), *FACTS)

    def building(self, w):
        row, place = self.tables.row("precision", w.precision), self.tables.row("target", w.target)
        other = pick(place, "high_precision") if row.get("high_precision") else {}
        return {
            **pick(row, "compute", "high_precision", "dla", "tf32"),
            **pick(place, "batches", "threads", "compute_capabilities", *SEARCH),
            **self.own_batches(w),
            **other,
        }

    def accelerator(self, w):
        """Return what decides which nodes a target's DLA takes, and in what they compute there."""
        row, place = self.tables.row("precision", w.precision), self.tables.row("target", w.target)
        facts = {"generation": place["dla_generation"], "version": self.version(w)}
        return {"batch": row["batches"][0], "compute": row["compute"], **facts}

    def verification(self, w):
        """Return how an engine is held to its plan, or nothing where the precision has none."""
        if not self.tables.has_plan(w.precision):
            return None
        return {"typed": self.tables.row("target", w.target)["typed"]}

    def running(self, w):
        return pick(self.tables.row("target", w.target), "threads")

    def scored_split(self, w):
        return SCORED[w.scores]

    def profiling(self, w):
        return {**pick(self.tables.row("target", w.target), "batches", "threads"), **self.own_batches(w)}

    def own_batches(self, w):
        """Return the batches that a precision has over its target's, or nothing."""
        return pick(self.tables.row("precision", w.precision), "batches")

    def timing(self, w):
        return {**pick(self.tables.row("target", w.target), *TIMING), **self.own_batches(w)}

    def timing_in_turns(self, w):
        """Return how the finalists of a choice are timed in turns, with each candidate's batches and the budget."""
        place = self.tables.row("target", w.target)
        names = self.tables.candidates(w.model, w.precision, w.target, w.dataset)
        own = {name: self.tables.row("precision", name).get("batches") or place["batches"] for name in names}
        rows = [{"precision": name, "batches": batches} for name, batches in own.items()]
        common = pick(place, *(key for key in TIMING if key != "batches"))
        return {**common, "budget": self.budget(w), "candidates": rows}

    def lineage(self, w):
        """Return what a result records of its recipe: the rows, less what decides nothing about its numbers.

        With the commit they are enough to build it again (reproduce.py).
        """
        row = {key: value for key, value in self.tables.row("precision", w.precision).items() if key != "budget"}
        unused = ELSEWHERE if "high_precision" in row else (*ELSEWHERE, "high_precision")
        place = {key: value for key, value in self.tables.row("target", w.target).items() if key not in unused}
        return {
            **{"precision": row, "building": self.building(w), "timing": self.timing(w)},
            **{"target": place, "graphs": self.tables.graphs_of(w.precision, w.target), "seed": self.seed(w)},
            **{"model": self.source_model(w), "dataset": self.source_dataset(w)},
        }

    def source_model(self, w):
        """Return the active dataset's part of a model's row: the address of its weights only where they are wanted."""
        dataset = self.tables.row("dataset", self.tables.active)
        official = "official" in (dataset["weights"], dataset.get("from"))
        source = {"url": self.url(w), **pick(self.tables.row("model", w.model), "sha256")} if official else {}
        return {**pick(self.tables.row("model", w.model), *resolved.AUGMENTED), **source}

    def source_dataset(self, w):
        """Return the active dataset's row, of its training what its checkpoint or its QAT was made with."""
        row = self.tables.row("dataset", self.tables.active)
        trained = self.tables.source(self.tables.active) in ("train", "finetune")
        used = list(row["training"]) if trained else AUGMENTATION if self.tables.has_qat(w.precision) else ()
        return {
            **{key: value for key, value in row.items() if key != "training"},
            "training": pick(row["training"], *used),
        }

    def active_name(self, w):
        return self.tables.active

    def budget(self, w):
        return self.tables.row("precision", w.precision)["budget"]

    def identity(self, w):
        """Return a target's identity: probed where it is this machine, else as recorded, else from its row."""
        if w.target not in self._identities:
            row = self.tables.row("target", w.target)
            self._identities[w.target] = ask(row, "identity") or _recorded(w.target, row) or pick(row, *FACTS)
        return self._identities[w.target]

    def version(self, w):
        """Return the version of a target's runtime, or nothing where it is not known here."""
        return self.identity(w).get("version") or ""

    def class_placement(self, w):
        """Return the placement of the class of graph that a target's engine is built from."""
        return self.tables.row("graph", self.tables.graph_class(w.precision, w.target))["placement"]

    def onnx_identity(self, w):
        return probe.identity(ONNX) or ONNX

    def published(self, w):
        """Return the published accuracy of the models that have one."""
        return {name: row["top1"] for name, row in self.tables.names("model").items() if row.get("top1")}

    def options(self, **slices):
        """Return a function of wildcards that gives `--flag value` for each slice, quoted for the shell.

        The whole command line's parameters are one string, because Snakemake compares a job's params as a set
        of values without names: two that are swapped would look unchanged.
        """

        def arguments(wildcards):
            key = (id(slices), tuple(wildcards))
            if key not in self._options:
                given = {flag: of(wildcards) for flag, of in slices.items()}
                self._options[key] = " ".join(_option(f, value) for f, value in given.items() if value is not OMITTED)
            return self._options[key]

        return arguments


def _recorded(target, row):
    """Return the identity that a board gave when a run last started, or that its target's file has, or nothing."""
    for path in ([f"{SEEN}/{target}.json"] if row.get("ssh") else []) + [f"results/targets/{target}.json"]:
        if os.path.exists(path):
            return {key: value for key, value in read_json(path).items() if key not in probe.OF_THE_LIBRARY}
    return None


def _option(flag, value):
    text = value if isinstance(value, str) else canonical(value)
    return f"--{flag} {shlex.quote(text)}"


@functools.lru_cache(maxsize=None)
def code(*scripts):
    """Return the paths of scripts and of all that they import of ours: the first script first."""
    first, *others = [sources.ROOT / script for script in scripts]
    if not first.is_file():
        return [f"workflow_scripts/{scripts[0]}"]
    paths = sources.closure(scripts[0], *(path.relative_to(sources.ROOT) for path in others if path.is_file()))
    return [f"workflow_scripts/{p.relative_to(sources.ROOT)}" for p in [first] + [p for p in paths if p != first]]
