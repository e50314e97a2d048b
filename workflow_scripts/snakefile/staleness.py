"""What makes a job stale besides its options and inputs: its code, its packages, and the user's files.

Each rule gets a param `basis` with their hashes and versions. Content decides: a new mtime alone makes nothing stale,
and new content makes a job stale even under an old mtime.
"""

from __future__ import annotations

import ast
import base64
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

from configuration.tables import Tables
from core import sources
from core.files import canonical, read_json
from core.user_files import sha256_of
from snakefile import image_stamp, packages
from snakefile.params import code, user_path
from snakefile.rule_facts import is_host_built, is_training, makers
from snakefile.run_checks import stop

RECORDS = ".snakemake/metadata"  # one JSON file for each output, named by its path in base64
START = '{"code":"'  # of a basis


class Untracked:
    """A param that makes no job stale: Snakemake does not record values of a class that it does not know."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text

    def __format__(self, form):
        return format(self.text, form)


def script(name: str, others: Callable = lambda wildcards: (), sources: Iterable = (), **facts: Any) -> Callable:
    """Return a function of wildcards for a rule's input `code`: a script.

    Its modules, `others` and `sources` (paths of files that are no Python) are in the basis.
    facts: `on_host` or a `purpose`, where the rule runs (snakefile/rule_facts.py).
    """

    def path(wildcards):
        return [f"workflow_scripts/{name}"]

    vars(path).update(facts, files=lambda wildcards: [*code(name, *others(wildcards)), *sources])
    return path


def user_file(key: str, tables: Tables, rules: Any) -> Callable:
    """Return a function of wildcards for a rule's input: the path that a key of a row names, if a rule makes it.

    Any other path is a user's file. It must exist, it is no input to Snakemake, and the basis covers its content.
    key: as in config.yaml, with the kind of row in place of its table and name (`dataset.weights`).
    """
    of, (kind, rest) = user_path(key), key.split(".", 1)

    def path(wildcards):
        named = of(tables, wildcards)
        if named and _is_made(named, rules):
            return named
        if named and not tables.on_device:
            _require(named, f"{kind}s.{getattr(wildcards, kind)}.{rest}", os.path.isfile)
        return []

    vars(path).update(named=functools.partial(of, tables))
    vars(path).update(user_file=lambda w: "" if _is_made(of(tables, w), rules) else of(tables, w))
    return path


def dataset_files(tables: Tables) -> Callable:
    """Return a function of wildcards that checks that a dataset's files exist: an input without a path."""

    def check(wildcards):
        row, name = tables.row("dataset", wildcards.dataset), wildcards.dataset
        is_indexed = os.path.exists(f"results/{name}/data/seen.txt")
        for key, (path, test) in image_stamp.user_files(row, is_indexed).items():
            if path and not tables.on_device:
                _require(path, f"datasets.{name}.{key}", test)
        return []

    return check


def _require(path, key, test):
    """End Snakemake where a user's file or folder does not exist, is the other of the two, or is not readable."""
    if not os.path.exists(path):
        stop(f"{path} does not exist: correct {key} in config.yaml, or put it there")
    if not test(path):
        stop(f"{path} is a {'folder' if os.path.isdir(path) else 'file'}: correct {key} in config.yaml")
    if not os.access(path, os.R_OK):
        stop(f"{path} cannot be read by this user ({key} in config.yaml)")


def _is_made(path, rules):
    path = os.path.normpath(path)
    return path.startswith("results/") and any(makers(path, rules))


def attach(rules: Any, tables: Tables) -> None:
    """Add to each rule that runs a script the param `basis`."""
    for rule in rules:
        inputs = dict(rule.input.items())
        if "code" in inputs:
            rule.set_params(basis=_basis(rule, inputs, tables))


def _basis(rule, inputs, tables):
    if tables.on_device and is_host_built(rule):
        return lambda wildcards: recorded(str(rule.output[0].apply_wildcards(wildcards)))
    kept = is_training(rule) and not tables.config["retrain_on_upgrade"]
    versioned = is_host_built(rule) and not kept  # for a device's job, the target's identity has the version
    user_files = {name: item.user_file for name, item in inputs.items() if hasattr(item, "user_file")}

    def basis(wildcards):
        files = inputs["code"].files(wildcards)
        parts = {"code": _code(tuple(files))}
        if versioned:
            parts["packages"] = _packages(tuple(files))
        paths = {name: of(wildcards) for name, of in user_files.items()}
        contents = {name: sha256_of(path) for name, path in paths.items() if path}
        return canonical({**parts, **({"files": contents} if contents else {})})

    return basis


def record_of(path: str) -> str:
    """Return the path of Snakemake's record of a file."""
    return os.path.join(RECORDS, base64.urlsafe_b64encode(path.encode()).decode())


def recorded(path: str) -> str:
    """Return the basis that Snakemake recorded for a file, or ""."""
    record = record_of(path)
    params = read_json(record).get("params") if os.path.isfile(record) else None
    return next((ast.literal_eval(text) for text in params or () if text.startswith(repr(START)[:-1])), "")


@functools.lru_cache(maxsize=None)
def _code(paths):
    return sources.text_hash(paths)[:16]


@functools.lru_cache(maxsize=None)
def _packages(paths):
    return packages.versions(sources.tools(paths), os.environ["LEVIT_PYTHON"])
