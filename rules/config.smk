"""Check config.yaml as text, before Snakemake reads it: refuse what YAML would misread."""

import gc
import os
import sys

sys.path.insert(0, os.path.join(workflow.basedir, "workflow_scripts"))

gc.freeze()  # what Snakemake imported stays: each collection would scan it, for a fifth of a dry run
gc.set_threshold(100_000, 50, 50)

from configuration import yaml_text
from snakefile import run_checks

run_checks.one_line(yaml_text.check_all)(list(workflow.overwrite_configfiles or ()), sys.argv[1:])
