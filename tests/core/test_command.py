"""Command lines and the store: complete keys, whole files, one line for a user's problem."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from core import command, provenance, sources
from core.files import UserError, read_json, replacing, sha256_file, write_json
from core.sources import closure, code_hash
from core.store import MANIFEST, Store

TOOL = '''"""A command for tests."""
from core.command import Command, log
from core.files import UserError
import helper

def run(args):
    text = open(args.text).read() + helper.suffix() + str(args.times)
    if args.mode == "user": raise UserError("the bread is stale:\\nbuy some")
    if args.mode == "bug": raise KeyError("nope")
    if args.mode == "full": raise OSError(28, "No space left on device", args.copy)
    with open(args.copy, "w") as stream:
        stream.write(text)
        stream.flush()
        if args.mode == "slow":
            import time
            time.sleep(60)
    log.info("worked")

def command():
    c = Command(__file__, __doc__, tools=("numpy",), heavy=True)
    c.input("--text").input("--extra", nargs="*", default=[]).param("--times", type=int, default=1)
    return c.output("--copy").untracked("--mode", default="")

if __name__ == "__main__":
    command().run(run)
'''


@pytest.fixture
def folder(tmp_path):
    for path in closure("core/command.py"):
        (tmp_path / path.relative_to(sources.ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / path.relative_to(sources.ROOT))
    (tmp_path / "tool.py").write_text(TOOL)
    (tmp_path / "helper.py").write_text("def suffix():\n    return '!'\n")
    (tmp_path / "in.txt").write_text("hello")
    return tmp_path


def run(folder, *args, store="store", **options):
    environment = {**os.environ, "LEVIT_STORE": str(folder / store) if store else "", **options.pop("variables", {})}
    command = [sys.executable, "tool.py", "--text", "in.txt", "--copy", "out.txt", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, **options)


@pytest.mark.parametrize("options, spins", [("", "0"), (", timed=True", "")])
def test_only_a_timed_command_keeps_spinning(folder, options, spins):
    (folder / "helper.py").write_text("import os\ndef suffix():\n    return os.environ.get('LEVIT_SPIN', '')\n")
    (folder / "tool.py").write_text(TOOL.replace(", heavy=True", options))
    assert run(folder).returncode == 0
    assert (folder / "out.txt").read_text() == f"hello{spins}1"


def worked(folder, *args):
    """Return whether the command did its work (else the store had it); its output must be there either way."""
    (folder / "out.txt").unlink(missing_ok=True)
    done = run(folder, *args)
    assert done.returncode == 0 and (folder / "out.txt").is_file(), done.stderr
    return "worked" in done.stderr


def test_equal_work_is_fetched_and_any_difference_is_not(folder):
    assert worked(folder)
    text = (folder / "out.txt").read_text()
    assert not worked(folder) and (folder / "out.txt").read_text() == text
    assert not worked(folder, "--mode=anything")  # a setting decides nothing about the output
    assert worked(folder, "--times=2") and not worked(folder, "--times=2")
    assert worked(folder, "--extra", "helper.py")
    (folder / "in.txt").write_text("other")
    assert worked(folder) and not worked(folder)


@pytest.mark.parametrize(
    ("code", "again"),
    [
        ("# why\ndef suffix():\n    return '!'\n", False),
        ('"""Doc."""\ndef suffix():\n    """Doc."""\n\n    return "!"  # so\n', False),
        ("def suffix():\n    return '?'\n", True),
    ],
    ids=["comment", "docstring", "meaning"],
)
def test_only_code_that_means_something_else_is_run_again(folder, code, again):
    assert worked(folder)
    (folder / "helper.py").write_text(code)
    assert worked(folder) == again


def test_a_docstring_alone_and_pass_mean_different_functions(tmp_path):
    for name, text in (("a", 'def f():\n    "doc"\n'), ("b", "def f():\n    return 1\n")):
        (tmp_path / name).write_text(text)
    assert code_hash(tmp_path / "a") != code_hash(tmp_path / "b")


def record(folder):
    return read_json(folder / "out.txt.provenance")


def test_an_output_has_a_record_also_where_the_store_gave_it(folder):
    assert worked(folder)
    made = record(folder)
    assert made["sha256"] == sha256_file(folder / "out.txt") and made["command"] == "tool" and made["context"] == {}
    assert set(made["versions"]) == {"python", "numpy"} and len(made["key"]) == len(made["code"]) == 64
    (folder / "out.txt.provenance").unlink()
    assert not worked(folder) and record(folder) == made
    done = run(folder, "--times=2", store=None)
    assert done.returncode == 0 and record(folder)["key"] != made["key"] and record(folder)["code"] == made["code"]


def test_an_input_that_another_wrote_than_its_record_says_is_refused(folder):
    assert worked(folder)
    kept = os.stat(folder / "out.txt")
    (folder / "out.txt").write_text("olleh!1")
    os.utime(folder / "out.txt", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    done = subprocess.run(
        [sys.executable, "tool.py", "--text", "out.txt", "--copy", "next.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not (folder / "next.txt").exists() and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: out.txt is not what tool wrote (its bytes have changed since): delete it")


def test_a_record_tells_of_all_that_its_output_was_made_of(folder):
    assert worked(folder) and record(folder)["lineage"] == {} and record(folder)["trained"] is False
    for source, made in (("out.txt", "second.txt"), ("second.txt", "third.txt")):
        command = [sys.executable, "tool.py", "--text", source, "--copy", made]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    found = read_json(folder / "third.txt.provenance")["lineage"]
    assert list(found) == ["out.txt", "second.txt"] and found["out.txt"]["versions"] == record(folder)["versions"]


def test_what_took_training_comes_from_the_store_with_the_versions_that_made_it(folder):
    """`retrain_on_upgrade` asks for it anew."""
    (folder / "tool.py").write_text(TOOL.replace("heavy=True", "heavy=True, trained=True"))
    assert worked(folder)
    manifest = next((folder / "store").rglob(MANIFEST))
    kept = read_json(manifest)
    kept["parts"]["tools"]["numpy"] = "0.1"
    write_json(manifest, kept)
    assert not worked(folder) and record(folder)["versions"]["numpy"] == "0.1" and record(folder)["trained"]
    done = run(folder, variables={"LEVIT_RETRAIN": "1"})
    assert "worked" in done.stderr and record(folder)["versions"]["numpy"] != "0.1"


@pytest.mark.parametrize("what", ["trained", "context"])
def test_what_decides_the_key(folder, what):
    """Versions are not part of the key of what took training, the machine's context always is."""
    options = {"trained": what == "trained", "context": lambda args: {"threads": 2}}
    c = command.Command(__file__, "doc", tools=("numpy",), **options)
    parts = {"tools": {"numpy": "1"}, "context": {"threads": 2}, "command": "x"}
    same = c.keys({**parts, "tools": {"numpy": "2"}}) == c.keys(parts)
    assert same == (what == "trained") and c.keys({**parts, "context": {"threads": 1}}) != c.keys(parts)


def test_no_moment_of_a_kill_leaves_a_record_of_other_bytes(folder, monkeypatch):
    """Every step of giving names can be the last: what is there then has its own record or none."""
    monkeypatch.chdir(folder)
    steps = ["provenance.forget", "os.replace", "provenance.write"]
    for last in range(len(steps)):
        (folder / "a").write_text("old")
        provenance.write("a", {"sha256": sha256_file("a")})
        (folder / "a.partial").write_text("new")
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(f"core.command.{steps[last]}", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            command._publish({"a": "a.partial"}, {"a": "a"}, {"a": sha256_file("a.partial")}, {})
        provenance.check("a")


def test_a_damaged_entry_is_made_again(folder):
    assert worked(folder)
    stored = next(path for path in (folder / "store").rglob("*") if path.name == "copy")
    stored.write_text("damaged")
    assert worked(folder) and not worked(folder)


def test_a_full_store_does_not_cost_the_work(folder):
    (folder / "store").write_text("a file where the folder should be")
    done = run(folder)
    assert done.returncode == 0 and "nothing is stored" in done.stderr and (folder / "out.txt").exists()


@pytest.mark.parametrize(
    ("mode", "line"),
    [
        ("user", "error: the bread is stale: buy some"),
        ("bug", "error: tool.py: KeyError: 'nope'"),
        ("full", "error: no space left on the device while writing out.txt.partial: free some (.cache/ is safe"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(folder, mode, line):
    done = run(folder, f"--mode={mode}", "--log", "log/tool.log")
    assert done.returncode == 1 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert not list(folder.glob("out.txt*"))
    assert ("Traceback" in (folder / "log/tool.log").read_text()) == (mode != "user")


def test_a_missing_input_is_named(folder):
    (folder / "in.txt").unlink()
    assert run(folder).stderr == "error: --text in.txt: no such file\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_no_output_and_the_next_completes(folder, number):
    command = [sys.executable, "tool.py", "--text", "in.txt", "--copy", "out.txt", "--mode=slow"]
    process = subprocess.Popen(command, cwd=folder)
    while not (folder / "out.txt.partial").exists():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait() != 0 and not (folder / "out.txt").exists()
    assert worked(folder) and not (folder / "out.txt.partial").exists()


def test_pruning_keeps_what_was_used_last(tmp_path):
    store, made = Store(tmp_path / "store"), tmp_path / "made"
    made.write_bytes(b"x" * 1000)
    for number in range(4):
        store.put(f"{number:064x}", {"made": made}, {"command": "test"})
        os.utime(store.entry(f"{number:064x}"), (number, number))
    assert store.fetch(f"{0:064x}", {"made": tmp_path / "again"})  # now the last used
    size = store.entries()[0].size
    assert store.prune(2 * size) == [f"{1:064x}", f"{2:064x}"]
    assert {entry.key for entry in store.entries()} == {f"{0:064x}", f"{3:064x}"}


def test_an_entry_is_whole_or_not_there(tmp_path, monkeypatch):
    store, made = Store(tmp_path / "store"), tmp_path / "made"
    made.write_bytes(b"x")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("core.store.write_json", full)
    with pytest.raises(OSError):
        store.put("0" * 64, {"made": made}, {})
    assert not store.fetch("0" * 64, {"made": tmp_path / "out"}) and not list((tmp_path / "store").rglob(MANIFEST))


def test_json_is_canonical_and_damage_is_named(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", json.loads('{"a": [1.5, null], "b": 1}'))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="a.json is not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="c.json does not exist"):
        read_json(tmp_path / "c.json")


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        open(partial, "w").close()
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_versions_name_what_is_missing():
    found = command.tool_versions(["numpy", "no-such-distribution"])
    assert found["numpy"] and found["no-such-distribution"] is None and found["python"].count(".") == 1
