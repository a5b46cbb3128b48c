"""``movinet-convert demo``."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

import click

from movinet_convert.cli import completion, options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import doing, echo
from movinet_convert.cli.threads import follow_load

if TYPE_CHECKING:
    from movinet_convert.video.demo.models import Models


@click.command("demo", cls=Command, short_help="Try networks on a page in the browser.")
@click.argument(
    "names", nargs=-1, metavar="[NAME|FILE]...", shell_complete=completion.stored_or_file
)
@options.weights_dir
@options.labels
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to serve at; 0.0.0.0 lets other machines in. Browsers allow a webcam only on "
    "this machine or over https.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="By default the first free one from 7860 on."
)
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
@click.option(
    "--max-mb", type=click.IntRange(min=1), default=200, help="Largest video to upload, in MB."
)
@click.option(
    "--max-seconds", type=options.positive, default=600.0, help="Seconds read of each video."
)
@options.threads
@options.device
@options.trusted
def demo_command(
    names: tuple[str, ...],
    weights_dir: str | None,
    host: str,
    port: int | None,
    no_browser: bool,
    max_mb: int,
    max_seconds: float,
    labels: Path | None,
    threads: int,
    device: str | None,
    trusted: bool,
) -> None:
    """Try networks on a page in the browser: drop a video on it, or open the webcam.

    NAME is in the store, or hf://ORG/NAME; FILE has converted weights, or was written by export
    and runs in its own runtime; the page offers the choice between them. By default, all
    variants in the store. Videos and pictures stay on the machine that runs the command. Ctrl-C
    ends it.

    \b
    Examples:
      movinet-convert demo
      movinet-convert demo a0-stream a2-stream a0-stream.onnx
      movinet-convert demo mine.safetensors --labels labels.txt --port 8000 --no-browser
    """
    from movinet_convert.video.decode import import_av
    from movinet_convert.video.demo.models import Loaded, Models, in_store, load
    from movinet_convert.video.demo.page import Limits, build, import_gradio
    from movinet_convert.video.demo.server import serving

    with doing("Starting"):
        import_gradio()
    import_av()  # after gradio, whose extra has both

    def load_named(name: str) -> Loaded:
        # The store is for those names that are not of files.
        folder = weights_dir if len(names) < 2 else None
        exported = options.exported(name, device, threads, trusted, folder)
        how = {"labels": labels, "threads": threads, "device": device}
        return load(name, weights_dir=weights_dir, exported=exported, **how)

    follow_load(threads)
    models = Models(names or in_store(weights_dir), load_named)
    _load(models, all_of_them=bool(names))
    limits = Limits(max_mb, max_seconds)
    with serving(build(models, limits), limits, host, port, browser=not no_browser) as address:
        _wait(address)


def _load(models: Models, *, all_of_them: bool) -> None:
    """Load what was named, so that an error comes before the page; of a store, the first."""
    for title in list(models.titles)[: None if all_of_them else 1]:
        with doing(f"Loading {title}"):
            models.get(title)


def _wait(address: str) -> None:
    try:
        echo(f"The page is at {address} until Ctrl-C.", err=True)
        while True:
            sleep(3600)
    except KeyboardInterrupt:
        return  # the normal way to end it
