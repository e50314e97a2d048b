"""Snakemake 9 with what it imports only while it plans, for a server of forks (fork_server.py).

It has parsed the repository's rules, too: a copy of one with the same text is not parsed again.
"""

import importlib
from pathlib import Path

import yaml
from snakemake import cli, parser, workflow
from snakemake.sourcecache import LocalSourceFile

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
REPOSITORY = Path(__file__).resolve().parents[2]


class Cache:
    """What the parser reads files by."""

    sourcecache = property(lambda self: self)

    def open(self, file):
        return open(file.get_path_or_uri(secret_free=True), encoding="utf-8")


def parsed(path):
    """Return (code, rules, lines) of a file: every rule has a name, so none is named by those before it."""
    lines = {}
    return *parser.parse(LocalSourceFile(str(path)), Cache(), lines), lines


def remembered(path, workflow, linemap, overwrite_shellcmd=None, rulecount=0):
    """Parse a file, or return what was parsed of its text elsewhere."""
    with workflow.sourcecache.open(path) as stream:
        known = PARSED.get(stream.read())
    if known is None or overwrite_shellcmd:
        return parser.parse(path, workflow, linemap, overwrite_shellcmd, rulecount)
    elsewhere, code, rules, lines = known
    linemap |= lines
    return code.replace(elsewhere, path.get_path_or_uri(secret_free=True)), rulecount + rules


for name in LATER:
    importlib.import_module(name)
cli.get_argument_parser()  # finds the plugins, and compiles regular expressions that Python then remembers
yaml.FullLoader = getattr(yaml, "CFullLoader", yaml.FullLoader)  # the same, ten times as fast
PARSED = {
    path.read_text(encoding="utf-8"): (str(path), *parsed(path))
    for path in (REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk"))
}
workflow.parse = remembered
