"""Snakemake 9 with what it imports only while it plans, for a server of forks (fork_server.py)."""

import importlib

from snakemake import cli

LATER = (
    "argparse_dataclass",
    "dpath",
    "graphlib",
    "packaging.version",
    "PIL.Image",
    "platformdirs",
    "smart_open",
    "yte",
)
LATER += ("snakemake.profiles", "snakemake.report.html_reporter", "snakemake.storage")

for name in LATER:
    importlib.import_module(name)
cli.get_argument_parser()  # finds the plugins, and compiles regular expressions that Python then remembers
