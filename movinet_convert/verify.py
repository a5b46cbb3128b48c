"""Is a converted file right? Compare it with the official model, TensorFlow and all."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from movinet_convert.loader import load_file, locate
from movinet_convert.parity.options import ParityOptions

if TYPE_CHECKING:
    import os

    from movinet_convert.parity import ParityReport

DEFAULT_PARITY = ParityOptions()


def verify(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
    parity: ParityOptions = DEFAULT_PARITY,
) -> ParityReport:
    """Compare a converted variant, or a file, with the official TensorFlow model.

    The file's tensors go back through the mapping table into TensorFlow's variables, so a fault
    of the table shows as a difference too.

    Raises as ``load_converted`` does, and MissingExtraError without the extra [tf].
    """
    from movinet_convert.export.tf_checkpoint import tf_variables
    from movinet_convert.parity import verify_model

    model = load_file(locate(name, weights_dir=weights_dir, version=version))
    return verify_model(model, tf_variables(model), **dataclasses.asdict(parity))
