"""URLs without their credentials: users, passwords and tokens reach no log, record or command line."""

from __future__ import annotations

import base64
import json
import os
import urllib.parse
from collections.abc import Iterable

HIDDEN = "***"
VARIABLE = "LEVIT_ADDRESSES"  # JSON {public URL: complete URL}, of URLs with credentials


def public(url: str) -> str:
    """Return a URL without user and password, and with the values of its query hidden."""
    scheme, between, rest = url.partition("://")
    rest, _, _ = rest.partition("#")
    location, mark, query = rest.partition("?")
    host, slash, path = location.partition("/")
    parts = [part.partition("=") for part in query.split("&")]
    hidden = "&".join(f"{name}={HIDDEN}" if equals else HIDDEN for name, equals, _ in parts)
    return f"{scheme}{between}{host.rpartition('@')[2]}{slash}{path}" + (f"{mark}{hidden}" if query else "")


def hide(text: str, url: str) -> str:
    """Return a text with the credentials of a URL that it may quote hidden."""
    location, _, query = url.partition("://")[2].partition("?")
    user = location.partition("/")[0].rpartition("@")[0]
    values = [part.partition("=")[2] for part in query.partition("#")[0].split("&")]
    for secret_text in sorted({user, *user.split(":"), *values} - {""}, key=len, reverse=True):
        text = text.replace(secret_text, HIDDEN)
    return text


def secret(urls: Iterable[str]) -> str:
    """Return the value of VARIABLE for some URLs."""
    return json.dumps({public(url): url for url in urls if public(url) != url}, sort_keys=True)


def whole(url: str) -> str:
    """Return the complete URL of a public one, according to the environment."""
    return json.loads(os.environ.get(VARIABLE) or "{}").get(url, url)


def without_user(url: str) -> tuple[str, str | None]:
    """Return a URL without user and password, and these as the value of an Authorization header, or None."""
    scheme, between, rest = url.partition("://")
    location, slash, path = rest.partition("/")
    user, _, host = location.rpartition("@")
    if not user:
        return url, None
    credentials = urllib.parse.unquote(user).encode("utf-8")
    return f"{scheme}{between}{host}{slash}{path}", "Basic " + base64.b64encode(credentials).decode("ascii")


def file_name(url: str) -> str:
    """Return the name of the file that a URL refers to."""
    return public(url).partition("?")[0].rpartition("/")[2]
