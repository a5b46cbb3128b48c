"""Packages that only an extra installs, and the command that adds an extra."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from movinet_convert.errors import MissingExtraError

PACKAGE = "movinet-convert"
ROOT = Path(__file__).parents[2]
UNPINNED = ("litert",)  # its packages need other versions than constraints.txt has


def missing_extra(what: str, extra: str, otherwise: str = "") -> MissingExtraError:
    """The error for a feature whose extra is not installed; ``otherwise`` goes without it."""
    alternative = f", or {otherwise}" if otherwise else ""
    own = " in an environment of its own" if extra in UNPINNED else ""
    return MissingExtraError(
        f"{what} needs the extra [{extra}]; install it{own} with {install_command(extra)}"
        f"{_where()}{alternative}."
    )


def install_command(extra: str) -> str:
    """The pip command that adds an extra to this environment, from where the package came from.

    That is a folder, with its constraints.txt, a Git repository, an archive, or an index.
    """
    pip = ["pip"] if extra in UNPINNED else _pip()  # that of the other environment
    arguments, origin = [*pip, "install"], _origin()
    url = origin.get("url", "")
    if "dir_info" in origin:
        folder = _folder(url)
        if not folder.is_dir():
            return shlex.join([*arguments, f".[{extra}]"])
        if (folder / "constraints.txt").is_file() and extra not in UNPINNED:
            arguments += ["-c", str(folder / "constraints.txt")]
        editable = origin["dir_info"].get("editable", False)
        arguments += [*(["-e"] if editable else []), f"{folder}[{extra}]"]
    elif "vcs_info" in origin:
        info = origin["vcs_info"]
        revision = info.get("requested_revision") or info.get("commit_id")
        address = f"{info.get('vcs', 'git')}+{url}{f'@{revision}' if revision else ''}"
        arguments.append(f"{PACKAGE}[{extra}] @ {address}")
    else:
        arguments.append(f"{PACKAGE}[{extra}]" + (f" @ {url}" if url else ""))
    if os.name == "nt":
        return " ".join(f'"{each}"' if set(each) & set(" [&") else each for each in arguments)
    return shlex.join(arguments)


def _folder(url: str) -> Path:
    return Path(url2pathname(urlparse(url).path))


def _where() -> str:
    """Where to run the command, if the folder that the package came from is gone."""
    origin = _origin()
    gone = "dir_info" in origin and not _folder(origin.get("url", "")).is_dir()
    return " in a clone of the repository" if gone else ""


def _pip() -> list[str]:
    """``pip``, or where that is another environment's, ``PYTHON -m pip``."""
    found = shutil.which("pip")
    ours = found is not None and Path(found).parent == Path(sys.executable).parent
    return ["pip"] if ours else [sys.executable, "-m", "pip"]


def _origin() -> dict[str, Any]:
    """Where the package was installed from, as in PEP 610; nothing for an index.

    Code that runs from a checkout without being installed comes from that folder.
    """
    try:
        recorded = distribution(PACKAGE).read_text("direct_url.json")
    except PackageNotFoundError:
        return {"url": ROOT.as_uri(), "dir_info": {}}
    with suppress(TypeError, ValueError):
        origin = json.loads(recorded or "")
        if isinstance(origin, dict):
            return origin
    return {}
