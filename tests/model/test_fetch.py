"""fetch_checkpoint.py against a local HTTP server that behaves, and misbehaves, as servers do."""

import hashlib
import os
import subprocess

import pytest

import file_server
import forks
from conftest import ROOT

CONTENT = hashlib.sha256(b"weights").digest() * 20_000  # 640 kB
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with file_server.serving(CONTENT) as server:
        yield server


def fetch(url, target, sha256=SHA[:8], attempts=2, patience=30, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEVIT_")}
    environment.update({"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", **variables})
    environment = {name: value for name, value in environment.items() if value is not None}
    line = [forks.python_without_torch(), str(ROOT / "workflow_scripts/fetch_checkpoint.py")]
    line += ["--url", url, "--sha256", sha256]
    line += ["--checkpoint", str(target), "--attempts", str(attempts), "--delay", "0.01"]
    line += ["--patience", str(patience), "--downloads", str(target.parent.parent / "downloads")]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60)
    return done.returncode, done.stderr


@pytest.fixture
def target(tmp_path):
    return tmp_path / "checkpoints" / "model.pth"


def refused(server, path, target, *words, **options):
    code, text = fetch(server.url + path, target, **options)
    error = [line for line in text.splitlines() if line.startswith("error:")]
    assert code == 1 and len(error) == 1 and "Traceback" not in text, text
    assert [text for text in words if text not in error[0]] == []
    assert not target.exists() and not target.with_name("model.pth.partial").exists()


@pytest.mark.parametrize("path", ["/whole", "/plain", "/busy"])
def test_a_file_arrives_whole_and_alone(server, target, path):
    code, text = fetch(server.url + path, target, attempts=3)
    assert code == 0, text
    assert target.read_bytes() == CONTENT
    assert sorted(p.name for p in target.parent.iterdir()) == ["model.pth", "model.pth.provenance"]


@pytest.mark.parametrize(("path", "asked"), [("/cut-once", "bytes=300000-"), ("/cut-plain", "bytes=300000-")])
def test_a_broken_connection_is_resumed_within_the_run(server, target, path, asked):
    """/cut-plain has no ranges: it sends everything again, and that replaces what was received."""
    code, text = fetch(server.url + path, target)
    assert code == 0 and "the connection broke (IncompleteRead(300000 bytes read, 340000 more expected)" in text
    assert [header for _, header in server.seen] == [None, asked]
    assert target.read_bytes() == CONTENT


def test_a_killed_jobs_bytes_are_not_continued(server, target):
    target.parent.mkdir()
    target.with_name("model.pth.partial").write_bytes(b"x" * 1000)
    assert fetch(server.url + "/whole", target)[0] == 0
    assert target.read_bytes() == CONTENT and server.seen == [("/whole", None)]


def test_a_file_that_stays_cut_short_is_refused(server, target):
    refused(server, "/cut", target, "the connection broke", "attempt 3 of 3: run again, or put it at", attempts=3)
    assert [header for _, header in server.seen] == [None, "bytes=300000-", "bytes=300000-"]


def test_a_server_that_sends_almost_nothing_is_given_up(server, target):
    refused(server, "/slow", target, "too slow: ", "attempt 2 of 2: run again", patience=0.3)


def test_a_corrupt_file_is_refused(server, target):
    refused(server, "/corrupt", target, "SHA-256 of its 640000 bytes is ", f"not {SHA[:8]}", "config.yaml")


def test_an_existing_target_survives_a_failed_download(server, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    assert fetch(server.url + "/corrupt", target)[0] == 1
    assert target.read_bytes() == b"old"


def test_a_missing_page_is_an_error_at_once(server, target):
    refused(server, "/none", target, "/none: the server answered 404", "correct `url`", attempts=5)
    assert len(server.seen) == 1


def test_no_server_is_an_error_after_the_attempts(target):
    code, text = fetch("http://127.0.0.1:9/model.pth", target)
    assert code == 1 and "the connection broke ([Errno 111]" in text and "attempt 2 of 2: run again" in text


def test_a_file_of_this_machine_is_copied(target, tmp_path):
    (tmp_path / "my weights.pth").write_bytes(CONTENT)
    code, text = fetch((tmp_path / "my weights.pth").as_uri(), target)
    assert code == 0 and target.read_bytes() == CONTENT, text


@pytest.mark.parametrize("url", ["no-url", "file:///nowhere/model.pth"])
def test_an_address_that_is_none_is_named(target, url):
    code, text = fetch(url, target)
    assert code == 1 and f"error: {url}: " in text and "correct `url` in config.yaml" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("prefix", ["abc", "zzzzzzzz", ""])
def test_a_hash_that_is_none_is_refused_before_any_request(server, target, prefix):
    refused(server, "/whole", target, "must be the first 8 to 64 hex digits", sha256=prefix)
    assert server.seen == []


def test_a_whole_hash_in_capitals_is_accepted(server, target):
    assert fetch(server.url + "/whole", target, sha256=SHA.upper())[0] == 0


def test_pauses_between_attempts_double(server, target):
    code, text = fetch(server.url + "/busy", target, attempts=3)
    assert code == 0 and "503 Service Unavailable; again in 0.01 s" in text and "again in 0.02 s" in text


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_of_the_environment_is_asked(server, target, variable):
    """The address does not exist: only the proxy, here the server, can answer for it."""
    variables = {**dict.fromkeys(("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")), variable: server.url}
    code, text = fetch("http://weights.invalid/whole", target, **variables)
    assert code == 0, text
    assert target.read_bytes() == CONTENT and server.seen == [("http://weights.invalid/whole", None)]


def test_offline_the_error_names_the_file_and_its_place(server, target):
    place = target.parent.parent / "downloads" / "whole"
    remedy = f"download {server.url}/whole elsewhere and put it at {place} by hand"
    refused(server, "/whole", target, "LEVIT_OFFLINE is set", remedy, LEVIT_OFFLINE="1")
    assert server.seen == []


@pytest.mark.parametrize("offline", ["", "1"])
def test_a_file_put_there_by_hand_is_taken_and_nothing_is_asked(server, target, offline):
    place = target.parent.parent / "downloads" / "whole"
    place.parent.mkdir()
    place.write_bytes(CONTENT)
    assert fetch(server.url + "/whole", target, LEVIT_OFFLINE=offline)[0] == 0
    assert target.read_bytes() == CONTENT == place.read_bytes() and server.seen == []
    place.write_bytes(CONTENT[:-1])
    code, text = fetch(server.url + "/whole", target, LEVIT_OFFLINE=offline)
    assert code == 1 and f"error: {place}: the SHA-256 of its 639999 bytes is " in text and f"not {SHA[:8]}" in text
    assert target.read_bytes() == CONTENT, "what was there stays"


def test_a_server_that_stays_away_leaves_a_way_by_hand(target):
    code, text = fetch("http://127.0.0.1:9/model.pth", target)
    place = target.parent.parent / "downloads" / "model.pth"
    assert code == 1 and f"or put it at {place} by hand" in text
