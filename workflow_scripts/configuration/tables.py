"""The tables of config.yaml as the rules see them: rows by name, what belongs together, and what is refused.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

import functools
import itertools
import json
import os
import subprocess
import sys

from configuration.schema import Checker, nearest
from core import addresses, sources
from core.files import UserError, canonical
from devices import probe

TIMING_CACHES = ".cache/timing"  # kernel timings that make a second build fast; they decide nothing about an engine
BENCHMARKS = ".cache/benchmarks"  # this machine's timings (measure/benchmark_cache.py); deleted ones are taken again
TYPED_CLASS = "gpu"  # the class of graph that strongly typed ones are made from
JOBS_LOCK = ".snakemake/levit.jobs.lock"  # each running job holds a shared lock, a starting run tries it
DRAWN = "glyphs"  # the builtin dataset that is drawn
OF_FOLDERS = ("val", "labels", "synsets")  # of a dataset's row: what builtin ones have not
ALONE_USELESS = {
    "other_power_mode": "power_mode",
    "workdir": "ssh",
    "ssh_config": "ssh",
}  # key of a target: what it needs
PLANNED = ("fp16", "int8")  # values of `compute` that a plan of precisions can be made for
SEEN = ".cache/boards"  # what boards that are reached by ssh said they are when a run last started
ONNX = {"runtime": "onnxruntime"}  # what evaluates exported graphs
SCORED = {"accuracy": "val", "select": "select"}  # folder of scores under a dataset's: the split that they are of
UNFOLDED = ("equalize", "smoothing", "bias_correction")  # parts of a calibration that change the network's weights
TABLES = {"model": "models", "dataset": "datasets", "precision": "precisions", "target": "targets", "graph": "graphs"}
LOCAL = ("store", "datasets", "precisions")  # keys of config.yaml below which paths are this machine's


def pick(row, *keys):
    """Return the part of a row under `keys`; keys that the row has not are left out."""
    return {key: row[key] for key in keys if row.get(key) is not None}


def ask(row, question, *more):
    """Return what devices/probe.py's function `question` says of a target's row, in the interpreter of its jobs.

    A board over ssh is not asked here: it counts as reachable, its identity as unknown. A starting run asks it
    (snakefile/preflight.py).
    """
    if row.get("ssh"):
        return None
    if not row.get("python"):
        return getattr(probe, question)(row, *more)
    return json.loads(_ask_elsewhere(row["python"], question, canonical([row, *more])))


@functools.lru_cache(maxsize=None)
def _ask_elsewhere(python, question, arguments):
    program = "import sys, json; sys.path.insert(0, sys.argv[1]); from devices import probe\n"
    program += "print(json.dumps(getattr(probe, sys.argv[2])(*json.loads(sys.argv[3]))))"
    try:
        command = [python, "-c", program, str(sources.ROOT), question, arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return json.dumps(None if question == "identity" else f"its interpreter {python} does not run here")


def _at_home(value):
    """Return a value of config.yaml in which paths that begin with `~` are whole: no shell ever sees them."""
    if isinstance(value, dict):
        return {key: _at_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


class Tables:
    """A checked configuration (schema.Checker) with the questions that rules ask of it."""

    def __init__(self, config):
        self.config = config
        self._reachable = None
        self.active = config["dataset"]
        self.on_device = config["site"] == "device"
        self._check_references()

    @classmethod
    def load(cls, config, schema):
        """Return the tables of a configuration, checked against the JSON Schema file; raise UserError."""
        import yaml  # Snakemake's own

        with open(schema, encoding="utf-8") as stream:
            checker = Checker(yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        config = checker.check(config)
        return cls({key: _at_home(value) if key in LOCAL else value for key, value in config.items()})

    def _check_references(self):
        """Raise UserError where a row contradicts itself, or speaks of a row that is not there.

        What rows make of each other (a precision of a dataset's images, a target's runtime) refuses only what needs
        both: `refusal`.
        """
        config = self.config
        self.row("dataset", self.active)
        for kind in ("model", "precision", "target"):
            self.listed(kind)
        for name, row in config["datasets"].items():
            self._check_dataset(name, row)
        for name, row in config["targets"].items():
            self._check_target(name, row)
        for name, row in config["precisions"].items():
            self._check_choice(name, row)
            if "graph" in row:
                self.row("graph", row["graph"])
            if "qat" in row and "calibration" not in row:
                raise UserError(f"precisions.{name}: qat needs a calibration to start from")
            self._check_fallback(name, row)
            self._check_calibration(name, row)

    @staticmethod
    def _check_dataset(name, row):
        """Raise UserError where parts of a dataset's row contradict each other."""
        if ("builtin" in row) == ("path" in row):
            raise UserError(f"datasets.{name}: give either builtin or path")
        if "checkpoint_key" in row and {row["weights"], row.get("from")} & {"official", "train"}:
            raise UserError(f"datasets.{name}: checkpoint_key is of a file that `weights` or `from` names: take it out")
        if ("from" in row) != (row["weights"] == "finetune"):
            raise UserError(f"datasets.{name}: weights: finetune and from (official, or a path) need each other")
        if ("drawing" in row) != (row.get("builtin") == DRAWN):
            raise UserError(f"datasets.{name}: builtin: {DRAWN} and drawing need each other")
        for key in OF_FOLDERS if "builtin" in row else ():
            if key in row:
                raise UserError(f"datasets.{name}.{key}: it is of a folder (path), and the row has a builtin dataset")
        for key in ("crop_scale", "crop_ratio"):
            least, most = row["training"][key]
            if least > most:
                raise UserError(f"datasets.{name}.training.{key}: [{least}, {most}] is not [least, most]")
        small, epochs = row["training"]["small_epochs"], row["training"]["epochs"]
        if small > epochs:
            raise UserError(f"datasets.{name}.training.small_epochs is {small}, more than all {epochs} epochs")

    def _check_target(self, name, row):
        """Raise UserError where parts of a target's row contradict each other, or name a graph that is not there."""
        self.row("graph", row["graph"])
        self._check_dla(name, row)
        if row["typed"] and row["graph"] != TYPED_CLASS:
            raise UserError(f"targets.{name}: typed graphs are made of the class {TYPED_CLASS}, not {row['graph']}")
        for key, needed in ALONE_USELESS.items():
            if key in row and needed not in row:
                raise UserError(f"targets.{name}.{key}: it says nothing without {needed}")

    @staticmethod
    def _check_fallback(name, row):
        """Raise UserError where a precision wants a plan that nothing would make or follow."""
        if row["fallback"] == "none":
            return
        if row["compute"] not in PLANNED:
            raise UserError(
                f"precisions.{name}: {row['compute']} has no plans, only {' and '.join(PLANNED)} (fallback)"
            )
        if row["dla"] and row.get("calibration"):
            raise UserError(
                f"precisions.{name}: INT8 on a DLA comes from a cache, which no plan changes: fallback: none"
            )

    def _check_dla(self, name, row):
        """Raise UserError where a target's accelerator is not described, or a precision for one has several batches."""
        if row["dla"] and not (row.get("dla_generation") and row.get("dla_graph")):
            raise UserError(f"targets.{name}: its dla needs a dla_generation and a dla_graph")
        if row["dla"]:
            self.row("graph", row["dla_graph"])
        for precision, other in self.config["precisions"].items():
            if other.get("dla") and len(other.get("batches", ())) != 1:
                raise UserError(f"precisions.{precision}: an engine on a DLA has one batch (batches: [1])")

    def _check_choice(self, name, row):
        if ("choose" in row) == ("compute" in row):
            raise UserError(f"precisions.{name}: give either compute or choose")
        for other in row.get("choose", ()) if row.get("choose") != "all" else ():
            if "choose" in self.row("precision", other):
                raise UserError(f"precisions.{name}: it cannot choose {other}, which chooses itself")

    def _check_calibration(self, name, row):
        calibration = row.get("calibration", {})
        if ("candidates" in calibration) != (calibration.get("method") == "sweep"):
            raise UserError(f"precisions.{name}.calibration: the method sweep and a list of candidates need each other")
        scaled = [key for key in ("candidates", "equalize", "smoothing") if calibration.get(key)]
        if calibration.get("import") and scaled:
            raise UserError(
                f"precisions.{name}.calibration: imported ranges are of the network as it is: no {scaled[0]}"
            )
        for recipe in [calibration, *calibration.get("candidates", [])]:
            if "percentile" in recipe and recipe["method"] != "percentile":
                raise UserError(f"precisions.{name}.calibration: percentile is of the method percentile alone")
        for recipe in [calibration, *calibration.get("candidates", [])] if row["dla"] else []:
            for key in UNFOLDED:
                if recipe.get(key):
                    raise UserError(
                        f"precisions.{name}.calibration: {key} changes weights, and a DLA (dla: true) is given the "
                        "unchanged graph with a calibration cache: take it out"
                    )

    # Rows and names

    def names(self, kind):
        return self.config[TABLES[kind]]

    def row(self, kind, name):
        """Return a table's row; raise UserError with the nearest names where there is none."""
        table = self.names(kind)
        if name not in table:
            raise UserError(f"unknown {kind} {name}: {nearest(name, table)} ({TABLES[kind]} in config.yaml)")
        return table[name]

    def listed(self, kind):
        """Return the names that `results:` lists of a table."""
        wanted = self.config["results"][TABLES[kind]]
        names = list(self.names(kind)) if wanted == "all" else wanted
        return [name for name in names if self.row(kind, name) is not None]

    # What belongs together

    def graph_class(self, precision, target):
        """Return the class of graph that a precision's engine on a target is built from."""
        row, place = self.row("precision", precision), self.row("target", target)
        return row.get("graph") or (place["dla_graph"] if row.get("dla") else place["graph"])

    def graphs_of(self, precision, target):
        """Return {class: what is used of its row} for the classes of graph of an engine and its plan."""
        classes = {self.graph_class(precision, target)}
        if self.has_plan(precision) or self.row("target", target)["typed"]:
            classes.add(TYPED_CLASS)
        used = ("passes", "placement") if self.is_calibrated(precision) else ("passes",)
        return {name: pick(self.row("graph", name), *used) for name in sorted(classes)}

    def graph_path(self, dataset, model, precision, graph):
        """Return the clean graph of a class, or the quantized one where the precision has a calibration."""
        if self.row("precision", precision).get("calibration"):
            return f"results/{dataset}/quantized/{model}.{precision}.{graph}.onnx"
        return f"results/{dataset}/clean/{model}.{graph}.onnx"

    def untyped_graph(self, dataset, model, precision):
        """Return the graph that a precision's strongly typed one is made from."""
        return self.graph_path(dataset, model, precision, self.row("precision", precision).get("graph") or TYPED_CLASS)

    def engine_graph(self, dataset, model, precision, target):
        """Return the graph that an engine is built from."""
        if self.row("target", target)["typed"]:
            return f"results/{dataset}/typed/{model}.{precision}.onnx"
        if self.is_implicit(precision, target):
            return f"results/{dataset}/clean/{model}.{self.graph_class(precision, target)}.onnx"
        return self.graph_path(dataset, model, precision, self.graph_class(precision, target))

    def source(self, dataset):
        """Return where a dataset's checkpoints come from: official, train, finetune, or import (the user's file)."""
        weights = self.row("dataset", dataset)["weights"]
        return weights if weights in ("official", "train", "finetune") else "import"

    def proving_split(self, dataset):
        """Return the split whose images a folded network is compared on: calib, or what there is where it has none."""
        sizes = self.row("dataset", dataset)["splits"]
        return next((split for split in ("calib", "select") if sizes[split]), "val")

    def start(self, dataset, model):
        """Return the file that a dataset's checkpoints are fine-tuned from, or nothing where they are not."""
        start = self.row("dataset", dataset).get("from", "")
        return (
            f"results/{dataset}/pretrained/{model}.pth"
            if start == "official"
            else start.replace("{model}", model) or []
        )

    def refusal(self, model, precision, target, dataset=None):
        """Return why a result makes no sense, or None."""
        row, place = self.row("precision", precision), self.row("target", target)
        what = f"{precision} on {target}"
        without = self.without_images(precision, dataset or self.active)
        if without:
            return without
        if "choose" in row:
            named = [] if row["choose"] == "all" else row["choose"]
            for short in filter(None, (self.without_images(other, dataset or self.active) for other in named)):
                return f"{what}: it chooses from {short}"
            able = self.candidates(model, precision, target, dataset)
            return None if able else f"{what}: none of what it chooses from makes sense there"
        if not (sources.ROOT / self.runtime_file(target)).is_file():
            return f"{what}: targets.{target}.runtime: there is no workflow_scripts/{self.runtime_file(target)}"
        if row["dla"] and not place["dla"]:
            return f"{what}: {target} has no deep learning accelerator"
        for kind in (row["compute"], row.get("high_precision")):
            if kind and kind not in place["precisions"]:
                return f"{what}: {place['runtime']} there computes in {', '.join(place['precisions'])}, not in {kind}"
        return self.without_weights(model, dataset or self.active)

    def without_weights(self, model, dataset):
        """Return why a model has no checkpoint for a dataset, or None."""
        wanted = (self.source(dataset), self.row("dataset", dataset).get("from"))
        if "official" in wanted and not self.row("model", model).get("url"):
            return f"{model} on {dataset}: the model has no official weights (url in config.yaml)"
        return None

    def without_images(self, precision, dataset):
        """Return why a dataset has no images for a precision, or None."""
        row, sizes = self.row("precision", precision), self.row("dataset", dataset)["splits"]
        short = self.without_calibration(precision, dataset)
        if short:
            return short
        if ("choose" in row or row["fallback"] != "none") and not sizes["select"]:
            remedy = "fallback: none in its row, or" if row.get("compute") else "name a precision, or have"
            return f"{precision} on {dataset}: it chooses by the select split, and splits.select is 0: {remedy} train/"
        return None

    def without_calibration(self, precision, dataset):
        """Return why a dataset has too few images for a precision's calibration, or None."""
        wanted = self.row("precision", precision).get("calibration", {}).get("images", 0)
        given = self.row("dataset", dataset)["splits"]["calib"]
        if wanted and not given:
            return f"{precision} on {dataset}: it is calibrated on training images, and splits.calib is 0"
        if wanted > given:
            wants = f"precisions.{precision}.calibration.images is {wanted}"
            return f"{precision} on {dataset}: {wants}, but datasets.{dataset}.splits.calib gives {given}"
        return None

    def choosing(self):
        """Return the precisions that have no engine of their own but choose one."""
        return [name for name, row in self.names("precision").items() if "choose" in row]

    def candidates(self, model, precision, target, dataset=None):
        """Return the precisions that a choosing one chooses from on a target."""
        names = self.chooses_from(precision)
        return [name for name in names if not self.refusal(model, name, target, dataset)]

    def valid(self, names):
        """Return the (model, precision, target) that make sense, of what `names(kind)` gives."""
        triples = itertools.product(names("model"), names("precision"), names("target"))
        return [triple for triple in triples if not self.refusal(*triple)]

    def left_out(self, precisions, dataset=None):
        """Return one line for each of some precisions that a dataset (the active one) has too few images for."""
        return list(filter(None, (self.without_images(name, dataset or self.active) for name in precisions)))

    def chooses_from(self, precision):
        """Return the precisions that a choosing one may choose from, whether they make sense somewhere or not."""
        wanted, chooses = self.row("precision", precision)["choose"], self.choosing()
        return [name for name in self.names("precision") if name not in chooses] if wanted == "all" else wanted

    def reachable_results(self):
        """Return the listed results for targets within reach; say once on stderr which targets are skipped."""
        if self._reachable is None:
            away = {target: ask(self.row("target", target), "unreachable") for target in self.listed("target")}
            for line in [f"{target}: {reason}" for target, reason in away.items() if reason] + self.left_out(
                self.listed("precision")
            ):
                print(f"skipped: {line}", file=sys.stderr)
            self._reachable = [triple for triple in self.valid(self.listed) if not away[triple[2]]]
        return self._reachable

    def onnx_models(self):
        """Return the listed models whose exported graph can be evaluated here."""
        return [] if self.on_device or probe.unreachable(ONNX) else self.listed("model")

    def runtime_file(self, target):
        return f"runtimes/{self.row('target', target)['runtime']}.py"

    def builtin_files(self, dataset):
        """Return the script that writes a builtin dataset, in a list; none where the images are the user's."""
        row = self.row("dataset", dataset)
        return [f"data/{row['builtin']}.py"] if "builtin" in row else []

    def is_implicit(self, precision, target):
        """Return whether INT8 comes from a calibration cache: a DLA takes no Q/DQ nodes (before TensorRT 11.4)."""
        row = self.row("precision", precision)
        return bool(row["dla"] and row.get("calibration") and not self.row("target", target)["typed"])

    def is_dla(self, precision):
        return bool(self.row("precision", precision).get("dla"))

    def is_swept(self, precision):
        """Return whether a precision's calibration recipe is chosen among candidates by measurement."""
        return self.row("precision", precision).get("calibration", {}).get("method") == "sweep"

    def has_qat(self, precision):
        return bool(self.row("precision", precision).get("qat"))

    def has_trtexec(self, target):
        return self.row("target", target)["trtexec"]

    def has_plan(self, precision):
        return self.row("precision", precision)["fallback"] != "none"

    def is_predicted(self, precision, target):
        """Return whether an engine follows a plan by its typed graph, or layer by layer, and so computes as that."""
        return self.has_plan(precision) and self.graph_class(precision, target) == TYPED_CLASS

    def given_plan(self, model, precision):
        """Return the path of a precision's hand-made plan, or nothing where it is searched for."""
        fallback = self.row("precision", precision)["fallback"]
        return fallback["plan"].replace("{model}", model) if isinstance(fallback, dict) else []

    def is_calibrated(self, precision):
        return bool(self.row("precision", precision).get("calibration"))

    def unreachable(self, target, purpose):
        """Return why this machine cannot `build` or `run` a target's engines, or None where it can."""
        return ask(self.row("target", target), "unreachable", purpose)

    def board(self, target):
        """Return how a target is reached by ssh, or None where its jobs run here."""
        row = self.row("target", target)
        return {"name": target, **pick(row, "ssh", "workdir", "python", "ssh_config")} if row.get("ssh") else None

    def boards(self):
        """Return {destination of ssh: names of the targets that are there}."""
        found = {}
        for name, row in self.config["targets"].items():
            if row.get("ssh"):
                found.setdefault(row["ssh"], []).append(name)
        return found

    def environment(self, python):
        """Return what jobs find in their environment, which decides no content: interpreters, store, lock.

        LEVIT_PYTHON, where it is set already, replaces Snakemake's own interpreter `python` for all jobs.
        """
        python = os.environ.get("LEVIT_PYTHON") or python
        named = {f"LEVIT_PYTHON_{t}": row.get("python") or python for t, row in self.config["targets"].items()}
        named.update({f"LEVIT_BOARD_{t}": canonical(self.board(t)) for t in self.config["targets"] if self.board(t)})
        named.update(LEVIT_TIMING_CACHES=TIMING_CACHES, LEVIT_BENCHMARKS=BENCHMARKS)
        named[addresses.VARIABLE] = addresses.secret(
            row["url"] for row in self.config["models"].values() if "url" in row
        )
        named.update(LEVIT_RETRAIN="1" if self.config.get("retrain_on_upgrade") else "")
        return {"LEVIT_PYTHON": python, "LEVIT_STORE": self.config["store"] or "", "LEVIT_JOBS": JOBS_LOCK, **named}
