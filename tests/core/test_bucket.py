"""A store in a bucket: entries come whole or not at all, and a bucket that fails costs one warning, never a job."""

import argparse
import contextlib
import http.server
import os
import socket
import tarfile
import threading
import time
import urllib.request

import pytest

import s3_server
import store as tools
from core import bucket, tiers
from core.bucket import Packed
from core.files import UserError
from core.store import MANIFEST, Store, Unreachable

KEY, OTHER = "ab" * 32, "cd" * 32
AT = "s3://team/levit"
PARTS = {"command": "train"}


@pytest.fixture(scope="module")
def server():
    server = s3_server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A client of an empty bucket, `team`, with the environment of jobs set to it."""
    client = s3_server.client(s3_server.variables(server.get_host_and_port()), monkeypatch)
    client.create_bucket(Bucket="team")
    yield client
    for found in client.list_objects_v2(Bucket="team").get("Contents", ()):
        client.delete_object(Bucket="team", Key=found["Key"])


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "made"
    path.write_bytes(os.urandom(100_000))
    return path


def machine(folder, **keys):
    """The store as a machine with its own local tier opens it."""
    return tiers.opened({"at": AT, "local": str(folder / ".cache/store"), **keys})


def shared(machine, key, made, parts=PARTS):
    """Keep an output on a machine and upload it."""
    machine.keep(key, {"made": str(made)}, parts)
    for waiting in machine.waiting():
        machine.upload(waiting)


def fetched(store, key, path, name="made"):
    """Return the bytes that a store gives for a key, or None."""
    entry = store.fetch(key, {name: str(path)})
    assert bool(entry) == path.exists() and not path.with_name(f"{path.name}.partial").exists()
    return path.read_bytes() if entry else None


def test_what_one_machine_keeps_another_fetches_and_then_has_itself(s3, made, tmp_path, monkeypatch):
    one, other = machine(tmp_path / "one"), machine(tmp_path / "other")
    assert fetched(other, KEY, tmp_path / "before") is None
    shared(one, KEY, made)
    assert fetched(other, KEY, tmp_path / "out") == made.read_bytes() and not one.waiting()
    assert one.local.entry(KEY).joinpath(MANIFEST).read_text() == other.local.entry(KEY).joinpath(MANIFEST).read_text()
    monkeypatch.setattr(other, "shared", None)
    assert fetched(other, KEY, tmp_path / "again") == made.read_bytes()


def test_an_entry_is_a_tar_that_other_tools_read(s3, made, tmp_path):
    """And its size is known before it is sent; empty files and several parts included."""
    empty, big = tmp_path / "empty", tmp_path / "big"
    empty.write_bytes(b"")
    big.write_bytes(os.urandom(bucket.PART + 12345))
    outputs = {"made": str(made), "empty": str(empty), "big": str(big)}
    tiers.at(AT).put(KEY, outputs, PARTS)
    found = s3.list_objects_v2(Bucket="team")["Contents"]
    assert [each["Key"] for each in found] == [f"levit/ab/{KEY}.train.tar"]
    s3.download_file("team", found[0]["Key"], str(tmp_path / "entry.tar"))
    with tarfile.open(tmp_path / "entry.tar") as tar:
        assert tar.getnames() == [MANIFEST, *outputs] and tar.extractfile("big").read() == big.read_bytes()
    out = {name: str(tmp_path / f"{name}.out") for name in outputs}
    assert tiers.at(AT).fetch(KEY, out)["parts"] == PARTS and (tmp_path / "big.out").read_bytes() == big.read_bytes()
    for names in ({}, {"empty": str(empty)}, outputs):
        assert Packed({}, names).size == len(Packed({}, names).read())


@pytest.mark.parametrize("where", ["empty", "in the header", "in the manifest", "in a file", "at the end of a file"])
def test_a_truncated_object_is_refused_and_replaced(s3, made, tmp_path, where, caplog):
    one = machine(tmp_path)
    shared(one, KEY, made)
    name = s3.list_objects_v2(Bucket="team")["Contents"][0]["Key"]
    whole = s3.get_object(Bucket="team", Key=name)["Body"].read()
    size = {"empty": 0, "in the header": 300, "in the manifest": 600, "in a file": 50_000}.get(where, len(whole) - 1400)
    s3.put_object(Bucket="team", Key=name, Body=whole[:size])
    other = machine(tmp_path / "other")
    assert fetched(other, KEY, tmp_path / "out") is None
    assert len(caplog.messages) == 1 and f"{AT}/ab/{KEY} counts as absent: " in caplog.text
    shared(other, KEY, made)
    assert fetched(tiers.at(AT), KEY, tmp_path / "out") == made.read_bytes() and len(caplog.messages) == 1


def test_a_damaged_object_is_refused_and_replaced_where_it_may_not_be_removed(s3, made, tmp_path, monkeypatch, caplog):
    shared(machine(tmp_path), KEY, made)
    name = s3.list_objects_v2(Bucket="team")["Contents"][0]["Key"]
    whole = bytearray(s3.get_object(Bucket="team", Key=name)["Body"].read())
    whole[60_000] ^= 1
    s3.put_object(Bucket="team", Key=name, Body=bytes(whole))
    reader = tiers.at(AT, read_only=True)
    assert fetched(reader, KEY, tmp_path / "out") is None and "made has another SHA-256" in caplog.text
    assert reader.entries(), "a store that is only read keeps what it has"
    s3.put_object(Bucket="team", Key=name, Body=bytes(whole[:-1]))
    writer = tiers.at(AT)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "remove", lambda key: (_ for _ in ()).throw(Unreachable("AccessDenied")))
        assert fetched(writer, KEY, tmp_path / "out") is None
    writer.put(KEY, {"made": str(made)}, PARTS)
    assert fetched(reader, KEY, tmp_path / "out") == made.read_bytes()


def test_an_archived_object_is_made_again_and_keeps_no_other_away(s3, made, tmp_path, caplog):
    for key in (KEY, OTHER):
        shared(machine(tmp_path), key, made)
    name = f"levit/ab/{KEY}.train.tar"
    body = s3.get_object(Bucket="team", Key=name)["Body"].read()
    s3.put_object(Bucket="team", Key=name, Body=body, StorageClass="GLACIER")
    other = machine(tmp_path / "other")
    assert fetched(other, KEY, tmp_path / "out") is None and "counts as absent: it is archived" in caplog.text
    assert fetched(other, OTHER, tmp_path / "out") == made.read_bytes()
    shared(other, KEY, made)
    assert fetched(tiers.at(AT), KEY, tmp_path / "out") == made.read_bytes() and len(caplog.messages) == 1


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestTimeTooSkewed", "SlowDown"])
def test_what_a_server_refuses_in_the_middle_is_uploaded_by_a_later_run(s3, made, tmp_path, monkeypatch, code, caplog):
    """Temporary credentials end, or the clock jumps, after the first of two entries."""
    from botocore.exceptions import ClientError

    one = machine(tmp_path)
    for key in (KEY, OTHER):
        one.keep(key, {"made": str(made)}, PARTS)
    one.upload(KEY)
    with monkeypatch.context() as patch:
        refusal = ClientError({"Error": {"Code": code, "Message": s3_server.SECRET}}, "PutObject")
        patch.setattr(one.shared, "_send", lambda *_: (_ for _ in ()).throw(refusal))
        with pytest.raises(UserError, match=f"1 of 1 entries are not uploaded: .*{code}") as error:
            tools.upload(one)
    assert one.waiting() == [OTHER] and s3_server.SECRET not in f"{error.value}{caplog.text}"
    tools.upload(one)
    assert not one.waiting() and len(one.shared.entries()) == 2


def test_no_name_in_an_object_decides_a_path(s3, made, tmp_path):
    """Of an object that another wrote: members of other names are left alone, and no link is made."""
    entry = {"outputs": {"made": "00", "../out": "00"}, "parts": PARTS}
    body = Packed(entry, {"../../out": str(made), "/tmp/out": str(made), "made": str(made)}).read()
    s3.put_object(Bucket="team", Key=f"levit/ab/{KEY}.train.tar", Body=body)
    assert fetched(machine(tmp_path), KEY, tmp_path / "a/b/out") is None
    assert {path for path in tmp_path.rglob("*") if path.is_file()} <= {made, tmp_path / ".cache/store/.away"}


def test_writers_and_readers_at_once_see_whole_entries_alone(s3, tmp_path, caplog):
    """Each writer has other bytes for the key: a reader gets those of one of them."""
    texts, seen, keys = [bytes([n]) * 30_000 for n in range(4)], [], [f"{n:064x}" for n in range(5)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}").write_bytes(text)

    stores = [tiers.at(AT) for _ in range(2)]

    def write(number):
        for key in keys:
            with contextlib.suppress(Unreachable):  # moto fails where an object is replaced while it is hashed
                stores[number % 2].put(key, {"made": str(tmp_path / f"{number}")}, PARTS)

    def read(number):
        for key in 3 * keys:
            with contextlib.suppress(Unreachable):
                seen.append(fetched(stores[number % 2], key, tmp_path / f"{key}.{number}"))
            (tmp_path / f"{key}.{number}").unlink(missing_ok=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4) for work in (write, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = [fetched(stores[0], key, tmp_path / f"{key}.last") for key in keys]
    assert set(seen) - {None} <= set(texts) and set(last) <= set(texts) and not caplog.messages


# What fails


@contextlib.contextmanager
def serving(handler):
    """Yield the address of a server in a thread."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address
    server.shutdown()
    server.server_close()


def through(upstream, bytes_of_a_body):
    """Return a handler that passes requests on, and ends the connection in the middle of an object."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with urllib.request.urlopen(f"{upstream}{self.path}") as answer:
                body, is_object = answer.read(), "list-type" not in self.path
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:bytes_of_a_body] if is_object else body)

        def log_message(self, *_):
            pass

    return Handler


def test_a_server_that_goes_in_the_middle_costs_one_warning(s3, made, tmp_path, monkeypatch, caplog):
    shared(machine(tmp_path), KEY, made)
    with serving(through(os.environ["AWS_ENDPOINT_URL_S3"], 70_000)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*address))
        other = machine(tmp_path / "other")
        for _ in range(3):
            assert fetched(other, KEY, tmp_path / "out") is None
    assert len(caplog.messages) == 1 and "jobs go on without it: the connection broke" in caplog.text


def gone():
    """Return an address that nobody listens at."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return closed.getsockname()


def test_a_server_that_is_away_is_asked_once_and_gets_the_uploads_when_it_is_back(
    s3, made, tmp_path, monkeypatch, caplog
):
    back = os.environ["AWS_ENDPOINT_URL_S3"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*gone()))
    for _ in range(3):  # jobs
        one = machine(tmp_path)
        assert fetched(one, OTHER, tmp_path / "out") is None
        one.keep(KEY, {"made": str(made)}, PARTS)
        assert fetched(one, KEY, tmp_path / "mine") == made.read_bytes()
        (tmp_path / "mine").unlink()
    assert len(caplog.messages) == 1 and "no connection" in caplog.text and one.waiting() == [KEY]
    with pytest.raises(UserError, match=f"{AT}: 1 of 1 entries are not uploaded: no connection"):
        tools.upload(machine(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", back)
    one = machine(tmp_path)
    assert one.is_away() and fetched(one, OTHER, tmp_path / "out") is None, "it is not asked again at once"
    tools.upload(one)
    assert not one.waiting() and [entry.key for entry in one.shared.entries()] == [KEY] and not one.is_away()


def test_an_upload_that_breaks_off_is_done_by_the_next_run(s3, made, tmp_path, monkeypatch):
    whole = os.environ["AWS_ENDPOINT_URL_S3"]
    with serving(through(whole, None)) as address:  # it takes no PUT
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*address))
        with pytest.raises(UserError, match="1 of 1 entries are not uploaded: "):
            one = machine(tmp_path)
            one.keep(KEY, {"made": str(made)}, PARTS)
            tools.upload(one)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", whole)
    one = machine(tmp_path)
    assert one.waiting() == [KEY] and not one.shared.entries()
    tools.upload(one)
    assert not one.waiting() and fetched(one.shared, KEY, tmp_path / "out") == made.read_bytes()


def test_a_server_that_never_answers_ends_in_time(s3, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bucket, "READ_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*silent.getsockname()))
        began = time.monotonic()
        assert fetched(machine(tmp_path), KEY, tmp_path / "out") is None
    assert time.monotonic() - began < bucket.CONNECT_S and "no answer within" in caplog.text


@pytest.fixture
def guarded(s3, monkeypatch):
    """The server while it checks who asks."""
    from moto import settings
    from moto.core.responses import ActionAuthenticatorMixin

    with monkeypatch.context() as patch:
        patch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        patch.setattr(ActionAuthenticatorMixin, "request_count", 0)
        yield


def test_wrong_credentials_are_refused_in_one_line_without_them(guarded, made, tmp_path, caplog):
    one = machine(tmp_path)
    assert fetched(one, KEY, tmp_path / "out") is None and fetched(one, OTHER, tmp_path / "out") is None
    assert len(caplog.messages) == 1 and "the credentials are refused (" in caplog.text
    assert s3_server.SECRET not in caplog.text and "AKID" not in caplog.text


@pytest.mark.parametrize(
    ("at", "variables", "said"),
    [
        ("s3://nobody/x", {}, "there is no such bucket"),
        (AT, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials where boto3 looks"),
        (AT, {"AWS_PROFILE": "mine"}, "ProfileNotFound"),
        (AT, {"AWS_ENDPOINT_URL_S3": "http://user:password@nowhere.invalid/"}, "no connection"),
    ],
)
def test_what_is_set_up_wrong_is_named_and_no_job_fails(s3, tmp_path, monkeypatch, caplog, at, variables, said):
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # which keeps what it has read
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    assert fetched(machine(tmp_path, at=at), KEY, tmp_path / "out") is None
    assert len(caplog.messages) == 1 and f"the store {at} is not used for now" in caplog.text and said in caplog.text
    assert "password" not in caplog.text


def test_without_boto3_the_remedy_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fetched(machine(tmp_path), KEY, tmp_path / "out") is None
    assert "boto3 is missing: run make s3" in caplog.text


# The local tier


def test_a_full_local_tier_loses_what_was_used_least_recently_and_last_what_is_not_uploaded(s3, made, tmp_path):
    one = machine(tmp_path, local_gb=2.5 * made.stat().st_size / 1e9)
    keys = [f"{n:064x}" for n in range(4)]
    for number, key in enumerate(keys[:2]):
        shared(one, key, made)
        os.utime(one.local.entry(key), (number, number))
    assert fetched(one, keys[0], tmp_path / "out") == made.read_bytes()
    one.keep(keys[2], {"made": str(made)}, PARTS)
    assert {entry.key for entry in one.local.entries()} == {keys[0], keys[2]}, "the first was used, the second was not"
    os.utime(one.local.entry(keys[2]), (0, 0))
    shared_later = one.waiting()
    one.keep(keys[3], {"made": str(made)}, PARTS)
    assert shared_later == [keys[2]] and {entry.key for entry in one.local.entries()} == {keys[2], keys[3]}
    one.keep(keys[0], {"made": str(made)}, PARTS)
    one.upload(keys[2])  # evicted meanwhile: nothing is left to upload
    assert one.waiting() == [keys[3], keys[0]] and len(one.local.entries()) == 2


def test_a_store_that_is_only_read_gets_nothing_and_new_work_stays_here(s3, made, tmp_path):
    reader = machine(tmp_path, read_only=True)
    shared(reader, KEY, made)
    assert not reader.shared.entries() and not reader.waiting()
    assert fetched(reader, KEY, tmp_path / "out") == made.read_bytes()
    with pytest.raises(UserError, match="takes no uploads"):
        tools._act(reader, argparse.Namespace(action="upload"))


def test_a_folder_that_machines_share_has_a_local_tier_too(made, tmp_path):
    keys = {"at": str(tmp_path / "nfs")}
    one, other = machine(tmp_path / "one", **keys), machine(tmp_path / "other", **keys)
    shared(one, KEY, made)
    assert fetched(other, KEY, tmp_path / "out") == made.read_bytes() and other.local.entry(KEY).is_dir()
    assert isinstance(tiers.opened(keys), Store)


# The command line


def test_more_entries_than_a_page_are_listed_with_a_request_for_each_thousand(s3):
    from moto.s3.models import s3_backends

    backend = next(iter(s3_backends.values()))["aws"]
    names = [f"levit/{number % 256:02x}/{number:064x}.train.tar" for number in range(2_001)]
    for name in names:
        backend.put_object("team", name, b"x")
    store, requests = tiers.at(AT), []
    store._client.meta.events.register("before-call.s3", lambda **told: requests.append(told["model"].name))
    assert len(store.entries()) == 2_001 and requests == ["ListObjectsV2"] * 3
    for name in names:
        backend.delete_object("team", name)


def test_list_verify_and_prune_read_a_bucket(s3, made, tmp_path, capsys):
    store = tiers.at(AT)
    for number in range(3):
        store.put(f"{number:064x}", {"made": str(made)}, {"command": f"work{number}"})
    s3.put_object(Bucket="team", Key="levit/readme.txt", Body=b"no entry")
    tools.show(store)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines] == [[f"work{number}", f"{number:064x}"] for number in range(3)]
    name = next(e["Key"] for e in s3.list_objects_v2(Bucket="team")["Contents"] if "work1" in e["Key"])
    s3.put_object(Bucket="team", Key=name, Body=b"x" * 2000)
    assert tools.verify(store, sample=None, remove=False) == 1 and tools.verify(store, sample=0, remove=False) == 0
    assert tools.verify(store, sample=None, remove=True) == 1 and tools.verify(store, sample=9, remove=True) == 0
    assert "s3://team/levit: 2 entries were read, 0 of them are damaged" in capsys.readouterr().out
    tools.prune(store, made.stat().st_size * 1.2e-9)
    assert "removed 1 entries and 0 leftovers" in capsys.readouterr().out and len(store.entries()) == 1
