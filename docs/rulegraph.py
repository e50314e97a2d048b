"""Draw docs/rulegraph.svg, the rules behind every result: `make rulegraph`. Needs Graphviz.

Snakemake names the rules and their edges. Graphviz removes the edges that longer paths imply and draws the rest. Fills
show the file in rules/; a bold frame marks a rule that runs on the target. Fills and lines suit light and dark pages.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/rulegraph.svg"
TARGETS = ["all", "everything"]
OTHERS = ["plans/LeViT-128S.int8_qat.json", "sweeps/LeViT-128S.int8_ptq.json"]  # of datasets with other weights
MINE = "{path: docs, classes: 10, weights: LICENSE, class_order: sorted, splits: {calib: 512, select: 10}}"
CONFIG = f"datasets={{imagenet: {{path: docs}}, mine: {MINE}}}"  # files that are there: a graph of rules reads none
RULE = re.compile(r"^rule (\w+):\n((?:[ ]+.*\n|\n(?=[ ]))*)", re.MULTILINE)
COLOURS = {  # fills that carry black text
    "data.smk": "#f2c14e",
    "checkpoints.smk": "#f29e6d",
    "onnx.smk": "#9fcf7f",
    "programs.smk": "#9fcf7f",
    "quantize.smk": "#7fc8c2",
    "plans.smk": "#8fb8ea",
    "engines.smk": "#c3a6e8",
    "accuracy.smk": "#e8a0bf",
    "benchmark.smk": "#e8a0bf",
    "dla.smk": "#d9c9a3",
    "targets.smk": "#c3a6e8",
    "results.smk": "#c8c8c8",
    "bundles.smk": "#c8c8c8",
}


def rules():
    """Return {rule: (its file in rules/, its text)}."""
    files = sorted((ROOT / "rules").glob("*.smk"))
    return {name: (path.name, body) for path in files for name, body in RULE.findall(path.read_text(encoding="utf-8"))}


def graph():
    """Return ([rule], [(rule, rule that reads its output)]) of every result and each source of weights."""
    others = [f"results/{dataset}/{path}" for dataset in ("imagenet", "mine") for path in OTHERS]
    command = [Path(sys.executable).with_name("snakemake"), "--rulegraph", "dot", "--config", CONFIG, "--"]
    done = subprocess.run([*command, *TARGETS, *others], cwd=ROOT, capture_output=True, text=True, check=True)
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', done.stdout))
    pairs = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", done.stdout)}
    return sorted(set(names.values()).difference(TARGETS)), sorted(p for p in pairs if not set(p) & set(TARGETS))


def node(name, file, body):
    """Return a rule's node in Graphviz's language."""
    width = 2.5 if "device_code(" in body else 0.5
    return f'{name} [fillcolor="{COLOURS[file]}", penwidth={width}];'


def source():
    """Return the graph in Graphviz's language."""
    (names, pairs), texts = graph(), rules()
    style = (
        'graph [bgcolor=transparent, ranksep=0.35, nodesep=0.2]; edge [color="#808080", arrowsize=0.6];'
        'node [shape=box, style="rounded,filled", color="#808080", fontname="Helvetica", fontsize=11, height=0.3];'
    )
    lines = [style, *(node(name, *texts[name]) for name in names), *(f"{a} -> {b};" for a, b in pairs)]
    return "\n".join(["digraph rules {", *lines, "}\n"])


def main():
    reduced = subprocess.run(["tred"], input=source(), capture_output=True, text=True, check=True).stdout
    subprocess.run(["dot", "-Tsvg", "-o", PICTURE], input=reduced, text=True, check=True)


if __name__ == "__main__":
    main()
