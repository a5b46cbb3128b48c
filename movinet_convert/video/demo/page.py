"""The page: its layout, and what happens when something on it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from movinet_convert.files.extras import missing_extra
from movinet_convert.video.demo import handlers
from movinet_convert.video.demo.models import Models

FOLDER = Path(__file__).parent
TITLE = "MoViNet"
INTRODUCTION = "Drop a video, or open the webcam, to see what these networks recognize in it."
FRAME_RATES = (1, 2, 3, 5, 8, 10, 12, 15, 24, 30)
WINDOWS = (1, 2, 5, 10, 30)  # seconds
STREAM_EVERY = 1 / 15  # seconds between the pictures that the browser sends
CAMERA = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}}
STREAMS, VIDEOS = 16, 2  # at the same time; others wait
CACHE_SECONDS = 3600  # after which an uploaded video is deleted
FONTS = ("system-ui", "sans-serif")  # of the system: no request to other hosts
PICTURE = {"show_label": False, "height": 360}


@dataclass(frozen=True)
class Limits:
    """Of an uploaded video: its size, and how much of it is read."""

    megabytes: int = 200
    seconds: float = 600.0


def import_gradio() -> Any:
    """Gradio; MissingExtraError where it is not installed."""
    try:
        import gradio
    except ImportError:
        raise missing_extra("The page", "demo") from None
    return gradio


def build(models: Models, limits: Limits) -> Any:
    """The page as ``gradio.Blocks``, which is launched with ``launch_settings``."""
    gr = import_gradio()
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)
    ) as page:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        caution = gr.HTML(js_on_load=None)
        with gr.Tab("Video"):
            video, *seen = _panel(gr, lambda: gr.Video(sources=["upload"], **PICTURE))
        with gr.Tab("Webcam"):
            webcam, *live = _panel(gr, lambda: _webcam(gr))
        choices = _choices(gr, list(models.titles))
        network = gr.HTML(js_on_load=None)
        session = gr.State()
        gr.on(
            [page.load, *(choice.change for choice in choices)],
            handlers.described(models),
            choices,
            [caution, network],
            api_visibility="private",
            show_progress="hidden",
        )
        gr.on(
            [video.change, *(choice.change for choice in choices)],
            handlers.classified(models, limits.seconds),
            [video, *choices],
            seen,
            api_name="classify",
            trigger_mode="always_last",
            concurrency_limit=VIDEOS,
            show_progress="hidden",
        )
        webcam.stream(
            handlers.streamed(models),
            [webcam, session, *choices],
            [session, *live],
            api_visibility="private",
            stream_every=STREAM_EVERY,
            concurrency_limit=STREAMS,
            show_progress="hidden",
        )
    return page


def _panel(gr: Any, picture: Callable[[], Any]) -> list[Any]:
    """The picture with the timeline under it, and the prediction beside them."""
    with gr.Row(elem_classes="mv-panel"):
        with gr.Column(scale=3, min_width=280):
            shown = picture()
            timeline = gr.HTML(js_on_load=None)
        with gr.Column(scale=2, min_width=280):
            prediction = gr.HTML(handlers.NOTHING[0], js_on_load=None)
    return [shown, prediction, timeline]


def _webcam(gr: Any) -> Any:
    options = gr.WebcamOptions(mirror=False, constraints=CAMERA)
    return gr.Image(sources=["webcam"], streaming=True, webcam_options=options, **PICTURE)


def _choices(gr: Any, titles: list[str]) -> list[Any]:
    """The network, its frame rate and its windows; 0 is the default of each network."""
    rates = [("its own", 0), *((f"{rate}", rate) for rate in FRAME_RATES)]
    windows = [("automatic", 0), *((f"{seconds} s", seconds) for seconds in WINDOWS)]
    with gr.Row():
        return [
            gr.Dropdown(titles, value=titles[0], label="Network", interactive=True),
            gr.Dropdown(rates, value=0, label="Frames per second", interactive=True),
            gr.Dropdown(windows, value=0, label="Window", interactive=True),
        ]


def launch_settings(limits: Limits) -> dict[str, Any]:
    """What ``gradio.Blocks.launch`` needs for this page: no other host is asked for anything."""
    gr = import_gradio()
    script = (FOLDER / "page.js").read_text("utf-8")
    return {
        "theme": gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=FONTS),
        "css_paths": FOLDER / "page.css",
        "head": f"<script>{script}</script>",
        "max_file_size": f"{limits.megabytes}mb",
        "share": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": [],
        "quiet": True,
    }
