"""Drop the kept timings of results and time them again, here or on their board, and make the results anew.

    python workflow_scripts/retime.py results/LeViT-128S.int8_qat.cpu.json [more results] [options of snakemake]

Of a result its own timing is taken again, and trtexec's where its target has that; of one that chooses (`auto`) the
finalists are timed in turns again. Nothing else is forced: engines and accuracies stay.
"""

import argparse
import os
import subprocess
import sys

from core.files import UserError, one_line, read_json
from device_kit import names_of, tables_of
from measure.kept import AGAIN


def timings_of(result, tables):
    """Return the paths of a result's timings; raise UserError where it is of another dataset than the active one."""
    names = names_of(result, tables)
    recorded = dataset_of(result)
    if recorded not in (None, names.dataset):
        raise UserError(f"{result} is of the dataset {recorded}, config.yaml says {names.dataset}: set `dataset` there")
    chooses = names.precision in tables.choosing()
    timed = ["benchmark"] + (["trtexec"] if tables.has_trtexec(names.target) else [])
    label = f"{names.model}.{names.precision}.{names.target}"
    return [f"results/{names.dataset}/{kind}/{label}.json" for kind in (["paired_benchmark"] if chooses else timed)]


def dataset_of(result):
    """Return the name of the dataset that a result's file records, or None where there is none yet."""
    found = read_json(result) if os.path.exists(result) else {}
    dataset = found.get("dataset") if isinstance(found, dict) else None
    return dataset.get("name") if isinstance(dataset, dict) else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="results/{model}.{precision}.{target}.json")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of snakemake, after the results")
    args = parser.parse_args()
    try:
        tables = tables_of()
        paths = [path for result in args.results for path in timings_of(result, tables)]
    except UserError as problem:
        sys.exit(f"error: {problem}")
    command = [sys.executable, "-m", "snakemake", *args.options, "--forcerun", *paths, "--", *args.results]
    sys.exit(subprocess.run(command, env={**os.environ, AGAIN: os.pathsep.join(paths)}).returncode)


if __name__ == "__main__":
    one_line(main)
