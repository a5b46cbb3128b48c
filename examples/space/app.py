"""The page of ``movinet-convert demo`` as a Hugging Face Space.

The variable MOVINET_DEMO of the Space has the networks, with spaces between them: hf://ORG/NAME, or
paths of files. Without it, the variants in the store are shown.
"""

from __future__ import annotations

import os

from movinet_convert.export.exported import is_exported, load_exported
from movinet_convert.video.demo.models import Loaded, Models, in_store, load
from movinet_convert.video.demo.page import Limits, build, launch_settings

LIMITS = Limits(megabytes=50, seconds=120)  # the machine is shared


def load_named(name: str) -> Loaded:
    return load(name, exported=load_exported(name) if is_exported(name) else None)


demo = build(Models(os.environ.get("MOVINET_DEMO", "").split() or in_store(), load_named), LIMITS)

if __name__ == "__main__":
    demo.launch(**launch_settings(LIMITS))
