"""Addresses of the network, without what lets in: users, passwords and tokens reach no log, record or command line.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.parse
from collections.abc import Iterable

HIDDEN = "***"
VARIABLE = "LEVIT_ADDRESSES"  # JSON {public address: the whole one}, of addresses that are not public as they are


def public(url: str) -> str:
    """Return an address without user and password, and with the values of its query hidden."""
    scheme, between, rest = url.partition("://")
    rest, _, _ = rest.partition("#")
    place, asks, query = rest.partition("?")
    host, slash, path = place.partition("/")
    parts = [part.partition("=") for part in query.split("&")]
    asked = "&".join(f"{name}={HIDDEN}" if equals else HIDDEN for name, equals, _ in parts)
    return f"{scheme}{between}{host.rpartition('@')[2]}{slash}{path}" + (f"{asks}{asked}" if query else "")


def hide(text: str, url: str) -> str:
    """Return a text without the secrets of an address that it may quote."""
    place, _, query = url.partition("://")[2].partition("?")
    user = place.partition("/")[0].rpartition("@")[0]
    values = [part.partition("=")[2] for part in query.partition("#")[0].split("&")]
    for found in sorted({user, *user.split(":"), *values} - {""}, key=len, reverse=True):
        text = text.replace(found, HIDDEN)
    return text


def secret(urls: Iterable[str]) -> str:
    """Return VARIABLE's text for some addresses."""
    return json.dumps({public(url): url for url in urls if public(url) != url}, sort_keys=True)


def whole(url: str) -> str:
    """Return the address that a public one stands for, as the environment says."""
    return json.loads(os.environ.get(VARIABLE) or "{}").get(url, url)


def without_user(url: str) -> tuple[str, str | None]:
    """Return an address without user and password, and those as the header Authorization has them, or None."""
    scheme, between, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    user, _, host = place.rpartition("@")
    if not user:
        return url, None
    told = urllib.parse.unquote(user).encode("utf-8")
    return f"{scheme}{between}{host}{slash}{path}", "Basic " + base64.b64encode(told).decode("ascii")


def file_name(url: str) -> str:
    """Return the name of the file that an address is of."""
    return public(url).partition("?")[0].rpartition("/")[2]
