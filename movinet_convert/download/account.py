"""A Kaggle account in the environment, named as Kaggle's own tools (kaggle, kagglehub) expect it.

The releases need none. It is sent to the address that it is given for, and to no redirect's target.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path

import requests

from movinet_convert.errors import UsageError
from movinet_convert.files.reading import open_regular

TOKEN, USER, KEY = "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"
MAX_TOKEN_CHARACTERS = 10_000


class NoAccount:
    """An authentication that sends nothing, not even a password from ``.netrc``."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


@dataclass(frozen=True)
class KaggleAccount(NoAccount):
    """``variables`` say where it was found."""

    variables: str
    header: str = field(repr=False)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self.header
        return request


def kaggle_account() -> NoAccount:
    """The account in the environment, if any; UsageError if it cannot be one.

    ``KAGGLE_API_TOKEN`` is a token, or the path of a file with one; without it, ``KAGGLE_USERNAME``
    and ``KAGGLE_KEY`` are used.
    """
    if token := os.environ.get(TOKEN, "").strip():
        return KaggleAccount(f"${TOKEN}", f"Bearer {_checked(TOKEN, _in_file(token))}")
    user, key = os.environ.get(USER, "").strip(), os.environ.get(KEY, "").strip()
    if not (user and key):
        return NoAccount()
    pair = f"{_checked(USER, user)}:{_checked(KEY, key)}"
    return KaggleAccount(f"${USER} and ${KEY}", f"Basic {base64.b64encode(pair.encode()).decode()}")


def _in_file(token: str) -> str:
    try:
        with open_regular(Path(token), UsageError) as file:
            return file.read(MAX_TOKEN_CHARACTERS + 1).decode().strip()
    except (OSError, ValueError):
        return token


def _checked(variable: str, value: str) -> str:
    plain = value.isascii() and value.isprintable() and " " not in value
    if not (plain and 0 < len(value) <= MAX_TOKEN_CHARACTERS):
        raise UsageError(
            f"${variable} is not what Kaggle gives out; correct it or unset it, as the releases "
            "need no account."
        )
    return value
