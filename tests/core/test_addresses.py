"""Addresses with a user, a password or a token: used whole, shown without, in messages, logs, params and results."""

import json
import os

import pytest
import yaml
from test_fetch import CONTENT, SHA, fetch

import file_server
from configuration import checks
from core import addresses
from core.files import UserError
from devices import reach
from snakefile import params
from workflow import REPOSITORY, Workflow

SECRETS = ("m4rie", "s3cret", "t0ken")


@pytest.mark.parametrize(
    ("url", "shown", "name"),
    [
        ("https://host/a/b.pth", "https://host/a/b.pth", "b.pth"),
        ("https://m4rie:s3cret@host:8/a/b.pth", "https://host:8/a/b.pth", "b.pth"),
        ("https://m4rie@host/b.pth", "https://host/b.pth", "b.pth"),
        ("https://m4rie:s3c@ret@host/b@c.pth", "https://host/b@c.pth", "b@c.pth"),
        ("https://host/b.pth?token=t0ken&v=1#t0ken", "https://host/b.pth?token=***&v=***", "b.pth"),
        ("https://host/b.pth?t0ken", "https://host/b.pth?***", "b.pth"),
        ("https://m4rie:s3cret@host?token=a/b@c", "https://host?token=***", "host"),
        ("file:///a/b.pth", "file:///a/b.pth", "b.pth"),
    ],
)
def test_what_is_shown_of_an_address(url, shown, name):
    assert addresses.public(url) == shown and addresses.file_name(url) == name
    assert addresses.public(shown) == shown


def test_the_environment_has_the_whole_address(monkeypatch):
    url = "https://m4rie:s3cret@host/b.pth?token=t0ken"
    monkeypatch.setenv(addresses.VARIABLE, addresses.secret([url, "https://host/c.pth"]))
    assert addresses.whole(addresses.public(url)) == url
    assert addresses.whole("https://host/c.pth") == "https://host/c.pth"
    assert list(json.loads(os.environ[addresses.VARIABLE])) == [addresses.public(url)]


@pytest.mark.parametrize("given", ["environment", "argument"])
@pytest.mark.parametrize("path", ["/whole", "/missing", "/cut", "/corrupt", "/wh ole"])
def test_a_download_uses_secrets_and_tells_none(tmp_path, path, given):
    with file_server.serving(CONTENT) as server:
        url = server.url.replace("://", "://m4rie:s3cret@") + f"{path}?token=t0ken"
        variables = {addresses.VARIABLE: addresses.secret([url])} if given == "environment" else {}
        asked = addresses.public(url) if variables else url
        code, text = fetch(asked, tmp_path / "checkpoints" / "model.pth", sha256=SHA[:8], **variables)
        assert (code == 0) == (path == "/whole"), text
        assert not [secret for secret in SECRETS if secret in text], text
        if path != "/wh ole":
            assert set(server.authorized) == {"Basic bTRyaWU6czNjcmV0"} and "t0ken" in server.seen[0][0]


def test_no_secret_is_in_what_rules_and_results_get(tmp_path):
    workflow = Workflow.fresh(tmp_path)
    url = "https://m4rie:s3cret@host/LeViT-tiny-12345678.pth?token=t0ken"

    def official(config):
        config["models"]["LeViT-tiny"].update(url=url, sha256="12345678")
        config["datasets"]["digits"].update(weights="official")

    workflow.config(official)
    config = yaml.safe_load(workflow.path("config.yaml").read_text())
    tables = checks.load(config, str(REPOSITORY / "rules/schemas/config.schema.yaml"))

    class Names:
        dataset, model, precision, target = "digits", "LeViT-tiny", "fp32", "cpu"

    told = json.dumps([params.url(tables, Names), params.lineage(tables, Names)])
    assert "https://host/LeViT-tiny-12345678.pth?token=***" in told
    assert not [secret for secret in SECRETS if secret in told]
    assert json.loads(reach.environment(tables, "python")[addresses.VARIABLE]) == {addresses.public(url): url}


def test_an_address_that_is_refused_is_named_without_its_secrets():
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    config["models"]["LeViT-128S"]["url"] = "sftp://m4rie:s3cret@host/x?token=t0ken"
    with pytest.raises(UserError, match=r"models.LeViT-128S.url: 'sftp://host/x\?token=\*\*\*' does not match"):
        checks.load(config, str(REPOSITORY / "rules/schemas/config.schema.yaml"))


def test_snakemake_prints_and_keeps_no_secret_of_a_failing_download(tmp_path):
    """The shell command of a failed job is printed, and its params are recorded."""
    workflow = Workflow.fresh(tmp_path)
    address = "http://m4rie:s3cret@127.0.0.1:9/LeViT-tiny-12345678.pth?token=t0ken"

    def official(config):
        config["models"]["LeViT-tiny"].update(url=address, sha256="12345678")
        config["datasets"]["digits"].update(weights="official")

    workflow.config(official)
    wanted = "results/digits/checkpoints/LeViT-tiny.pth"
    status, output = workflow.run("--printshellcmds", "--", wanted, LEVIT_PYTHON="false")
    assert status != 0 and "127.0.0.1:9/LeViT-tiny-12345678.pth?token=***" in output
    kept = [p for p in workflow.folder.rglob("*") if p.is_file() and p.name != "config.yaml" and "tests" not in p.parts]
    texts = [output, *(path.read_text(errors="replace") for path in kept)]
    assert not [secret for secret in SECRETS for text in texts if secret in text]
