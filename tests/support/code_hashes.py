"""What all jobs of a server of forks (fork_server.py) share: hashes of this repository's code, and what it imports."""

import importlib.util
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow_scripts"


def _sources():
    """Return core/sources.py under a name that no script imports: a job imports that of its own folder."""
    spec = importlib.util.spec_from_file_location("_sources_of_the_repository", SCRIPTS / "core/sources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _table():
    code_hash = _sources().code_hash
    return {path.read_bytes(): code_hash(path) for path in SCRIPTS.rglob("*.py")}


def _import():
    """Import what the commands import, without the modules of the repository: a job imports those of its own folder."""
    sys.path.insert(0, str(SCRIPTS))
    before = set(sys.modules)
    for path in SCRIPTS.glob("*.py"):
        importlib.import_module(path.stem)
    sys.path.remove(str(SCRIPTS))
    for name in set(sys.modules) - before:
        paths = [getattr(sys.modules[name], "__file__", None) or "", *getattr(sys.modules[name], "__path__", [])]
        if any(path.startswith(str(SCRIPTS)) for path in paths):
            del sys.modules[name]


TABLE = _table()
_import()


def look_up():
    """Let the core/sources.py that this process imports take the hashes of texts that are the repository's."""
    from core import sources

    if Path(sources.__file__).read_bytes() in TABLE:
        code_hash = sources.code_hash
        sources.code_hash = lambda path: TABLE.get(Path(path).read_bytes()) or code_hash(path)
