"""A copy of the workflow in a folder of its own, and what Snakemake plans and does there."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import forks

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "config.yaml", "rules", "profiles", "plugins", "workflow_scripts")
SHARED = {"workflow_scripts", "plugins"}  # folders of code
FAKE = Path(__file__).with_name("fake_interpreter.py")
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
SNAKEMAKE7 = Path(os.environ.get("LEVIT_SNAKEMAKE7") or REPOSITORY / ".venv7/bin/snakemake")
# a fixture's parameters; a test that shows that 7.32 does as 9 does, for each change, is marked ON_BOTH("fixture")
SNAKEMAKES = [pytest.param(SNAKEMAKE, id="9"), pytest.param(SNAKEMAKE7, id="7", marks=pytest.mark.slow)]
ON_BOTH = functools.partial(pytest.mark.parametrize, argvalues=[SNAKEMAKE, SNAKEMAKE7], ids=["9", "7"], indirect=True)
MODULES = {  # what each imports to plan and to run
    SNAKEMAKE: ("warm_snakemake",),
    SNAKEMAKE7: ("snakemake",),
}
HERE = ("LEVIT_", "PYTHONDONTWRITEBYTECODE")  # variables of whoever runs the tests, which a workflow does not see
OF_JOBS = ("code_hashes", "numpy", "importlib.metadata", "logging", "email.message", "pprint")


class Workflow:
    """The workflow's files in `folder`."""

    def __init__(self, folder, snakemake=SNAKEMAKE):
        self.folder, self.snakemake, self.variables = Path(folder), snakemake, {}

    @classmethod
    def fresh(cls, folder, **options):
        """Copy the repository's workflow to a new folder."""
        Workflow(pristine()).copy(folder)
        return cls(folder, **options)

    def copy(self, folder):
        """Copy this workflow with all that it built, times included; code is shared until `path` names it."""
        shutil.copytree(self.folder, folder, symlinks=True, copy_function=copied, dirs_exist_ok=True)
        return Workflow(folder, self.snakemake)

    # Editing

    def path(self, name):
        """Return a path in the folder; a file of code there is no longer shared with other copies."""
        path = self.folder / name
        if not SHARED.isdisjoint(path.parts) and path.is_file() and path.stat().st_nlink > 1:
            own = path.with_name(f"{path.name}.own")
            shutil.copy2(path, own)
            own.replace(path)
        return path

    def edit(self, name, old, new):
        """Replace the first of a text that must be in a file."""
        path = self.path(name)
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1))

    def config(self, change, sort_keys=False):
        """Let a function change the parsed config.yaml, then write it."""
        config = yaml.safe_load(self.path("config.yaml").read_text())
        changed = change(config)
        self.path("config.yaml").write_text(yaml.safe_dump(config if changed is None else changed, sort_keys=sort_keys))

    def rewrite(self, name, change):
        """Let a function change the bytes of an artifact, as its job would have: with its record."""
        path, record = self.path(name), self.path(f"{name}.provenance")
        path.write_bytes(change(path.read_bytes()))
        text = json.loads(record.read_text())
        record.write_text(json.dumps({**text, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))

    # Running

    def start(self, *arguments, **variables):
        """Start Snakemake with the fake interpreter, in a process group of its own."""
        if self.snakemake in MODULES:  # a fork of a process that has imported it
            command = [self.snakemake, *arguments]
            return forks.Fork(self.server(), command, cwd=self.folder, env=self.environment(**variables))
        return subprocess.Popen(
            [str(self.snakemake), *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def environment(self, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(HERE)}
        fake = {"LEVIT_PYTHON": str(self.interpreter()), "LEVIT_WORK": str(self.path("work.log"))}
        fake["LEVIT_FORKS"] = forks.address_of(sys.executable, *OF_JOBS)
        return {**kept, **fake, **self.variables, **variables}

    def server(self):
        """Return the address of a server of forks that has imported this workflow's Snakemake."""
        return forks.address_of(self.snakemake.with_name("python"), *MODULES[self.snakemake])

    def quick_snakemake(self):
        """Return a folder for PATH with a `snakemake` that starts as a fork."""
        folder, python = self.path("quick"), self.snakemake.with_name("python")
        folder.mkdir(exist_ok=True)
        forks.client(folder / "snakemake", self.snakemake, python=python, address=self.server())
        return folder

    def interpreter(self):
        path = self.path("fake-python")
        if not path.exists():
            forks.client(path, FAKE)
        return path

    def run(self, *arguments, **variables):
        """Run Snakemake to its end; return (status, output). A dry run prints what `jobs_of` and `reasons_of` read."""
        if not {"-n", "--dry-run"}.isdisjoint(arguments):
            variables = {"LEVIT_SNAKEMAKE_OUTPUT": "1", **variables}
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

    def plan(self, *targets, options=()):
        """Return the sorted jobs that `snakemake -n` names, as `rule wildcards`."""
        status, output = self.run("-n", *options, "--", *targets)
        assert status == 0, output
        return jobs_of(output)

    def build(self, *targets, **variables):
        """Build; return the sorted heavy work that was really done, as `command output`."""
        log = self.path("work.log")
        log.unlink(missing_ok=True)
        status, output = self.run("--quiet", "--", *targets, **variables)
        assert status == 0, output
        return self.heavy_work()

    def work_lines(self):
        """Return the lines of work.log, one of each job whose work was really done."""
        return self.path("work.log").read_text().splitlines() if self.path("work.log").exists() else []

    def heavy_work(self):
        work = [json.loads(line) for line in self.work_lines()]
        return sorted(f"{one['command']} {one['outputs'][0]}" for one in work if one["heavy"])


def copied(source, target):
    """Copy a file, or link it where it is code, as most of a workflow's files are, and on one file system."""
    if not SHARED.isdisjoint(Path(source).parts):
        with contextlib.suppress(OSError):
            return os.link(source, target)
    return shutil.copy2(source, target)


@functools.cache
def pristine():
    """Return a folder with the repository's workflow, as it was when the first test copied it."""
    folder = Path(forks.folder())
    for part in PARTS:
        source = REPOSITORY / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / part)
    return folder


@functools.cache
def command_python():
    """Return an interpreter for commands that start Snakemake: both start as forks."""
    path = Path(forks.folder()) / "python"
    snakemake = forks.address_of(sys.executable, *MODULES[SNAKEMAKE])
    jobs = forks.address_of(sys.executable, *OF_JOBS)
    forks.client(path, address=jobs, routes=[("-m snakemake", snakemake)], named=True)
    return str(path)


def jobs_of(output):
    """Return the sorted jobs of a dry run's text: `rule` and its wildcards but the dataset and the model."""
    jobs = []
    for block in re.split(r"^(?:local)?rule ", output, flags=re.MULTILINE)[1:]:
        rule = block.split(":", 1)[0]
        found = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
        wildcards = dict(pair.split("=", 1) for pair in found.group(1).split(", ")) if found else {}
        names = [value for name, value in wildcards.items() if name not in ("dataset", "model")]
        jobs.append(f"{rule} {'.'.join(names)}".strip())
    return sorted(jobs)


def reasons_of(output):
    """Return the reasons that a dry run gives, each with its parts sorted: Snakemake prints sets."""
    found = re.findall(r"^    reason: (.*)$", output, flags=re.MULTILINE)
    return sorted(sorted(re.split(r"[;,:] ", reason)) for reason in found)
