"""Shows texts without the secrets in them: every message, log and report passes here before anybody sees it."""

from __future__ import annotations

import os
import re

MASK = "***"
MIN_LENGTH = 6
"""Shorter values of variables are no secrets, and are found in any text."""
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN")
_SECRET = r"(?i:secret|token|passw|credential|api[-_]?key|access[-_]?key|signature)"
_SECRET_NAME = re.compile(_SECRET)
_URL_MASKS = (
    # User and password before the host. A password may hold unescaped slashes; a port is no password.
    (re.compile(r"(?<=://)(?:[^\s/?#]*@|[^\s/?#@:]*:(?![0-9]+[/?#])\S*@)"), f"{MASK}@"),
    # Parameters of a URL that was signed in advance.
    (re.compile(rf"([?&][^=&\s]*(?:{_SECRET}|(?i:accesskeyid|sig|key))=)[^&\s'\"]+"), rf"\1{MASK}"),
)
_NAMED_MASKS = (
    (re.compile(rf"([\w-]*{_SECRET}[\w-]*['\"]?\s*[=:]\s*)\S+"), rf"\1{MASK}"),
    (re.compile(rf"(--[\w-]*{_SECRET}[\w-]*\s+)\S+"), rf"\1{MASK}"),
)


def without_secrets(text: str) -> str:
    """Return a message with `***` in place of credentials: those in its URLs, and those of the S3 variables."""
    text = _without_values(text, [os.environ.get(name, "") for name in _CREDENTIALS])
    for pattern, mask in _URL_MASKS:
        text = pattern.sub(mask, text)
    return text


def mask_secrets(text: str) -> str:
    """Return a report with `***` also in place of all that looks like a secret, by its name in it or in the
    environment."""
    text = _without_values(text, [value for name, value in os.environ.items() if _SECRET_NAME.search(name)])
    text = without_secrets(text)
    for pattern, mask in _NAMED_MASKS:
        text = pattern.sub(mask, text)
    return text


def _without_values(text: str, values: list[str]) -> str:
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= MIN_LENGTH:
            text = text.replace(value, MASK)
    return text
