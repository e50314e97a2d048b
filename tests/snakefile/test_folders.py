"""The folders below a large dataset's: found without reading what has not changed, in links and after changes."""

import os

import pytest

from snakefile import folders


@pytest.fixture
def top(tmp_path, monkeypatch):
    """Return a folder of folders that have not changed lately; the cache lies elsewhere."""
    for name in ("a/b/c", "d"):
        (tmp_path / "top" / name).mkdir(parents=True)
        (tmp_path / "top" / name / "image.jpg").write_bytes(b"x")
    monkeypatch.setattr(folders, "SETTLED", -1.0)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "top"


def below(top):
    return folders.below(str(top))


def found(top):
    return {os.path.relpath(path, top): status and status.st_mtime_ns for path, status in below(top).items()}


def reads(top, monkeypatch):
    """Return the folders whose entries are read."""
    seen, scandir = [], os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: (seen.append(os.path.relpath(path, top)), scandir(path))[1])
        below(top)
    return sorted(seen)


def test_only_changed_folders_are_read_again(top, monkeypatch):
    assert sorted(found(top)) == [".", "a", "a/b", "a/b/c", "d"]
    assert reads(top, monkeypatch) == []
    before = found(top)
    (top / "a/b/new").mkdir()
    assert reads(top, monkeypatch) == ["a/b", "a/b/new"]
    after = found(top)
    assert set(after) - set(before) == {"a/b/new"} and after["a/b"] != before["a/b"] and after["d"] == before["d"]


def test_a_folder_that_has_just_changed_is_read_again(top, monkeypatch):
    monkeypatch.setattr(folders, "SETTLED", 1e9)
    below(top)
    assert reads(top, monkeypatch) == [".", "a", "a/b", "a/b/c", "d"]


def test_links_are_followed_but_not_in_circles_and_may_come_to_lead_somewhere(top):
    (top / "a/loop").symlink_to("..")
    (top / "d/later").symlink_to("../../elsewhere")
    assert found(top)["d/later"] is None and "a/loop/d" not in found(top)
    (top.parent / "elsewhere/deep").mkdir(parents=True)
    assert found(top)["d/later"] and "d/later/deep" in found(top)


def test_a_damaged_cache_is_none(top, monkeypatch):
    below(top)
    (entry,) = (top.parent / "run" / folders.CACHE).iterdir()
    entry.write_text("{")
    assert len(found(top)) == 5
