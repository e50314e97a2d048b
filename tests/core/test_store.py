"""A store that is shared, broken, full or not there costs a warning, never a job."""

import errno
import fcntl
import json
import logging
import logging.handlers
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

import store as tools
from conftest import ROOT
from core import command, tiers
from core.files import STAGED, sha256_file
from core.store import MANIFEST, NEW, Store, Unreadable
from snakefile import run_checks

KEY = f"{7:064x}"
OTHER = 65534  # another user's id: nobody
DAMAGED = {  # what entry.json holds
    "list": "[]",
    "null": "null",
    "number": "7",
    "text": '"x"',
    "empty": "",
    "half": '{"outputs": {"ma',
    "no outputs": '{"parts": {}}',
    "outputs of a kind": '{"outputs": []}',
    "outputs of nothing": '{"outputs": {}}',
    "hash of a kind": '{"outputs": {"made": 3}}',
    "another hash": '{"outputs": {"made": "00"}}',
    "binary": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "made"
    path.write_bytes(b"x" * 1000)
    return path


def modes(store):
    return {path.stat().st_mode & 0o777 for path in store.root.rglob("*") if path.is_dir()}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o002, 0o775), (0o077, 0o700)], ids=oct)
def test_folders_have_the_modes_of_the_umask(store, made, umask, mode):
    old = os.umask(umask)
    try:
        store.put(KEY, {"made": made}, {})
    finally:
        os.umask(old)
    assert modes(store) == {mode}
    assert (store.entry(KEY) / MANIFEST).stat().st_mode & 0o777 == mode & 0o666


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_counts_as_absent_says_so_once_and_goes(store, made, tmp_path, text, caplog):
    store.put(KEY, {"made": made}, {"command": "test"})
    record = store.entry(KEY) / MANIFEST
    record.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert not store.fetch(KEY, {"made": tmp_path / "again"})
    assert len(caplog.messages) == 1 and f"{store.entry(KEY)} counts as absent: " in caplog.text
    assert not list(tmp_path.glob("again*")) and not store.entry(KEY).exists()
    assert not store.fetch(KEY, {"made": tmp_path / "again"}) and len(caplog.messages) == 1
    store.put(KEY, {"made": made}, {"command": "test"})
    assert store.fetch(KEY, {"made": tmp_path / "again"}) and sha256_file(tmp_path / "again") == sha256_file(made)


@pytest.mark.parametrize("name", [MANIFEST, "made"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "missing"])
def test_what_is_no_file_counts_as_absent_and_never_hangs(store, made, tmp_path, name, kind):
    store.put(KEY, {"made": made}, {})
    path = store.entry(KEY) / name
    path.unlink()
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "dangling link": lambda: path.symlink_to("nowhere"),
        "missing": bool,
    }[kind]()
    assert not store.fetch(KEY, {"made": tmp_path / "again"}) and not list(tmp_path.glob("again*"))
    tools.prune(store, 1)
    assert not store.entry(KEY).exists()


def test_the_disk_that_an_output_is_on_is_no_damage_of_the_store(store, made, tmp_path):
    store.put(KEY, {"made": made}, {})
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(IsADirectoryError):
        store.fetch(KEY, {"made": tmp_path / "out"})
    assert store.fetch(KEY, {"made": tmp_path / "again"})


def test_several_outputs_come_all_or_none(store, made, tmp_path):
    store.put(KEY, {"a": made, "b": made}, {})
    (store.entry(KEY) / "b").unlink()
    (store.entry(KEY) / "b").write_bytes(b"y")
    assert not store.fetch(KEY, {"a": tmp_path / "a", "b": tmp_path / "b"})
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def _as_another(work, queue):
    logging.getLogger("levit").addHandler(logging.handlers.QueueHandler(queue))
    os.setgid(OTHER)
    os.setuid(OTHER)
    work()


def as_another(work):
    """Run `work` as another user in a process of its own; return (whether it ended well, its warnings)."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_as_another, args=(work, queue))
    process.start()
    process.join(30)
    said = []
    while not queue.empty():
        said.append(queue.get().getMessage())
    return process.exitcode == 0, said


@pytest.fixture
def shared(tmp_path):
    """A store and a folder that everybody may write to, below one that everybody may pass."""
    if os.getuid() != 0:
        pytest.skip("only root can be two users")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    for name in ("store", "work"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    return Store(tmp_path / "store"), tmp_path / "work"


def test_what_another_user_keeps_to_himself_counts_as_absent(shared, made):
    """Case 16: entries 0700, as an older version made them; the folder of the first two digits is everybody's."""
    store, work = shared
    store.put(KEY, {"made": made}, {})
    store.entry(KEY).chmod(0o700)
    store.entry(KEY).parent.chmod(0o777)

    def job():
        assert not store.fetch(KEY, {"made": work / "out"})
        (work / "out").write_bytes(b"z")
        store.keep(KEY, {"made": work / "out"}, {})

    good, said = as_another(job)
    assert good and len(said) == 1 and "counts as absent: entry.json: Permission denied" in said[0]
    assert store.fetch(KEY, {"made": work / "mine"}), "it still serves the one whose it is"


def test_what_the_umask_lets_another_user_read_serves_him(shared, made):
    store, work = shared
    store.put(KEY, {"made": made}, {})
    good, said = as_another(lambda: store.fetch(KEY, {"made": work / "out"}) or os._exit(1))
    assert good and not said and sha256_file(work / "out") == sha256_file(made)


def test_a_store_that_may_not_be_written_costs_one_warning_that_names_it(shared, made):
    store, work = shared
    store.root.chmod(0o755)
    (work / "out").write_bytes(b"z")
    (work / "out").chmod(0o644)
    good, said = as_another(lambda: store.keep(KEY, {"made": work / "out"}, {}))
    assert good and len(said) == 1 and f"nothing is stored: {store.root}: Permission denied" in said[0]
    assert "config.yaml (store)" in said[0]


@pytest.mark.parametrize("call", ["mkdir", "rename", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EIO, errno.EXDEV, errno.EDQUOT])
def test_a_store_whose_disk_fails_costs_one_warning_that_names_it(store, made, number, call, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", fail)
        store.keep(KEY, {"made": made}, {})
    assert len(caplog.messages) == 1 and f"nothing is stored: {store.root}: {os.strerror(number)}" in caplog.text
    assert ("prune" in caplog.text) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert not [path for path in store.root.rglob("*") if path.is_file()]


def test_a_path_that_is_a_file_costs_one_warning(tmp_path, made, caplog):
    (tmp_path / "store").write_text("x")
    store = Store(tmp_path / "store")
    assert not store.fetch(KEY, {"made": tmp_path / "out"})
    store.keep(KEY, {"made": made}, {})
    assert len(caplog.messages) == 1 and str(store.root) in caplog.text


def test_the_first_of_two_equal_jobs_is_kept_and_nothing_is_said(store, made, caplog):
    store.keep(KEY, {"made": made}, {"command": "first"})
    store.keep(KEY, {"made": made}, {"command": "second"})
    assert '"first"' in (store.entry(KEY) / MANIFEST).read_text() and not caplog.messages
    assert [path.name for path in store.entry(KEY).parent.iterdir()] == [KEY]


# Over NFS


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_an_nfs_server_replaced_is_read_again_once(store, made, tmp_path, times, monkeypatch, caplog):
    store.put(KEY, {"made": made}, {})
    read, failures = Store.read, [OSError(errno.ESTALE, "Stale file handle")] * times

    def stale(*arguments):
        if failures:
            raise Unreadable("made", failures.pop())
        return read(*arguments)

    monkeypatch.setattr(Store, "read", stale)
    assert bool(store.fetch(KEY, {"made": tmp_path / "out"})) == (times == 1)
    assert len(caplog.messages) == times - 1 and store.entry(KEY).exists(), "a stale handle is no damage"


def test_a_rename_that_an_nfs_server_did_twice_has_succeeded(store, made, tmp_path, monkeypatch):
    """The answer to the first was lost: the second finds no source."""
    rename = os.rename

    def twice(*paths):
        rename(*paths)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", twice)
        store.put(KEY, {"made": made}, {})
    assert store.fetch(KEY, {"made": tmp_path / "out"})


def test_an_entry_goes_at_once(store, made, monkeypatch):
    """A reader on another machine never sees half of it."""
    store.put(KEY, {"made": made}, {})
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    store.remove(KEY)
    assert not store.entry(KEY).exists()
    assert [path.name.startswith(NEW) for path in store.entry(KEY).parent.iterdir()] == [True]


@pytest.mark.parametrize("take", [command.hold, lambda path: run_checks._exclusive(path, "busy")])
def test_a_lock_is_taken_on_a_file_that_nfs_can_lock(tmp_path, take):
    """Linux makes it a lock of a range there, which to share needs a file that can be read, and else one to write."""
    with take(str(tmp_path / "lock")) as stream:
        fcntl.lockf(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Uploads


def test_uploads_wait_while_a_job_measures_time(tmp_path, monkeypatch):
    path = tmp_path / "timing.lock"
    monkeypatch.setenv("LEVIT_TIMING", str(path))
    tools._wait_for_timings()
    job, ended = command.hold(str(path)), threading.Event()
    thread = threading.Thread(target=lambda: (tools._wait_for_timings(), ended.set()))
    thread.start()
    assert not ended.wait(3 * tools.QUIET_S)
    job.close()
    thread.join(30)
    assert ended.is_set()


def test_a_shared_folder_gets_what_waits_until_the_run_has_ended(tmp_path, made):
    """As a run does it: a process that ends when its stdin does."""
    options = {"local": str(tmp_path / "local")}
    store = tiers.opened({"at": str(tmp_path / "shared"), **options})
    environment = {**os.environ, tiers.STORE: store.name, tiers.OPTIONS: json.dumps(options)}
    line = [sys.executable, str(ROOT / "workflow_scripts/store.py"), "upload", "--follow"]
    with subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        store.keep(KEY, {"made": str(made)}, {})
        assert process.communicate(timeout=60) == (None, "") and process.returncode == 0
    assert store.shared.fetch(KEY, {"made": tmp_path / "out"}) and not store.waiting()


# The command line


def tool(folder, *args):
    command = [sys.executable, str(ROOT / "workflow_scripts/store.py"), *args]
    environment = {name: value for name, value in os.environ.items() if name != "LEVIT_STORE"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def age(path, seconds=7200):
    for one in [*path.rglob("*"), path]:
        os.utime(one, (time.time() - seconds,) * 2, follow_symlinks=False)


@pytest.mark.parametrize("size", ["nan", "inf", "-inf", "-1", "1e999", "many"])
def test_sizes_that_are_none_are_refused_and_nothing_goes(tmp_path, made, size):
    store = Store(tmp_path / ".cache/store")
    store.put(KEY, {"made": made}, {})
    status, text = tool(tmp_path, "prune", f"--keep-gb={size}")
    assert status == 1 and text == f"error: --keep-gb {size} is not a size: give gigabytes, 0 or more\n"
    assert store.entry(KEY).exists()


@pytest.mark.parametrize("action", ["list", "prune"])
def test_a_store_that_is_not_there_is_named(tmp_path, made, action):
    for place in ("nowhere", made):
        assert tool(tmp_path, action, "--store", str(place)) == (1, f"error: --store {place}: no such folder\n")


def test_list_names_damaged_entries_among_whole_ones(tmp_path, made):
    store = Store(tmp_path / "store")
    for number, text in enumerate([None, *DAMAGED.values()]):
        store.put(f"{number:064x}", {"made": made}, {"command": "work"})
        if text is not None:
            record = store.entry(f"{number:064x}") / MANIFEST
            record.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, text = tool(tmp_path, "list", "--store", "store")
    assert status == 0 and len(text.splitlines()) == 1 + len(DAMAGED)
    assert sum("damaged" in line for line in text.splitlines()) == len(DAMAGED)


def test_prune_takes_the_leftovers_of_killed_jobs_once_nobody_writes_to_them(tmp_path, made):
    store = Store(tmp_path / ".cache/store")
    store.put(KEY, {"made": made}, {})
    old = [store.root / "00/.new-old", *(tmp_path / f".cache/{name}" for name in ("brought-old", f"{STAGED}old"))]
    old.append(tmp_path / "results/a/x.pth.partial")
    young = [store.root / "00/.new-now", tmp_path / "results/a/y.pth.partial"]
    for path in (*old, *young):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".partial":
            path.write_bytes(b"half")
        else:
            path.mkdir()
            (path / "half").write_bytes(b"half")
    for path in old:
        age(path)
    assert tool(tmp_path, "prune") == (0, ".cache/store: removed 0 entries and 4 leftovers of killed jobs\n")
    assert not any(path.exists() for path in old) and all(path.exists() for path in young)
    assert store.entry(KEY).exists()


def test_a_clock_that_was_set_back_does_not_keep_a_store_away(tmp_path):
    one = tiers.Tiers(Store(tmp_path / "local"), Store(tmp_path / "shared"))
    one.note_away()
    assert one.is_away()
    os.utime(one.away, (time.time() + 1e6,) * 2)
    assert not one.is_away()
