"""Reading an untrusted ``.pt2`` without running any code in it.

``torch.export.load`` unpickles weights, constants and sample inputs, evaluates size expressions,
compiles guards and argument names as Python, imports by name and loads compiled libraries. Here
the graph and the plain tensors are extracted, checked against what ``export`` writes, and copied
into a new archive that contains nothing else, which PyTorch then reads.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import torch

from movinet_convert.errors import ExportError
from movinet_convert.files.reading import open_regular

GRAPH = "models/model.json"
TENSORS = {
    "data/weights/": "model_weights_config.json",
    "data/constants/": "model_constants_config.json",
}
EXTRA = "extra/"
ARCHIVE = ("archive_format", "archive_version")
SAMPLE_INPUTS = "data/sample_inputs/model.pt"

# The ATen operators of a MoViNet, none of which opens a file, and the product of two sizes.
OPERATOR = re.compile(
    r"_operator\.mul|torch\.ops\.aten\.(?:"
    r"_assert_scalar|_assert_tensor_metadata|_to_copy|abs|adaptive_avg_pool2d|"
    r"adaptive_avg_pool3d|add|addcmul|addmm|alias|arange|avg_pool2d|avg_pool3d|cat|"
    r"clamp|clone|concat|constant_pad_nd|contiguous|conv1d|conv2d|conv3d|convolution|"
    r"copy|cos|cumsum|detach|detach_|div|dropout|empty|expand|floor_divide|flatten|full|"
    r"gelu|ge|gt|hardsigmoid|hardswish|hardtanh|le|linear|lt|matmul|mean|mul|"
    r"narrow|neg|ones|pad|permute|pow|promote_types|reciprocal|relu|relu6|remainder|"
    r"repeat|reshape|rsqrt|rsub|select|sigmoid|silu|sin|slice|split|"
    r"split_with_sizes|sqrt|squeeze|stack|sub|sum|sym_constrain_range_for_size|"
    r"sym_size|t|tanh|to|transpose|unbind|unflatten|unfold|unsqueeze|view|where|"
    r"zeros"
    r")\.\w+",
    re.ASCII,
)
# Expressions of these characters cannot call anything.
WORD = re.compile(r"[\w.]*", re.ASCII)
EXPRESSION = re.compile(
    r"(?:\b(?:Symbol|Integer|Mul|Add|Max|Min|FloorDiv|Mod|CeilDiv|CleanDiv)\("
    r"|'[su]\d+'|\b[su]\d+\b|\b(?:positive|integer|nonnegative)=True|-?\b\d+\b|[(), ])*",
    re.ASCII,
)
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
PLAIN_CONTEXTS = (None, "null", "[]")


def load(path: Path) -> torch.export.ExportedProgram:
    """Load a program as ``export`` writes it.

    Raises ExportError for a file that is damaged, contains anything else or needs to run code.
    """
    with open_regular(path, ExportError) as file:
        content = file.read()
    try:
        return torch.export.load(_plain_copy(content))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ExportError(
            f"{path} is not opened, since it is damaged or was not written by this package "
            f"({reason}), and PyTorch would run code in such a file. If you trust its source, "
            "open it with trusted=True."
        ) from None


def read_extra(path: Path, name: str) -> str:
    """An extra file of a ``.pt2``, such as its metadata; nothing else of it is read."""
    with open_regular(path, ExportError) as file:
        try:
            record = torch._C.PyTorchFileReader(file).get_record(EXTRA + name)
            return bytes(record).decode("utf-8")
        except (RuntimeError, UnicodeDecodeError):
            raise ExportError(f"{path} is not a .pt2 file with {name} metadata.") from None


def _plain_copy(content: bytes) -> io.BytesIO:
    """An archive of only the graph and the plain tensors; ValueError if the program needs more."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = reader.get_all_records()
    if sum(reader.get_record_size(name) for name in names) > len(content):
        raise ValueError("its records are compressed")
    records = {GRAPH: json.dumps(_checked_graph(json.loads(reader.get_record(GRAPH)))).encode()}
    for folder, config_name in TENSORS.items():
        config = json.loads(reader.get_record(folder + config_name))
        records[folder + config_name] = json.dumps(config).encode()
        for name in sorted(_tensor_files(config)):
            records[folder + name] = reader.get_record(folder + name)
    records[SAMPLE_INPUTS] = b""  # pickled, and not needed
    records.update((name, reader.get_record(name)) for name in ARCHIVE)
    copy = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(copy)
    for name, record in records.items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    copy.seek(0)
    return copy


def _tensor_files(config: dict[str, Any]) -> set[str]:
    """The files of plain tensors in a payload; every other kind is pickled or an object."""
    _check_strings(config)
    files = set()
    for name, payload in config["config"].items():
        file = payload["path_name"]
        if payload["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", file):
            raise ValueError(f"{name} is pickled")
        files.add(file)
    return files


def _checked_graph(program: dict[str, Any]) -> dict[str, Any]:
    """The program without its debug metadata, after checking that all its strings are harmless."""
    module = program["graph_module"]
    if program.pop("guards_code", []):
        raise ValueError("it has guards, which are Python code")
    for node in module["graph"]["nodes"]:
        if not OPERATOR.fullmatch(node["target"]):
            raise ValueError(f"the operator {node['target'][:80]} is not one of a MoViNet's")
        node["metadata"] = {}
    for entry in module["module_call_graph"]:
        if entry["signature"] is not None:
            for spec in ("in_spec", "out_spec"):
                _check_containers(json.loads(entry["signature"][spec])[1])
    module["metadata"] = {}
    program["torch_version"] = torch.__version__
    _check_strings({**program, "torch_version": ""})
    return program


def _check_containers(spec: dict[str, Any]) -> None:
    """Allow only tuples, lists and empty dicts: the contexts of others name classes to import."""
    if spec["type"] not in CONTAINERS:
        raise ValueError(f"it has arguments of the type {str(spec['type'])[:80]}")
    if spec["context"] not in PLAIN_CONTEXTS:
        raise ValueError("it has arguments by name")
    for child in spec["children_spec"]:
        _check_containers(child)


def _check_strings(value: Any, key: str = "") -> None:
    """Check that every string is a name or, for sizes, an expression without function calls.

    Nested graphs, which could hide operators, are rejected.
    """
    if key in ("as_graph", "as_custom_obj", "as_operator") and value is not None:
        raise ValueError(f"it has an argument of the kind {key}")
    if isinstance(value, dict):
        for name, child in value.items():
            _check_strings(name)
            _check_strings(child, name)
    elif isinstance(value, list):
        for child in value:
            _check_strings(child, key)
    elif isinstance(value, str) and key not in ("in_spec", "out_spec"):
        pattern = EXPRESSION if key == "expr_str" else WORD
        if not pattern.fullmatch(value):
            raise ValueError(f"it holds the string {value[:80]!r}")
