"""What the rules share: the checked tables, and functions of wildcards that return inputs and params."""

import functools
import inspect
import os
import re
import sys

from configuration import checks
from configuration.tables import SCORED
from core import history, sources, trained
from devices import probe, reach
from snakefile import cluster, command_lines, device_site, job_list, nodes, run_checks
from snakefile import signatures, snakemake_log, staleness
from snakefile import params as slices
from snakefile.params import AUGMENTATION, BUILDING, FACTS, PLANNING, PROFILING, QAT, TIMING, TRAINING, VERIFICATION
from snakefile.params import dataset, graph, model, precision, seed, target

lines = snakemake_log.attach(workflow)  # of a run, a line for each job
tables = run_checks.one_line(checks.load)(config)
options = functools.partial(slices.options, tables)
device_options = functools.partial(options, runtime=target.runtime, identity=slices.runtime_identity)
dataset_files = staleness.dataset_files(tables)
PLUGIN = ["Makefile", "attention.cu", "plugin.cpp"]
PLUGIN += [f"{name}.h" for name in "attention launch node plain plugin_v2 plugin_v3 ptx tensor_cores wmma".split()]
PLUGIN_SOURCES = [f"plugins/levit_attention/{name}" for name in PLUGIN]
PAGE = ["reporting/charts", "reporting/page"]  # folders of what report.py loads by name
PAGE = [f"{folder}/{name}" for folder in PAGE for name in sorted(os.listdir(sources.ROOT / folder))]
BUNDLE_SOURCES = ["card.md", *(f"cpp/{name}" for name in sorted(os.listdir(sources.ROOT / "deployment/cpp")))]
BUNDLE_SOURCES = [f"workflow_scripts/deployment/{name}" for name in BUNDLE_SOURCES]
TRITON = [f"deployment/triton_{name}.py" for name in ("preprocess", "engine", "client", "serve")]
NAMES = {name: f"{{{name}}}" for name in ("model", "precision", "target")}  # by which Snakemake's report lists files
nodes.keep_to_quota(workflow)
# threads of jobs that run alone, which never make a job stale
EVERY_CORE = run_checks.one_line(nodes.cores)(tables) or workflow._cores or os.cpu_count()
# of jobs that start on one core for half of their time, and compute on every core: two of them run at once
SHORT = EVERY_CORE if tables.cluster else -(-EVERY_CORE // 2)
workflow.global_resources.update({name: total for name, (total, _) in reach.slots(tables).items()})
os.environ.update(reach.environment(tables, sys.executable))


def any_of(names):
    """Return a wildcard constraint: one of some names."""
    return "|".join(map(re.escape, names)) or "(?!)"


CHOOSING = any_of(tables.choosing())  # what chooses an engine
NNCF = any_of(name for name, row in tables.names("precision").items() if tables.is_nncf(row))
SHARDED = any_of(name for name, row in tables.names("dataset").items() if row["shards"] > 1)


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    model="[A-Za-z0-9_-]+",
    precision=rf"(?!(?:{CHOOSING})\.)[A-Za-z0-9_-]+",  # those that choose make results alone
    target="[A-Za-z0-9_]+",
    graph="[A-Za-z0-9_-]+",
    split="calib|select|val",
    scores="|".join(SCORED),  # a folder of scores


def active(path):
    """Return a path under the active dataset's folder."""
    return f"results/{tables.active}/{path}"


def host_code(script, *others):
    """Return a rule's input `code`: the script of a job on the host; others: files that it loads by name."""
    return staleness.script(script, lambda wildcards: others, on_host=True)


def result_code(script, *others, sources=()):
    """Return the input `code` of a job that gathers results, on the host and on devices alike."""
    return staleness.script(script, lambda wildcards: others, sources)


def device_code(script, *others, purpose="run", sources=()):
    """Return the input `code` of a job on its target, where it loads the runtime to `build` or `run` engines.

    others: more files that it loads by name; sources: paths of files that are no Python and decide the job as well.
    """
    return staleness.script(script, lambda w: [tables.runtime_file(w.target), *others], sources, purpose=purpose)


def pytorch_engine(w):
    """Return the engine of PyTorch that a target's row has its engines compared with."""
    return f"results/{w.dataset}/engines/{w.model}.{tables.row('target', w.target)['pytorch']}.engine"


def device_cores(w):
    """Return a job's cores: all of its machine's, or none where the job runs on a board over ssh."""
    return 0 if reach.board(tables, w.target) else nodes.cores(tables, w.target) or EVERY_CORE


def dataset_code(script):
    """Return the input `code` of a job on the host that loads the script of a builtin dataset."""
    builtin = lambda w: [f"data/{name}.py" for name in filter(None, [tables.row("dataset", w.dataset).get("builtin")])]
    return staleness.script(script, builtin, on_host=True)


def user_file(key):
    """Return a rule's input of the path that a key of a row names; a user's file counts by its content."""
    return staleness.user_file(key, tables, workflow.rules)


def images(split):
    """Return the images of a split, preprocessed for a model."""
    return f"results/{{dataset}}/data/{{model}}.{split}.u8"


def shards(w):
    """Return the parts of a split that the jobs of its dataset's `shards` decode."""
    count = tables.row("dataset", w.dataset)["shards"]
    parts = (images(f"{w.split}.{number}-of-{count}") for number in range(1, count + 1))
    return [part.format(dataset=w.dataset, model=w.model) for part in parts]


def scored_images(w):
    """Return the preprocessed images of the split that a folder of scores is about."""
    return f"results/{w.dataset}/data/{w.model}.{SCORED[w.scores]}.u8"


def proof_images(w):
    """Return the images on which a folded network is compared: of calib, of select where that is empty, or of val."""
    sizes = tables.row("dataset", w.dataset)["splits"]
    split = next((split for split in ("calib", "select") if sizes[split]), "val")
    return f"results/{w.dataset}/data/{w.model}.{split}.u8"


def datasets_with(*sources):
    """Return a wildcard constraint: the datasets whose weights come from one of these sources."""
    return any_of(name for name in tables.names("dataset") if tables.source(name) in sources)


def of_tables(function, **more):
    """Return a function of wildcards: what a function of the tables gives for those that are its parameters."""
    names = inspect.signature(function).parameters
    return lambda w: function(**{name: w[name] for name in names if name in w.keys()}, **more)


def where(holds, *paths):
    """Return a function of wildcards: paths where a predicate of the wildcards is true, or nothing."""
    return lambda w: [path.format(**dict(w.items())) for path in paths] if holds(w) else []


has_plan, has_plugin, has_ranges = map(of_tables, (tables.has_plan, tables.has_plugin, tables.has_ranges))
sweep_choice = where(of_tables(tables.is_swept), "results/{dataset}/sweeps/{model}.{precision}.json")
qat_checkpoint = where(of_tables(tables.has_qat), "results/{dataset}/qat/{model}.{precision}.pth")
calibration = where(has_ranges, "results/{dataset}/calibration/{model}.{precision}.json")
peer_cache = where(has_ranges, "results/{dataset}/calibration/{model}.{precision}.{target}.cache")
plan = where(has_plan, "results/{dataset}/plans/{model}.{precision}.json")
verified_model = where(has_plan, "results/{dataset}/models/{model}.json")
select = where(
    has_plan, images("select"), "results/{dataset}/data/index.json", "results/{dataset}/select/{model}.torch.npy"
)
plugin = where(has_plugin, "results/plugins/{target}.so")
engine_graph, weakly_typed_graph = map(of_tables, (tables.engine_graph, tables.weakly_typed_graph))


def fused_graph(w):
    """Return the graph that an engine is built from where its target has the plugin, or nothing."""
    return of_tables(tables.engine_graph, fused=True)(w) if has_plugin(w) else []


def normalized_graph(w):
    """Return the graph that takes normalized images, of which one that takes pixels is made."""
    return of_tables(tables.normalized_graph, fused=w.taking == "fused_pixels")(w)


def engine_cache(w):
    """Return the calibration cache that an engine is built with, or nothing where it takes none."""
    return peer_cache(w) if tables.is_implicit(w.precision, w.target) else []


def clean_graph(w):
    """Return the clean graph of the variant that an engine is built from."""
    return f"results/{w.dataset}/clean/{w.model}.{tables.graph_variant(w.precision, w.target)}.onnx"


def result_inputs(w):
    """Return the inputs of a result that its rows decide: {name: path}."""
    weights, engine = f"{w.model}.{w.precision}", f"{w.model}.{w.precision}.{w.target}"
    paths = {
        "graph": tables.engine_graph(tables.active, w.model, w.precision, w.target),
        "calibration": tables.has_ranges(w.precision) and active(f"calibration/{weights}.json"),
        "typed": tables.is_predicted(w.precision, w.target) and active(f"typed/{weights}.json"),
        "pytorch": "pytorch" in tables.row("target", w.target) and active(f"pytorch/{engine}.json"),
        "trtexec": tables.row("target", w.target)["trtexec"] and active(f"trtexec/{engine}.json"),
        "plugin": has_plugin(w) and f"results/plugins/{w.target}.json",
        "fused": has_plugin(w) and tables.engine_graph(tables.active, w.model, w.precision, w.target, fused=True),
        "dla": tables.row("precision", w.precision)["dla"] and active(f"dla/{engine}.built.json"),
    }
    return {name: path for name, path in paths.items() if path}


def candidates(path):
    """Return a function of wildcards: a path with {m}, {p}, {t} and {d}, for each precision that one chooses from."""

    def paths(w):
        dataset = getattr(w, "dataset", tables.active)
        able = tables.candidates(w.model, w.precision, w.target, dataset)
        return [path.format(d=dataset, m=w.model, p=name, t=w.target) for name in able]

    return paths


def bundled(w):
    """Return the precision of a result, or those that a choosing one chose from."""
    return tables.candidates(w.model, w.precision, w.target) if w.precision in tables.choosing() else [w.precision]


def bundled_engines(w):
    """Return the engine of a result, or those that a choosing precision chose from."""
    return [active(f"engines/{w.model}.{precision}.{w.target}.engine") for precision in bundled(w)]


def served_graphs(w):
    """Return the graphs of these engines, where Triton Inference Server loads the graph in place of the engine."""
    if tables.row("target", w.target)["runtime"] != "onnxruntime":
        return []
    return sorted({tables.engine_graph(tables.active, w.model, precision, w.target) for precision in bundled(w)})


def listed_bundles(wildcards):
    """Return the bundles of the listed results that were chosen, and the model repositories of these bundles."""
    chosen = [triple for triple in reach.reachable_results(tables) if triple[1] in tables.choosing()]
    return [active(f"{kind}/{m}.{p}.{t}.tar.gz") for m, p, t in chosen for kind in ("bundles", "triton")]


def listed_in(folder):
    """Return a function of wildcards: a folder's files of the listed results within reach; it names other targets."""
    return lambda wildcards: [f"{folder}/{m}.{p}.{t}.json" for m, p, t in reach.reachable_results(tables)]


listed_results, listed_histories = map(listed_in, ("results", "results/history"))


def listed(path, holds=lambda p, t: True, on_request=False):
    """Return a function of wildcards: the files behind the listed results that have an engine of their own.

    path: of a file of the active dataset, with {m}, {p}, {t}; holds: whether a precision and a target have it;
    on_request: whether only those that exist count, since they are made on request alone.
    """

    def paths(wildcards):
        own = [(m, p, t) for m, p, t in reach.reachable_results(tables) if p not in tables.choosing() and holds(p, t)]
        found = sorted({active(path).format(m=m, p=p, t=t) for m, p, t in own})
        return [each for each in found if os.path.exists(each)] if on_request else found

    return paths


def listed_onnx_accuracies(wildcards):
    """Return the accuracy of each listed model's exported graph, where it can be evaluated here."""
    models = [] if tables.on_device or probe.unreachable(reach.ONNX) else tables.listed("model")
    return [active(f"accuracy/{model}.onnx.json") for model in models]


def listed_dla(suffix):
    """Return a function of wildcards: the DLA-fit reports (json, svg) of listed results on a DLA; they need no device."""
    dla = [triple for triple in tables.valid(tables.listed) if tables.row("precision", triple[1])["dla"]]
    return lambda wildcards: [active(f"dla/{m}.{p}.{t}.{suffix}") for m, p, t in dla]


def every_result(wildcards):
    """Return every valid result, within reach or not."""
    return [f"results/{m}.{p}.{t}.json" for m, p, t in tables.valid(tables.names)]
