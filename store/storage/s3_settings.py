"""How objects are named, where an S3 server is, and with which keys it is asked, as the environment says."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from headrace.store.errors import UsageError

SCHEME = "s3://"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""The first one that is set says where the server is."""
_OTHER_URLS = ("AWS_ENDPOINT_URL_STS", "AWS_METADATA_ENDPOINT")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_HEADER_VALUES = (*KEYS, "AWS_SESSION_TOKEN", "AWS_TOKEN")
"""They become headers of requests: printable ASCII without spaces."""


def endpoint() -> str:
    """Return the URL of the server; empty for Amazon's own."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


def is_signing() -> bool:
    """Return whether requests are signed; a public bucket needs no signature, and no keys for one."""
    return os.environ.get("AWS_SKIP_SIGNATURE", "").lower() not in ("1", "true", "on", "yes", "y")


def object_url(bucket: str, key: str) -> str:
    """Return how an object, or all below a prefix, is named to people."""
    return f"{SCHEME}{bucket}/{key}".rstrip("/")


def check_settings() -> None:
    """Check the variables that say where to ask and as whom.

    Raises:
        UsageError: one of them cannot be meant; or there is one key of a pair without the other.
    """
    for name in (*ENDPOINTS, *_OTHER_URLS, *_HEADER_VALUES, *_REGIONS):
        if (value := os.environ.get(name)) is not None:
            _check(name, value)
    given = [name for name in KEYS if name in os.environ]
    if len(given) == 1:
        (missing,) = set(KEYS) - set(given)
        raise UsageError(
            f"{given[0]} is set and {missing} is not: set both, or neither to use the role of the machine."
        )


def keys_missing() -> str:
    """Return what to do where there are no credentials."""
    hint = " (`aws configure export-credentials --format env` prints those of a profile)"
    return (
        f"Set {' and '.join(KEYS)}{hint if 'AWS_PROFILE' in os.environ else ''}, or AWS_SKIP_SIGNATURE=true for a "
        "public bucket."
    )


def refused_setting(complaint: str) -> UsageError:
    """Return the error for a variable that the client refuses.

    Args:
        complaint: of the client. It has the value in quotes, and no name.
    """
    names = [
        name for name, value in sorted(os.environ.items()) if name.startswith("AWS_") and f'"{value}"' in complaint
    ]
    return UsageError(f"{' or '.join(names) or 'A variable AWS_*'} cannot be used ({complaint}): correct or unset it.")


def _check(name: str, value: str) -> None:
    """Raise UsageError if a variable has a value that nobody can mean."""
    if not value:
        raise UsageError(f"{name} is set and empty: unset it, or give it a value.")
    if name in _HEADER_VALUES and not re.fullmatch(r"[!-~]+", value):
        raise UsageError(f"{name} holds a space, a line break or another character that no key has: set it again.")
    if name in _REGIONS and not re.fullmatch(r"[A-Za-z0-9-]{1,63}", value):
        raise UsageError(f"{name} is {value!r}, which is no region: set it to one such as us-east-1.")
    if name in (*ENDPOINTS, *_OTHER_URLS):
        _check_url(name, value)


def _check_url(name: str, value: str) -> None:
    try:
        url = urlsplit(value)
        sound = url.scheme in ("http", "https") and url.hostname and url.port != 0 and re.fullmatch(r"[!-~]+", value)
    except ValueError:
        sound = False
    if not sound or url.query or url.fragment:
        raise UsageError(f"{name} is {value!r}: give it as https://HOST or http://HOST:PORT.")
    if "@" in url.netloc:
        raise UsageError(
            f"{name} is {value!r}, with a user in it: give it as https://HOST, and set {' and '.join(KEYS)}."
        )
