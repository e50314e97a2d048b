"""fetch_checkpoint.py against a local HTTP server that behaves, and misbehaves, as servers do."""

import hashlib
import os
import subprocess
import sys

import pytest

import file_server
from conftest import ROOT

CONTENT = hashlib.sha256(b"weights").digest() * 20_000  # 640 kB
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with file_server.serving(CONTENT) as server:
        yield server


def fetch(url, target, sha256=SHA[:8], attempts=2, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEVIT_")}
    environment.update({"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", **variables})
    environment = {name: value for name, value in environment.items() if value is not None}
    line = [sys.executable, str(ROOT / "workflow_scripts" / "fetch_checkpoint.py"), "--url", url, "--sha256", sha256]
    line += ["--checkpoint", str(target), "--attempts", str(attempts), "--delay", "0.01"]
    line += ["--downloads", str(target.parent.parent / "downloads")]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60)
    return done.returncode, done.stderr


@pytest.fixture
def target(tmp_path):
    return tmp_path / "checkpoints" / "model.pth"


def kept(target):
    return target.with_name("model.pth.download.partial")


def refused(server, path, target, *said, **options):
    code, text = fetch(server.url + path, target, **options)
    error = [line for line in text.splitlines() if line.startswith("error:")]
    assert code == 1 and len(error) == 1 and "Traceback" not in text, text
    for words in said:
        assert words in error[0]
    assert not target.exists() and not target.with_name("model.pth.partial").exists()


@pytest.mark.parametrize("path", ["/whole", "/plain", "/busy"])
def test_a_file_arrives_whole_and_alone(server, target, path):
    code, text = fetch(server.url + path, target, attempts=3)
    assert code == 0, text
    assert target.read_bytes() == CONTENT
    assert sorted(p.name for p in target.parent.iterdir()) == ["model.pth", "model.pth.provenance"]


def test_a_kept_part_is_continued_not_repeated(server, target):
    target.parent.mkdir()
    kept(target).write_bytes(CONTENT[:400_000])
    assert fetch(server.url + "/whole", target)[0] == 0
    assert target.read_bytes() == CONTENT
    assert server.seen == [("/whole", "bytes=400000-")]


def test_a_server_without_ranges_sends_it_all_again(server, target):
    target.parent.mkdir()
    kept(target).write_bytes(b"x" * 400_000)
    assert fetch(server.url + "/plain", target)[0] == 0
    assert target.read_bytes() == CONTENT


def test_a_kept_part_of_another_file_costs_one_fresh_download(server, target):
    target.parent.mkdir()
    kept(target).write_bytes(b"x" * 1000)
    assert fetch(server.url + "/whole", target)[0] == 0
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in server.seen] == ["bytes=1000-", None]


def test_a_kept_part_that_is_already_all_is_taken(server, target):
    target.parent.mkdir()
    kept(target).write_bytes(CONTENT)
    assert fetch(server.url + "/whole", target)[0] == 0
    assert target.read_bytes() == CONTENT


def test_a_broken_connection_is_resumed_within_the_run(server, target):
    code, text = fetch(server.url + "/cut-once", target)
    assert code == 0 and f"the connection ended after 300000 of {len(CONTENT)} bytes; again in" in text
    assert [asked for _, asked in server.seen] == [None, "bytes=300000-"]
    assert target.read_bytes() == CONTENT


def test_a_file_that_stays_cut_short_is_refused_and_kept(server, target):
    refused(server, "/cut", target, "the connection ended after 300000 of", "300000 bytes are kept, run again")
    assert kept(target).read_bytes() == CONTENT[:300_000]
    assert fetch(server.url + "/whole", target)[0] == 0, "and another run continues it"
    assert server.seen[-1] == ("/whole", "bytes=300000-")


def test_a_corrupt_file_is_refused_and_not_kept(server, target):
    refused(server, "/corrupt", target, "SHA-256 of the 640000 bytes received", f"not {SHA[:8]}", "config.yaml")
    assert not kept(target).exists()


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
    assert code == 1 and "no connection" in text and "2 times; 0 bytes are kept, run again to continue" in text


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
    said = f"fetch {server.url}/whole elsewhere and put it at {place} by hand"
    refused(server, "/whole", target, "LEVIT_OFFLINE is set", said, LEVIT_OFFLINE="1")
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
    assert code == 1 and f"error: {place}: its SHA-256 is " in text and f"not {SHA[:8]}" in text
    assert target.read_bytes() == CONTENT, "what was there stays"


def test_a_server_that_stays_away_leaves_a_way_by_hand(target):
    code, text = fetch("http://127.0.0.1:9/model.pth", target)
    place = target.parent.parent / "downloads" / "model.pth"
    assert code == 1 and f"or put it at {place} by hand" in text
