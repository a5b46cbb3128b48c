"""An untrusted ``.pt2``: opened without running any code in it, or not at all."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from movinet_convert.errors import ExportError
from movinet_convert.export import aot_inductor, torch_export
from movinet_convert.export.runtime import Job
from movinet_convert.export.step import Program

if TYPE_CHECKING:
    from collections.abc import Callable

Records = dict[str, bytes]
GRAPH = "models/model.json"


class Net(nn.Module):
    """As much as it takes to have a weight, a constant, and a size that is left open."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 2, 1)
        self.register_buffer("taps", torch.ones(2), persistent=False)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        taps: Any = self.taps
        return self.conv(clip).mean(dim=(2, 3, 4)) * taps


@pytest.fixture(scope="module")
def made_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    clip = torch.rand(1, 3, 4, 5, 5)
    program = Program(Net(), (clip,), ("clip",), ("logits",), dynamic_frames=True)
    torch_export.convert(Job(program))(path, '{"variant": "net"}')
    return path


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "ran")


def records(path: Path) -> Records:
    reader = torch._C.PyTorchFileReader(str(path))
    return {name: reader.get_record(name) for name in reader.get_all_records()}


def write(path: Path, content: Records) -> None:
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, record in content.items():
        if not name.startswith((".data/", "byteorder", "version")):
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def saved(malice: Malice) -> bytes:
    buffer = io.BytesIO()
    torch.save((malice,), buffer)
    return buffer.getvalue()


def in_payload(content: Records, malice: Malice, folder: str, file: str, record: bytes) -> None:
    name = f"data/{folder}/model_{folder}_config.json"
    config = json.loads(content[name])
    payload = next(iter(config["config"].values()))
    payload.update(use_pickle=True, path_name=file)
    content[name] = json.dumps(config).encode()
    content[f"data/{folder}/{file}"] = record


def in_graph(content: Records, change: Callable[[dict[str, Any]], None]) -> None:
    graph = json.loads(content[GRAPH])
    change(graph)
    content[GRAPH] = json.dumps(graph).encode()


def code(malice: Malice) -> str:
    return f"__import__('pathlib').Path({str(malice.mark)!r}).write_text('ran')"


def weight(content: Records, malice: Malice) -> None:
    in_payload(content, malice, "weights", "weight_0", saved(malice))


def constant(content: Records, malice: Malice) -> None:
    in_payload(content, malice, "constants", "tensor_0", saved(malice))


def opaque_object(content: Records, malice: Malice) -> None:
    in_payload(content, malice, "constants", "opaque_obj_0", pickle.dumps(malice))


def sample_inputs(content: Records, malice: Malice) -> None:
    content["data/sample_inputs/model.pt"] = saved(malice)


def legacy_weights(content: Records, malice: Malice) -> None:
    content["data/weights/model.pt"] = saved(malice)


def legacy_constants(content: Records, malice: Malice) -> None:
    content["data/constants/model.pt"] = saved(malice)


def size_expression(content: Records, malice: Malice) -> None:
    def change(value: Any) -> None:
        for child in value.values() if isinstance(value, dict) else value:
            if isinstance(child, dict | list):
                change(child)
        if isinstance(value, dict) and "expr_str" in value:
            value["expr_str"] = code(malice)

    in_graph(content, change)


def guard(content: Records, malice: Malice) -> None:
    in_graph(content, lambda graph: graph.update(guards_code=[code(malice)]))


KINDS = {
    kind.__name__: kind
    for kind in (
        weight,
        constant,
        opaque_object,
        sample_inputs,
        legacy_weights,
        legacy_constants,
        size_expression,
        guard,
    )
}


@pytest.fixture(params=KINDS)
def hostile(request: pytest.FixtureRequest, made_here: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A file that runs code, and the file that the code writes."""
    mark = tmp_path / "ran"
    content = records(made_here)
    KINDS[request.param](content, Malice(mark))
    write(tmp_path / "hostile.pt2", content)
    return tmp_path / "hostile.pt2", mark


def attempt(open_file: Callable[[], Any]) -> None:
    with suppress(Exception):
        open_file()([torch.rand(1, 3, 4, 5, 5)])


@pytest.mark.filterwarnings("ignore")
def test_pytorch_runs_the_code_in_the_malicious_files(hostile: tuple[Path, Path]) -> None:
    path, mark = hostile
    attempt(lambda: torch_export.open_file(path, trusted=True))
    assert mark.exists()


def test_no_code_in_a_file_is_run(hostile: tuple[Path, Path]) -> None:
    path, mark = hostile
    attempt(lambda: torch_export.open_file(path))
    assert not mark.exists()


def with_operator(graph: dict[str, Any]) -> None:
    graph["graph_module"]["graph"]["nodes"][-1]["target"] = "torch.ops.aten.from_file.default"


def with_code_for_a_name(graph: dict[str, Any]) -> None:
    entry = graph["graph_module"]["module_call_graph"][0]
    entry["signature"]["forward_arg_names"] = ["clip=print('ran')"]


def with_a_class_to_import(graph: dict[str, Any]) -> None:
    context = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "x"})
    spec = {"type": "builtins.tuple", "context": context, "children_spec": []}
    entry = graph["graph_module"]["module_call_graph"][0]
    entry["signature"]["out_spec"] = json.dumps([1, spec])


@pytest.mark.parametrize("change", [with_operator, with_code_for_a_name, with_a_class_to_import])
def test_a_graph_that_is_not_a_movinet_is_rejected(
    change: Callable[[dict[str, Any]], None], made_here: Path, tmp_path: Path
) -> None:
    content = records(made_here)
    in_graph(content, change)
    write(tmp_path / "other.pt2", content)
    with pytest.raises(ExportError, match="not written by this package"):
        torch_export.open_file(tmp_path / "other.pt2")


def test_an_older_file_format_is_rejected(tmp_path: Path) -> None:
    path, mark = tmp_path / "old.pt2", tmp_path / "ran"
    with zipfile.ZipFile(path, "w") as old:
        old.writestr("version", "8.5")
        for name in ("state_dict", "constants", "example_inputs"):
            old.writestr(f"serialized_{name}.pt", saved(Malice(mark)))
        old.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(ExportError, match="not opened"):
        torch_export.open_file(path)
    assert not mark.exists()


def test_a_damaged_file_is_rejected(made_here: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt2"
    path.write_bytes(made_here.read_bytes()[:-100])
    with pytest.raises(ExportError, match="cut.pt2 is not opened"):
        torch_export.open_file(path)


def test_an_exported_file_gives_the_same_logits(made_here: Path) -> None:
    clip = torch.rand(1, 3, 7, 5, 5)
    (ours,) = torch_export.open_file(made_here)([clip])
    (theirs,) = torch_export.open_file(made_here, trusted=True)([clip])
    assert torch.equal(ours, theirs)
    assert torch_export.read_metadata(made_here) == '{"variant": "net"}'


def test_compiled_code_is_not_run_unless_trusted(made_here: Path) -> None:
    with pytest.raises(ExportError, match="compiled code"):
        aot_inductor.open_file(made_here)
