"""The tables of config.yaml: rows by name, what belongs together, and which results make no sense."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from core import sources
from core.files import UserError
from core.suggest import nearest

STRONGLY_TYPED_GRAPH = "gpu"  # the graph variant that strongly typed graphs are made from
NNCF = "nncf"  # the backend that places Q/DQ pairs in a graph itself
PYTORCH = "pytorch"  # the runtime of programs of torch.export
OF_NNCF = ("openvino", "onnxruntime")  # runtimes that take its zero points
DRAWN = "glyphs"  # the builtin dataset that is drawn
SCORED = {"accuracy": "val", "select": "select"}  # folder of scores under a dataset's: the split that they are of
GRAPHS = {"onnx": "clean/{model}.{graph}.onnx", "pt2": "programs/{model}.pt2"}  # of a format, under a dataset's folder


def pick(row: dict, *keys: str) -> dict:
    """Return the part of a row under `keys`, without those that the row does not have."""
    return {key: row[key] for key in keys if row.get(key) is not None}


class Tables:
    """The rows of a checked configuration (configuration/checks.py) and predicates over them."""

    def __init__(self, config: dict):
        self.config = config
        self.active = config["dataset"]
        self.on_device = config["site"] == "device"
        self.cluster: dict = config.get("cluster") or {}  # nothing: this machine alone

    @property
    def store(self) -> dict | None:
        """Return the keys of `store`, of which a text is the key `at`, or None where nothing is stored."""
        store = self.config["store"]
        return {"at": store} if isinstance(store, str) and store else store or None

    # Rows and names

    def names(self, kind: str) -> dict[str, dict]:
        """Return a table, {name: row}; kind: model, dataset, precision, target or graph."""
        return self.config[f"{kind}s"]

    def row(self, kind: str, name: str) -> dict:
        """Return a table's row; raise UserError with the nearest names where there is none."""
        table = self.names(kind)
        if name not in table:
            raise UserError(f"unknown {kind} {name}: {nearest(name, table)} ({kind}s in config.yaml)")
        return table[name]

    def listed(self, kind: str) -> list[str]:
        """Return the names that `results:` lists of a table."""
        wanted = self.config["results"][f"{kind}s"]
        names = list(self.names(kind)) if wanted == "all" else wanted
        return [name for name in names if self.row(kind, name) is not None]

    # Datasets

    def source(self, dataset: str) -> str:
        """Return where a dataset's checkpoints come from: official, train, finetune, or import (the user's file)."""
        weights = self.row("dataset", dataset)["weights"]
        return weights if weights in ("official", "train", "finetune") else "import"

    # Graphs

    def graph_variant(self, precision: str, target: str) -> str:
        """Return the graph variant that a precision's engine on a target is built from."""
        row, place = self.row("precision", precision), self.row("target", target)
        return row.get("graph") or (place["dla_graph"] if row.get("dla") else place["graph"])

    def graph_format(self, graph: str) -> str:
        """Return the format of a graph variant, a key of GRAPHS."""
        return self.row("graph", graph).get("format", "onnx")

    def graphs_of(self, precision: str, target: str) -> dict[str, dict]:
        """Return {graph variant: what is used of its row} for those of an engine and its plan."""
        variants = {self.graph_variant(precision, target)}
        if self.has_plan(precision, target) or self.row("target", target)["typed"]:
            variants.add(STRONGLY_TYPED_GRAPH)
        if self.has_plugin(precision, target):
            variants.add(self.row("target", target)["fused_graph"])
        placed = ("placement", "activations", "probabilities", "chained") if self.has_ranges(precision) else ()
        return {name: pick(self.row("graph", name), "format", "passes", *placed) for name in sorted(variants)}

    def graph_path(self, dataset: str, model: str, precision: str, graph: str) -> str:
        """Return the clean graph of a variant, or the quantized one where the precision has a calibration."""
        if self.is_calibrated(precision):
            return f"results/{dataset}/quantized/{model}.{precision}.{graph}.onnx"
        return f"results/{dataset}/" + GRAPHS[self.graph_format(graph)].format(model=model, graph=graph)

    def weakly_typed_graph(self, dataset: str, model: str, precision: str) -> str:
        """Return the graph that a precision's strongly typed one is made from."""
        graph = self.row("precision", precision).get("graph") or STRONGLY_TYPED_GRAPH
        return self.graph_path(dataset, model, precision, graph)

    def engine_graph(self, dataset: str, model: str, precision: str, target: str, fused: bool = False) -> str:
        """Return the graph that an engine is built from; fused: where its target has the plugin (has_plugin)."""
        if self.row("target", target)["input"] == "uint8":
            return f"results/{dataset}/{'fused_pixels' if fused else 'pixels'}/{model}.{precision}.{target}.onnx"
        return self.normalized_graph(dataset, model, precision, target, fused)

    def normalized_graph(self, dataset: str, model: str, precision: str, target: str, fused: bool = False) -> str:
        """Return the graph of an engine that takes normalized images, float32 [B, 3, H, W]; fused: as engine_graph."""
        if fused:
            return self.graph_path(dataset, model, precision, self.row("target", target)["fused_graph"])
        if self.row("target", target)["typed"]:
            return f"results/{dataset}/typed/{model}.{precision}.onnx"
        if self.is_implicit(precision, target):
            return f"results/{dataset}/clean/{model}.{self.graph_variant(precision, target)}.onnx"
        return self.graph_path(dataset, model, precision, self.graph_variant(precision, target))

    # Results that make no sense

    def refusal(self, model: str, precision: str, target: str, dataset: str | None = None) -> str | None:
        """Return why a result makes no sense, or None."""
        dataset = dataset or self.active
        reason = self.without_images(precision, dataset)
        if not reason and "choose" in self.row("precision", precision):
            reason = self._without_choice(model, precision, target, dataset)
        elif not reason:
            reason = self._without_support(precision, target) or self.without_weights(model, dataset)
        return reason

    def _without_choice(self, model, precision, target, dataset):
        wanted = self.row("precision", precision)["choose"]
        for short in self.left_out([] if wanted == "all" else wanted, dataset):
            return f"{precision} on {target}: it chooses from {short}"
        if not self.candidates(model, precision, target, dataset):
            return f"{precision} on {target}: none of what it chooses from makes sense there"
        return None

    def _without_support(self, precision, target):
        row, place = self.row("precision", precision), self.row("target", target)
        what, runtime = f"{precision} on {target}", self.runtime_file(target)
        if not (sources.ROOT / runtime).is_file():
            return f"{what}: targets.{target}.runtime: there is no workflow_scripts/{runtime}"
        if row["dla"] and not place["dla"]:
            return f"{what}: {target} has no deep learning accelerator"
        graph = self.graph_variant(precision, target)
        if (self.graph_format(graph) == "pt2") != (place["runtime"] == PYTORCH):
            return f"{what}: {place['runtime']} does not take the graph variant {graph}"
        for kind in (row["compute"], row.get("high_precision")):
            if kind and kind not in place["precisions"]:
                return f"{what}: {place['runtime']} there computes in {', '.join(place['precisions'])}, not in {kind}"
        if self.is_nncf(row) and place["runtime"] not in OF_NNCF:
            return f"{what}: {place['runtime']} takes no zero points, and NNCF's pairs have them"
        return None

    def without_weights(self, model: str, dataset: str) -> str | None:
        """Return why a model has no checkpoint for a dataset, or None."""
        wanted = (self.source(dataset), self.row("dataset", dataset).get("from"))
        if "official" in wanted and not self.row("model", model).get("url"):
            return f"{model} on {dataset}: the model has no official weights (url in config.yaml)"
        return None

    def without_images(self, precision: str, dataset: str) -> str | None:
        """Return why a dataset has no images for a precision, or None."""
        row, sizes = self.row("precision", precision), self.row("dataset", dataset)["splits"]
        short = self.without_calibration(precision, dataset)
        if short:
            return short
        if ("choose" in row or row["fallback"] != "none") and not sizes["select"]:
            remedy = "fallback: none in its row, or" if row.get("compute") else "name a precision, or have"
            return f"{precision} on {dataset}: it chooses by the select split, and splits.select is 0: {remedy} train/"
        return None

    def without_calibration(self, precision: str, dataset: str) -> str | None:
        """Return why a dataset has too few images for a precision's calibration, or None."""
        wanted = self.row("precision", precision).get("calibration", {}).get("images", 0)
        available = self.row("dataset", dataset)["splits"]["calib"]
        if wanted and not available:
            return f"{precision} on {dataset}: it is calibrated on training images, and splits.calib is 0"
        if wanted > available:
            wants = f"precisions.{precision}.calibration.images is {wanted}"
            return f"{precision} on {dataset}: {wants}, but datasets.{dataset}.splits.calib gives {available}"
        return None

    def left_out(self, precisions: list[str], dataset: str | None = None) -> list[str]:
        """Return one line for each of some precisions that a dataset (the active one) has too few images for."""
        return list(filter(None, (self.without_images(name, dataset or self.active) for name in precisions)))

    def valid(self, names: Callable) -> list[tuple]:
        """Return the (model, precision, target) that make sense, of what `names(kind)` gives."""
        triples = itertools.product(names("model"), names("precision"), names("target"))
        return [triple for triple in triples if not self.refusal(*triple)]

    # Precisions that choose

    def choosing(self) -> list[str]:
        """Return the precisions that have no engine of their own but choose one."""
        return [name for name, row in self.names("precision").items() if "choose" in row]

    def candidates(self, model: str, precision: str, target: str, dataset: str | None = None) -> list[str]:
        """Return the precisions that a choosing one chooses from on a target."""
        names = self.chooses_from(precision)
        return [name for name in names if not self.refusal(model, name, target, dataset)]

    def chooses_from(self, precision: str) -> list[str]:
        """Return the precisions that a choosing one may choose from, whether they make sense somewhere or not."""
        wanted, chooses = self.row("precision", precision)["choose"], self.choosing()
        return [name for name in self.names("precision") if name not in chooses] if wanted == "all" else wanted

    # Predicates

    def runtime_file(self, target: str) -> str:
        """Return the module of a target's runtime, from workflow_scripts/."""
        return f"runtimes/{self.row('target', target)['runtime']}.py"

    def is_implicit(self, precision: str, target: str) -> bool:
        """Return whether INT8 comes from a calibration cache: a DLA takes no Q/DQ nodes (before TensorRT 11.4)."""
        on_dla = self.row("precision", precision)["dla"]
        return on_dla and self.is_calibrated(precision) and not self.row("target", target)["typed"]

    def has_plugin(self, precision: str, target: str) -> bool:
        """Return whether an engine, or one that a precision chooses from, takes the plugin where the target has it."""
        row, place = self.row("precision", precision), self.row("target", target)
        if place["plugins"] == "none":
            return False
        if "choose" in row:
            return any(self.has_plugin(name, target) for name in self.chooses_from(precision))
        served = self.row("graph", place["fused_graph"])["precisions"]
        return row["compute"] in served and not (row["dla"] or row.get("graph"))

    def is_calibrated(self, precision: str) -> bool:
        """Return whether a precision has quantizers."""
        return bool(self.row("precision", precision).get("calibration"))

    def is_nncf(self, row: dict) -> bool:
        """Return whether NNCF quantizes the graphs of a precision's row."""
        return row.get("calibration", {}).get("backend") == NNCF

    def has_ranges(self, precision: str) -> bool:
        """Return whether a precision's ranges are an artifact of their own, from which its graphs get their pairs."""
        return self.is_calibrated(precision) and not self.is_nncf(self.row("precision", precision))

    def is_swept(self, precision: str) -> bool:
        """Return whether a precision's calibration recipe is chosen among candidates by measurement."""
        return self.row("precision", precision).get("calibration", {}).get("method") == "sweep"

    def has_qat(self, precision: str) -> bool:
        """Return whether a precision is trained with its quantizers."""
        return bool(self.row("precision", precision).get("qat"))

    def has_plan(self, precision: str, target: str | None = None) -> bool:
        """Return whether a plan (of nodes of ONNX graphs) says which layers of an engine keep a higher precision."""
        planned = self.row("precision", precision)["fallback"] != "none"
        return planned and (target is None or self.graph_format(self.graph_variant(precision, target)) == "onnx")

    def is_predicted(self, precision: str, target: str) -> bool:
        """Return whether an engine follows its plan, so that the strongly typed graph predicts its accuracy."""
        follows = self.has_plan(precision, target) and not self.has_plugin(precision, target)
        return follows and self.graph_variant(precision, target) == STRONGLY_TYPED_GRAPH
