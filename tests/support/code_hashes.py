"""The hashes of this repository's code, computed once for all jobs of a server of forks (fork_server.py)."""

import importlib.util
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


TABLE = _table()


def remembered(sources):
    """Return the `code_hash` of a folder's core/sources.py, looked up for texts that are the repository's."""
    if Path(sources.__file__).read_bytes() not in TABLE:
        return sources.code_hash
    code_hash = sources.code_hash
    return lambda path: TABLE.get(Path(path).read_bytes()) or code_hash(path)
