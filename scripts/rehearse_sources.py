#!/usr/bin/env python3
"""Rehearse a conversion from Kaggle while the Model Garden refuses everyone, on local servers.

    python scripts/rehearse_sources.py                      all twelve
    python scripts/rehearse_sources.py a0-base a0-stream    some

The official model writes the same random seeded weights in both layouts: a checkpoint as in the
Model Garden, and a SavedModel as on Kaggle. ``movinet-convert`` then runs against a Model Garden
that answers 403 and a Kaggle that redirects to a signed address on a third server. Exit code 0 if
every variant is converted to the tensors of its checkpoint, and no signature is shown.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
import google_crc32c
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package beside this script, installed or not

from movinet_convert import variants  # noqa: E402
from movinet_convert.cli.app import main as command  # noqa: E402
from movinet_convert.conversion.sources import Source  # noqa: E402
from movinet_convert.conversion.tensors import convert_checkpoint  # noqa: E402
from movinet_convert.model.settings import get_variant  # noqa: E402
from movinet_convert.parity.reference import shared_reference  # noqa: E402
from movinet_convert.parity.synthetic import write_synthetic_archive  # noqa: E402
from movinet_convert.variants import KINETICS_600_CLASSES, list_variants  # noqa: E402
from scripts.regenerate_weights import default_jobs  # noqa: E402
from tests.checkpoint.writers import kaggle_archive  # noqa: E402

SIGNATURE = "X-Goog-Signature=c0ffee"


def write_both(name: str, folder: Path) -> str:
    """Write Kaggle's archive into ``folder``; the digest of the tensors of the Model Garden's."""
    variant = get_variant(name)
    with tempfile.TemporaryDirectory() as scratch:
        archive = write_synthetic_archive(variant, Path(scratch))
        digest = convert_checkpoint(Source(archive, archive.name, "synthetic"), name=name).digest
        reference = shared_reference(variant, variant.settings(), KINETICS_600_CLASSES)
        kaggle = kaggle_archive(reference.model, name, Path(scratch))
        (folder / name).write_bytes(kaggle.read_bytes())
    return digest


class Host(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Leave the terminal to the script."""

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class ModelGarden(Host):
    def do_GET(self) -> None:
        self.answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>")


class Storage(Host):
    def __init__(self, *arguments: object, folder: Path) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.query != SIGNATURE:
            self.answer(403, {}, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
            return
        body = (self.folder / url.path.strip("/")).read_bytes()
        crc = base64.b64encode(google_crc32c.Checksum(body).digest()).decode()
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        self.answer(200, {"ETag": f'"{md5}"', "x-goog-hash": f"crc32c={crc},md5={md5}"}, body)


class Kaggle(Host):
    def __init__(self, *arguments: object, storage: str) -> None:
        self.storage = storage
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        for name in list_variants():
            if self.path == urlsplit(get_variant(name).kaggle_url or "").path:
                self.answer(302, {"Location": f"{self.storage}/{name}?{SIGNATURE}"})
                return
        self.answer(404, {})


@contextmanager
def serve(handler: object) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def convert_all(names: list[str], archives: Path, scratch: Path) -> tuple[dict[str, str], str]:
    """Convert with ``--source auto``; the digests of the tensors, and all that was said."""
    digests: dict[str, str] = {}
    said = ""
    with ExitStack() as stack:
        storage = stack.enter_context(serve(functools.partial(Storage, folder=archives)))
        variants.MODEL_GARDEN_ROOT = stack.enter_context(serve(ModelGarden))
        variants.KAGGLE_ROOT = stack.enter_context(
            serve(functools.partial(Kaggle, storage=storage))
        )
        os.environ["MOVINET_CACHE_DIR"] = str(scratch / "cache")
        for mode, causal in (("base", []), ("stream", ["--causal"])):
            archs = [name.split("-")[0] for name in names if name.endswith(mode)]
            options = [*causal, *(word for arch in archs for word in ("--arch", arch))]
            options += ["--source", "auto", "--no-verify", "--out", str(scratch / "store")]
            if not archs:
                continue
            done = CliRunner().invoke(command, [*options, "--json"])
            said += done.output
            output = json.loads(done.stdout)
            rows = output.get("converted", [output])
            found = {row["variant"]: row["source"] for row in rows if "source" in row}
            digests |= {
                name: source["digest"]
                for name, source in found.items()
                if (source["fetched_from"], source["layout"]) == ("kaggle", "tfhub-saved-model")
            }
    return digests, said + (scratch / "store" / "weights_manifest.yaml").read_text("utf-8")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def main(names: tuple[str, ...]) -> None:
    """Rehearse the conversion of some variants from Kaggle; all twelve unless some are named."""
    chosen = [get_variant(name).name for name in names] or list_variants()
    with tempfile.TemporaryDirectory(prefix="movinet-sources-") as folder:
        scratch, archives = Path(folder), Path(folder) / "archives"
        archives.mkdir()
        start = time.monotonic()
        # Each in a process of its own: TensorFlow frees its memory only when its process ends.
        with multiprocessing.get_context("spawn").Pool(default_jobs(), maxtasksperchild=1) as pool:
            write = functools.partial(write_both, folder=archives)
            expected = dict(zip(chosen, pool.map(write, chosen, chunksize=1), strict=True))
        click.echo(
            f"{len(chosen)} variants written in both layouts, {time.monotonic() - start:.0f} s"
        )
        start = time.monotonic()
        found, said = convert_all(chosen, archives, scratch)
    for name in chosen:
        same = found.get(name) == expected[name]
        click.echo(f"{name:<10} {'equal' if same else 'DIFFERS'}  {expected[name]}")
    refused = said.count("(Model Garden failed: the server refuses access: 403 Forbidden).")
    click.echo(f"{refused} from Kaggle after a 403, {time.monotonic() - start:.0f} s")
    shown = "c0ffee" in said
    if shown:
        click.echo("A signature was shown.")
    if found != expected or refused != len(chosen) or shown:
        click.echo(said, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
