"""What is stored beside the weights: by the path of the object that TensorFlow or Keras saved."""

from __future__ import annotations

SAVE_COUNTER = "number of checkpoints saved"

_AVERAGE = "moving average of a weight, kept by the optimizer"
_SLOT = "optimizer slot"
_STEPS = "training step counter"
_OPTIMIZER = "optimizer variable"
_METRIC = "metric"
_RANDOM = "state of a random generator"

_COUNTERS = {"save_counter": SAVE_COUNTER, "global_step": _STEPS, "step": _STEPS}
_FOLDERS = {
    "optimizer": _OPTIMIZER,
    "optimizer_weights": _OPTIMIZER,
    "seed_generator": _RANDOM,
    "_seed_generator": _RANDOM,
}
_METRIC_WORDS = ("metric", "metrics", "loss")
_METRIC_PREFIXES = ("", "train_", "training_", "validation_", "compiled_", "_compile_", "_")
_METRICS = frozenset(prefix + word for prefix in _METRIC_PREFIXES for word in _METRIC_WORDS)


def reason(path: str) -> str | None:
    """Why the variable at ``path`` is no weight of the network, or None if it may be one."""
    words = path.split("/")
    *folders, last = words
    if ".OPTIMIZER_SLOT" in folders:
        return _AVERAGE if folders[-2:-1] == [".OPTIMIZER_SLOT"] and last == "average" else _SLOT
    if last in _COUNTERS:
        return _COUNTERS[last]
    if "optimizer" in folders and last in ("iter", "iterations", "_iterations"):
        return _STEPS
    for word in folders:
        if word in _FOLDERS:
            return _FOLDERS[word]
    return _METRIC if any(word in _METRICS for word in words) else None


def split(paths: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Part ``path -> stored name`` into the weights and ``stored name -> reason`` for the rest."""
    reasons = {path: reason(path) for path in paths}
    weights = {path: stored for path, stored in paths.items() if reasons[path] is None}
    return weights, {paths[path]: why for path, why in reasons.items() if why is not None}
