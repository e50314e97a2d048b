"""A real S3 server for tests: moto's, in a thread of this process. `make test` puts it into .cache/s3."""

import logging
import os
import sys

import pytest

from conftest import ROOT

PACKAGES = ROOT / ".cache/s3"  # with boto3, beside those of this interpreter
SECRET = "very-secret-key"


def start():
    """Start a server and return it; skip the test where its packages are not installed."""
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))
    moto = pytest.importorskip("moto.server", reason="no S3 server: make test installs one")
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return server


def variables(address):
    """Return the environment of a client: a server's address and port, and the client's credentials."""
    return {
        "AWS_ENDPOINT_URL_S3": "http://{}:{}".format(*address),
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def client(variables, monkeypatch):
    """Return a client of the server, which this process's environment names from now on."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    import boto3

    return boto3.client("s3")


@pytest.fixture(scope="module")
def server():
    server = start()
    yield server
    server.stop()
