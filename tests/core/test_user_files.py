"""A user's file is known by its content, which is read once as long as nothing of the file changes."""

import json
import os
import shutil

import pytest

from core import user_files
from core.files import sha256_file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_files, "SETTLED", 0.0)
    user_files._entries.cache_clear()
    return tmp_path


@pytest.fixture
def readings(monkeypatch):
    """The paths that were really read."""
    read = []
    monkeypatch.setattr(user_files, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    return read


def restarted():
    user_files._entries.cache_clear()


def test_a_file_is_read_once_over_several_runs(folder, readings):
    (folder / "a.pth").write_text("weights")
    os.utime(folder / "a.pth", (1e9, 1e9))
    for _ in range(3):
        restarted()
        assert user_files.sha256_of("a.pth") == sha256_file("a.pth")
    assert len(readings) == 1


def test_no_file_has_no_content(folder):
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to("nothing")
    assert [user_files.sha256_of(name) for name in ("nothing", "folder", "dangling")] == [None] * 3


def replaced_with_times_kept(folder):
    shutil.copy2(folder / "b.pth", folder / "a.pth")


def moved(folder):
    os.replace(folder / "b.pth", folder / "a.pth")


def linked(folder):
    (folder / "a.pth").unlink()
    (folder / "a.pth").symlink_to("b.pth")


def edited_and_dated_back(folder):
    (folder / "a.pth").write_text("another")
    os.utime(folder / "a.pth", (1e9, 1e9))


@pytest.mark.parametrize("change", [replaced_with_times_kept, moved, linked, edited_and_dated_back])
def test_another_content_of_the_same_size_and_time_is_seen(folder, change):
    for name, text in (("a.pth", "weights"), ("b.pth", "another")):
        (folder / name).write_text(text)
        os.utime(folder / name, (1e9, 1e9))
    before = user_files.sha256_of("a.pth")
    change(folder)
    restarted()
    assert user_files.sha256_of("a.pth") == sha256_file("a.pth") != before


def test_what_was_written_a_moment_ago_is_not_trusted_by_its_times(folder, readings, monkeypatch):
    monkeypatch.setattr(user_files, "SETTLED", 60.0)
    (folder / "a.pth").write_text("weights")
    assert user_files.sha256_of("a.pth") == user_files.sha256_of("a.pth") and len(readings) == 2


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"a": 1}', '{"a": [1, 2]}'])
def test_a_damaged_cache_counts_as_absent(folder, damage):
    (folder / ".cache").mkdir()
    (folder / user_files.CACHE).write_text(damage)
    (folder / "a.pth").write_text("weights")
    assert user_files.sha256_of("a.pth") == sha256_file("a.pth")
    assert list(json.loads((folder / user_files.CACHE).read_text())) == [os.path.realpath("a.pth")]


def test_a_cache_that_cannot_be_written_is_no_error(folder):
    (folder / ".cache").write_text("a file")
    (folder / "a.pth").write_text("weights")
    assert user_files.sha256_of("a.pth") == sha256_file("a.pth")
