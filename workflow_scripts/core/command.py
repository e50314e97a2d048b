"""What every command line here shares: declared inputs, outputs and parameters, the store, errors of one line.

A command declares each argument as an input file, an output file, a parameter or untracked. `Command.run` makes the
store's key from these declarations (so no input can be forgotten in it), checks the inputs against their records, hands
the work a `Job` whose outputs are partial paths, renames these when the work is done, and writes the record of each
output beside it (core/provenance.py).
"""

from __future__ import annotations

import argparse
import atexit
import fcntl
import gc
import json
import logging
import os
import platform
import signal
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence

from core import provenance, resolved, sources, spinning, tiers, trained
from core.files import UserError, canonical, describe, digest_of, partial_of, sha256_file
from core.store import Store
from core.user_files import sha256_of

log = logging.getLogger("levit")


def tool_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return {distribution: installed version or None}, with Python's major.minor version."""
    versions: dict[str, str | None] = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


class Job(argparse.Namespace):
    """The parsed arguments of a command and what else its work may ask; an output's attribute is its partial path."""

    def __init__(self) -> None:
        super().__init__()
        self._finals, self._parts = {}, {}

    @property
    def key(self) -> str:
        """Return a hash of everything that decides the outputs, the versions of tools included."""
        return digest_of(self._parts)

    def key_without(self, name: str) -> str:
        """Return the hash of everything that decides the outputs but one property of the machine."""
        context = {other: value for other, value in self.context.items() if other != name}
        return digest_of({**self._parts, "context": context})

    @property
    def context(self) -> dict[str, Any]:
        """The machine's properties that decide the outputs; what the work adds is recorded, under the same key."""
        return self._parts["context"]

    @property
    def code(self) -> str:
        """Return a hash of the command's code and of the versions of its tools."""
        return digest_of([self._parts["code"], self._parts["tools"]])

    def final(self, name: str) -> str:
        """Return the path that an output has once the work is done; name: the output's attribute."""
        return self._finals[name]

    def _begin(self, outputs, parts):
        """Set what decides the outputs, and replace their paths with partial ones; return the partial paths."""
        self._parts, self._finals = parts, {name: getattr(self, name) for name in outputs}
        for path in self._finals.values():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        partials = {name: partial_of(path) for name, path in self._finals.items()}
        vars(self).update(partials)
        return partials


class Command:
    """A command line that declares the role of each of its arguments."""

    def __init__(
        self,
        script: str,
        doc: str | None,
        tools: Iterable[str] = (),
        heavy: bool = False,
        trained: bool = False,
        modules: Callable[[Job], list[str]] | None = None,
        context: Callable[[Job], Any] | None = None,
        timed: bool = False,
    ) -> None:
        """Describe a command.

        script: its __file__; doc: its docstring; tools: distributions whose versions change the outputs;
        heavy: whether outputs are stored; trained: whether outputs that other versions of the tools wrote may come from
        the store, with these versions in their record (unless config.yaml sets `retrain_on_upgrade`); modules: scripts
        that the command loads by name; context: JSON value of the machine's properties that decide the outputs
        (threads, device); timed: whether it measures time, and so keeps the runtimes' own spinning.
        """
        self.script, self.tools, self.heavy, self.modules = Path(script), tools, heavy, modules
        self.trained, self.timed, self.context = trained, timed, context or (lambda args: {})
        self.parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.parser.add_argument("--log", help="also write log lines and tracebacks to this file")
        self.inputs, self.outputs, self.params, self.contents, self.foreign = [], [], [], {}, set()

    def _add(self, kind, flag, **options):
        kind.append(self.parser.add_argument(flag, **options).dest)
        return self

    def input(self, flag: str, **options: Any) -> Command:
        """Declare an input file, or several with `nargs="*"`; `required=False` if it may be absent.

        content: function of the job that returns the part of the file that decides the outputs, as a JSON value;
        without it, every byte does. foreign: True for a file of the user or of the code, which has no record.
        """
        content, foreign = options.pop("content", None), options.pop("foreign", False)
        options.setdefault("required", options.get("nargs") is None)
        self._add(self.inputs, flag, **options)
        if content:
            self.contents[self.inputs[-1]] = content
        if foreign:
            self.foreign.add(self.inputs[-1])
        return self

    def model(self, keys: Sequence[str], **options: Any) -> Command:
        """Declare a resolved model (resolve.py), of which only the values of `keys` decide the outputs."""

        def content(args):
            return resolved.read(args.model, keys) if args.model else None

        return self.input("--model", help="JSON of resolve.py", content=content, **options)

    def output(self, flag: str, **options: Any) -> Command:
        """Declare an output file."""
        return self._add(self.outputs, flag, required=True, **options)

    def param(self, flag: str, **options: Any) -> Command:
        """Declare a parameter that changes the outputs."""
        return self._add(self.params, flag, **options)

    def json_param(self, flag: str, **options: Any) -> Command:
        """Declare a parameter given as JSON text; the job holds the parsed value."""
        return self.param(flag, type=json.loads, required=True, **options)

    def untracked(self, flag: str, **options: Any) -> Command:
        """Declare an argument that does not change the outputs (threads, device): it is not part of the key."""
        self.parser.add_argument(flag, **options)
        return self

    def training(self) -> Command:
        """Declare what every training takes: its model, classes and seed, and what it runs on."""
        self.model(resolved.AUGMENTED).param("--classes", type=int, required=True)
        self.param("--seed", type=int, required=True)
        self.untracked("--threads", type=int, default=0, help="CPU threads (0: all cores)")
        self.untracked("--device", default="auto", help="auto, cpu or cuda")
        return self.untracked("--processes", type=int, default=0, help="that share a batch; 0: all that help")

    def whole_inputs(self, args: Job) -> dict[str, list[str]]:
        """Return {name: paths} of the present inputs of which every byte decides the outputs."""
        several = {name: _paths(args, name) for name in self.inputs if name not in self.contents}
        return {name: paths for name, paths in several.items() if paths}

    def key_parts(self, args: Job) -> dict[str, Any]:
        """Return everything that decides the outputs, as a JSON value."""
        hashes = {name: [sha256_of(path) for path in several] for name, several in self.whole_inputs(args).items()}
        parsed = {name: content for name, content in self.contents.items() if getattr(args, name)}
        hashes.update({name: [digest_of(content(args))] for name, content in parsed.items()})
        named = self.modules(args) if self.modules else []
        code = sources.closure(self.script.name, *(name for name in named if (sources.ROOT / name).is_file()))
        return {
            "command": self.script.stem,
            "inputs": hashes,
            "params": {name: json.loads(canonical(getattr(args, name))) for name in self.params},
            "code": {str(path.relative_to(sources.ROOT)): sources.code_hash(path) for path in code},
            "context": self.context(args),
            "tools": tool_versions(self.tools),
        }

    def keys(self, parts: dict[str, Any], descent: str | None = None) -> list[str]:
        """Return the store's keys: a hash of the parts; for a trained output one without tools, and its descent."""
        if not self.trained or os.environ.get("LEVIT_RETRAIN"):
            return [digest_of(parts)]
        lasting = {name: part for name, part in parts.items() if name != "tools"}
        return list(dict.fromkeys(filter(None, (digest_of(lasting), descent))))

    def run(self, work: Callable[[Job], None], argv: Sequence[str] | None = None) -> None:
        """Parse the arguments, then fetch the outputs or let `work(job)` write them; exit with a status."""
        job = self.parser.parse_args(argv, Job())
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        atexit.register(gc.freeze)  # else the process visits each object of torch before it ends: 0.7 s
        try:
            _log_to(job.log)
            if not self.timed:
                spinning.reduce()
            timing = os.environ.get("LEVIT_TIMING") if self.timed else None
            self._held = hold(os.environ.get("LEVIT_JOBS")), hold(timing)
            self._run(work, job)
        except KeyboardInterrupt:
            sys.exit(130)
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            _fail(describe(error), error)
        except Exception as error:
            problem = f"{self.script.name}: {type(error).__name__}: {str(error).strip() or 'no message'}"
            _fail(problem + self._doubts(job), error)

    def _doubts(self, args):
        """Return a hint that names the inputs without a record, which may have caused an unexpected error."""
        paths = [path for name in self.inputs for path in _paths(args, name)]
        doubtful = [path for path in paths if not os.path.exists(provenance.beside(path))]
        return f" (no record says what wrote {', '.join(doubtful)}: delete it and run again)" if doubtful else ""

    def _run(self, work, job):
        lineage, parts = provenance.lineage(self._check_inputs(job)), self.key_parts(job)
        descent = trained.descent(parts, self.whole_inputs(job))
        keys, partials = self.keys(parts, descent), job._begin(self.outputs, parts)
        try:
            entry = self._fetch(keys, partials) or self._work(work, job, parts, partials, keys)
            decided = {"code": digest_of(parts["code"]), "descent": descent, "lineage": lineage}
            versions = {"versions": entry["parts"]["tools"], "context": entry["parts"]["context"]}
            record = {"command": self.script.stem, "key": keys[0], "trained": self.trained, **decided, **versions}
            _publish(partials, job._finals, entry["outputs"], record)
        finally:
            for path in partials.values():
                if os.path.exists(path):
                    os.unlink(path)

    def _work(self, work, job, parts, partials, keys):
        """Do the work, or adopt what an earlier version of this project trained; store it; return its manifest."""
        versions = trained.adopt(job._finals, partials) if self.trained else None
        if versions is None:
            work(job)
        else:
            parts.update(tools={**dict.fromkeys(self.tools), **versions}, context={})
        store = tiers.default() if self.heavy else None
        if store:
            for key in keys:
                store.keep(key, partials, parts)
        return {"outputs": {name: sha256_file(path) for name, path in partials.items()}, "parts": parts}

    def _fetch(self, keys, partials):
        """Fetch the outputs from the first store that has one of the keys; return the entry's manifest, or None."""
        shared = tiers.default() if self.heavy else None
        stores = [store for store in (shared, Store(trained.FOLDER) if self.trained else None) if store]
        for key in keys:
            for entry in (store.fetch(key, partials) for store in stores):
                if entry:
                    log.info("%s: from the store (%s)", self.script.stem, key[:12])
                    return entry
        return None

    def _check_inputs(self, args):
        paths = [(name, path) for name in self.inputs for path in _paths(args, name)]
        for name, path in paths:
            if not os.path.exists(path):
                raise UserError(f"--{name.replace('_', '-')} {path}: no such file")
        artifacts = [path for name, path in paths if name not in self.foreign]
        return dict(zip(artifacts, provenance.check_all(artifacts)))


def engine_command(script: str, doc: str, heavy: bool = False, timed: bool = False) -> Command:
    """Return a command that loads a runtime: with the runtime's name, its recipe, and the identity of its target."""
    c = Command(script, doc, heavy=heavy, timed=timed, modules=lambda args: [f"runtimes/{args.runtime}.py"])
    c.param("--runtime", required=True, help="a file of runtimes/")
    c.input("--plugin", nargs="?", required=False, help="library of build_plugin.py, empty where there is no plugin")
    return c.json_param("--recipe", help="JSON").json_param("--identity", help="JSON")


def plugin_hash(args: Job) -> str | None:
    """Return the SHA-256 of the plugin that a command of `engine_command` is given, or None."""
    return sha256_file(args.plugin) if args.plugin else None


def _paths(args, name):
    value = getattr(args, name)
    return value if isinstance(value, list) else [value] if value else []


def _publish(partials, finals, hashes, record):
    provenance.take({partials[name]: path for name, path in finals.items()})
    for name, path in finals.items():
        provenance.write(path, {**record, "sha256": hashes[name]})


def hold(path: str | None) -> Any:
    """Take a shared lock for the life of this job; no run starts while a job holds it (snakefile/run_checks.py)."""
    if not path or not Path(path).parent.is_dir():
        return None
    stream = open(path, "a+")  # noqa: SIM115 (held until this process ends; NFS locks to share only what can be read)
    fcntl.flock(stream, fcntl.LOCK_SH)
    return stream


class _LogFile(logging.FileHandler):
    """A log whose lines go to stderr where its disk is full."""

    def handleError(self, record):
        print(self.format(record), file=sys.stderr)


def _log_to(path):
    log.setLevel(logging.INFO)
    log.propagate = False
    if not (path and os.environ.get("LEVIT_LOG_ONLY")):  # then snakefile/job_lines.py prints what matters
        _add(logging.StreamHandler(sys.stderr))
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, mode="w", encoding="utf-8")
        handler.stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names may be no text
        _add(handler)


class _Lines(logging.Formatter):
    """Lines that start with `warning: ` or `error: ` where they are one, by which snakefile/job_lines.py knows them."""

    def format(self, record):
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return level + super().format(record)


def _add(handler):
    handler.setFormatter(_Lines())
    log.addHandler(handler)


def _fail(text, error=None):
    """Print one line, write the traceback to the log file alone, and exit with status 1."""
    if not log.handlers:  # the log cannot be written
        _add(logging.StreamHandler(sys.stderr))
    log.error(" ".join(text.split()))
    for handler in log.handlers:
        if error is not None and isinstance(handler, logging.FileHandler):
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            handler.stream.write("".join(lines))  # type: ignore[union-attr]
    logging.shutdown()
    sys.exit(1)
