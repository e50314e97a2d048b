"""What the rules share: the checked tables, and functions of wildcards over them."""

import functools
import os
import re
import shlex
import sys

from configuration import checks
from configuration.tables import SCORED
from core import trained
from devices import reach
from snakefile import device_site
from snakefile import job_list
from snakefile import params as slices
from snakefile import run_checks
from snakefile import staleness
from snakefile.params import AUGMENTATION, BUILDING, FACTS, PLANNING, PROFILING, TIMING, TRAINING, VERIFICATION
from snakefile.params import dataset, graph, model, precision, seed, target

tables = run_checks.one_line(checks.load)(config, os.path.join(workflow.basedir, "rules/schemas/config.schema.yaml"))
options = functools.partial(slices.options, tables)
device_options = functools.partial(options, runtime=target.runtime, identity=slices.runtime_identity)
dataset_files = staleness.dataset_files(tables)
CHOOSING = "|".join(map(re.escape, tables.choosing())) or "(?!)"  # a constraint: precisions that choose an engine
EVERY_CORE = workflow.cores or os.cpu_count()  # of jobs that run alone; threads never make a job stale
BOARDS = {f"board_{names[0]}": lambda w, names=names: int(w.target in names) for names in reach.boards(tables).values()}
workflow.global_resources.update(dict.fromkeys(BOARDS, 1))  # one job at a time on each board that is reached by ssh
os.environ.update(reach.environment(tables, sys.executable))


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    model="[A-Za-z0-9_-]+",
    precision=rf"(?!(?:{CHOOSING})\.)[A-Za-z0-9_-]+",  # a precision that chooses has results and no other artifacts
    target="[A-Za-z0-9_]+",
    graph="[A-Za-z0-9_-]+",
    split="calib|select|val",
    scores="|".join(SCORED),  # a folder of scores


def active(path):
    """Return a path under the active dataset's folder."""
    return f"results/{tables.active}/{path}"


def host_code(script, *others):
    """Return a rule's input `code`: the script of a job on the host, `others` being what it loads by name."""
    return staleness.script(script, lambda wildcards: others, on_host=True)


def result_code(script):
    """Return the same of a script that gathers results, on the host and on devices alike."""
    return staleness.script(script)


def device_code(script, purpose="run"):
    """Return the same of a script that loads its target's runtime, there, to `build` or `run` engines."""
    return staleness.script(script, lambda wildcards: [tables.runtime_file(wildcards.target)], purpose=purpose)


def device_cores(w):
    """Return a job's threads on this machine: all cores, or one if the job runs on a board."""
    return 1 if reach.board(tables, w.target) else EVERY_CORE


def on_device(wildcards, input, output):
    """Return the start of a target's command line: its interpreter, or the command that runs the job on its board.

    Takes `input`, so Snakemake treats the value as derived: a board's address makes no artifact stale.
    """
    if not reach.board(tables, wildcards.target):
        return staleness.Untracked(f'"$LEVIT_PYTHON_{wildcards.target}"')
    needed = [*input, *staleness.modules(input.code[0], tables.runtime_file(wildcards.target))]
    files = [" ".join(shlex.quote(str(path)) for path in several) for several in (needed, output)]
    start = f'"$LEVIT_PYTHON" workflow_scripts/run_on_board.py --board "$LEVIT_BOARD_{wildcards.target}"'
    return staleness.Untracked(f"{start} --inputs {files[0]} --outputs {files[1]} --")


def dataset_code(script):
    """Return the same of a script that loads the one that writes a builtin dataset."""
    return staleness.script(script, lambda wildcards: tables.builtin_files(wildcards.dataset), on_host=True)


def user_file(key):
    """Return a rule's input of a path that a key of a row names; the user's own files count by their content."""
    return staleness.user_file(key, tables, workflow.rules)


def user_path(key):
    """Return that path as a param that decides nothing, or "" where the row names none."""
    return lambda wildcards: staleness.Untracked(slices.user_path(key)(tables, wildcards))


def images(split):
    """Return the images of a split as the model looks at them."""
    return f"results/{{dataset}}/data/{{model}}.{split}.u8"


def scored_images(w):
    """Return the images that the scores in a folder are of."""
    return f"results/{w.dataset}/data/{w.model}.{SCORED[w.scores]}.u8"


def proof_images(w):
    """Return the images that a folded network is compared on: of calib, or of the split that there is."""
    return f"results/{w.dataset}/data/{w.model}.{tables.proving_split(w.dataset)}.u8"


def datasets_with(*sources):
    """Return a constraint that only datasets with one of these sources of weights meet."""
    return "|".join(re.escape(name) for name in tables.names("dataset") if tables.source(name) in sources) or "(?!)"


def sweep_choice(w):
    """Return the sweep that chooses a precision's calibration, or nothing where its row says all."""
    return f"results/{w.dataset}/sweeps/{w.model}.{w.precision}.json" if tables.is_swept(w.precision) else []


def qat_checkpoint(w):
    """Return the quantization-aware checkpoint, or nothing where the precision has none."""
    return f"results/{w.dataset}/qat/{w.model}.{w.precision}.pth" if tables.has_qat(w.precision) else []


def calibration(w):
    """Return the ranges of a precision's quantizers, or nothing where it has none."""
    path = f"results/{w.dataset}/calibration/{w.model}.{w.precision}.json"
    return path if tables.is_calibrated(w.precision) else []


def plan(w):
    """Return the plan of a precision, or nothing where it has no fallback."""
    return f"results/{w.dataset}/plans/{w.model}.{w.precision}.json" if tables.has_plan(w.precision) else []


def select(w):
    """Return the select split's images, index and FP32 logits, which an engine is held to where it has a plan."""
    folder = f"results/{w.dataset}"
    reference = f"{folder}/select/{w.model}.torch.npy"
    files = [f"{folder}/data/{w.model}.select.u8", f"{folder}/data/index.json", reference]
    return files if tables.has_plan(w.precision) else []


def held_model(w):
    """Return the file of a model whose engine is held to a plan on the select split, or nothing without a plan."""
    return f"results/{w.dataset}/models/{w.model}.json" if tables.has_plan(w.precision) else []


def weakly_typed_graph(w):
    """Return the graph that the strongly typed one is made from."""
    return tables.weakly_typed_graph(w.dataset, w.model, w.precision)


def engine_graph(w):
    """Return the graph that an engine is built from."""
    return tables.engine_graph(w.dataset, w.model, w.precision, w.target)


def peer_cache(w):
    """Return the calibration cache of an INT8 precision, whatever its engine takes, or nothing."""
    calibrated = tables.is_calibrated(w.precision)
    return f"results/{w.dataset}/calibration/{w.model}.{w.precision}.{w.target}.cache" if calibrated else []


def engine_cache(w):
    """Return the calibration cache that an engine is built with, or nothing where its graph says all."""
    return peer_cache(w) if tables.is_implicit(w.precision, w.target) else []


def clean_graph(w):
    """Return the clean graph of the class that a target's engine is built from."""
    return f"results/{w.dataset}/clean/{w.model}.{tables.graph_variant(w.precision, w.target)}.onnx"


def result_graph(w):
    """Return the graph that the active dataset's engine is built from."""
    return tables.engine_graph(tables.active, w.model, w.precision, w.target)


def optional_inputs(w):
    """Return the optional inputs of a result: {name: path}."""
    weights, engine = f"{w.model}.{w.precision}", f"{w.model}.{w.precision}.{w.target}"
    paths = {
        "calibration": tables.is_calibrated(w.precision) and active(f"calibration/{weights}.json"),
        "typed": tables.is_predicted(w.precision, w.target) and active(f"typed/{weights}.json"),
        "trtexec": tables.has_trtexec(w.target) and active(f"trtexec/{engine}.json"),
        "dla": tables.is_dla(w.precision) and active(f"dla/{engine}.built.json"),
    }
    return {name: path for name, path in paths.items() if path}


def candidates(path):
    """Return a function of wildcards: a path with {m}, {p}, {t} and perhaps {d} for each precision one chooses from."""

    def paths(w):
        dataset = getattr(w, "dataset", tables.active)
        able = tables.candidates(w.model, w.precision, w.target, dataset)
        return [path.format(d=dataset, m=w.model, p=name, t=w.target) for name in able]

    return paths


def as_flags(wildcards, input):
    """Return a rule's inputs but its code as `--name=path`: empty where there is no such file."""
    files = {name: path for name, path in input.items() if name != "code"}
    return staleness.Untracked(" ".join(f"--{name}={shlex.quote(str(path))}" for name, path in files.items()))


def listed_results(wildcards):
    """Return the results that config.yaml lists for targets within reach; name the others on stderr."""
    return [f"results/{m}.{p}.{t}.json" for m, p, t in reach.reachable_results(tables)]


def listed_plans(wildcards):
    """Return the plans behind the listed results."""
    planned = {(m, p) for m, p, _ in reach.reachable_results(tables) if tables.has_plan(p)}
    return [active(f"plans/{model}.{precision}.json") for model, precision in sorted(planned)]


def listed_bisects(wildcards):
    """Return the bisections of listed results that somebody asked for: those that are there."""
    paths = [active(f"bisect/{m}.{p}.{t}.json") for m, p, t in reach.reachable_results(tables) if tables.has_plan(p)]
    return [path for path in paths if os.path.exists(path)]


def listed_onnx_accuracies(wildcards):
    """Return the accuracy of each listed model's exported graph."""
    return [active(f"accuracy/{model}.onnx.json") for model in reach.onnx_models(tables)]


def listed_dla_reports(wildcards):
    """Return the DLA-fit reports of the listed results that are for a DLA: they need no device."""
    return [active(f"dla/{m}.{p}.{t}.json") for m, p, t in tables.valid(tables.listed) if tables.is_dla(p)]


def every_result(wildcards):
    """Return all results that make sense, here or anywhere."""
    return [f"results/{m}.{p}.{t}.json" for m, p, t in tables.valid(tables.names)]
