"""Drop the kept timings of results and time them again, here or on their board, and build the results anew.

    python workflow_scripts/retime.py results/LeViT-128S.int8_qat.cpu.json [more results] [options of snakemake]

A result's own timing is taken again, and trtexec's where its target has that; for a result that chooses (`auto`), the
finalists are timed in turns again. Nothing else is forced: engines and accuracies stay.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from core.files import UserError, one_line, read_json
from devices import result_jobs
from measure.benchmark_cache import RETIME


def timings_of(result: str, plan: result_jobs.Plan) -> list[str]:
    """Return the paths of a result's timings; raise UserError where it is of another dataset than the active one."""
    recorded = dataset_of(result)
    if recorded not in (None, plan.dataset):
        raise UserError(f"{result} is of the dataset {recorded}, config.yaml says {plan.dataset}: set `dataset` there")
    read = plan.result(result).artifacts
    return [path for job in plan.jobs if job.is_timing for path in job.outputs if path in read]


def dataset_of(result: str) -> str | None:
    """Return the name of the dataset that a result's file records, or None where there is none yet."""
    content = read_json(result) if os.path.exists(result) else {}
    dataset = content.get("dataset") if isinstance(content, dict) else None
    return dataset.get("name") if isinstance(dataset, dict) else None


def main() -> None:
    """Parse the command line and run Snakemake with the timings forced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="results/{model}.{precision}.{target}.json")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of snakemake, after the results")
    args = parser.parse_args()
    plan = result_jobs.plan(args.results)
    paths = [path for result in args.results for path in timings_of(result, plan)]
    command = [sys.executable, "-m", "snakemake", *args.options, "--forcerun", *paths, "--", *args.results]
    sys.exit(subprocess.run(command, env={**os.environ, RETIME: os.pathsep.join(paths)}).returncode)


if __name__ == "__main__":
    one_line(main)
