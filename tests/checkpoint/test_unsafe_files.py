"""HDF5 and PyTorch files with external links, false sizes or code are refused."""

from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from movinet_convert.checkpoint import keras_hdf5, open_checkpoint
from movinet_convert.errors import CheckpointError
from scripts.fuzzing import write_hdf5, write_torch


@pytest.fixture
def keras(tmp_path: Path) -> Path:
    path = tmp_path / "x.weights.h5"
    write_hdf5(path)
    assert open_checkpoint(path).layout == "keras-weights-h5"
    return path


@pytest.fixture
def state_dict(tmp_path: Path) -> Path:
    path = tmp_path / "statedict"
    write_torch(path)
    assert open_checkpoint(path).layout == "pytorch-port"
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        dict(open_checkpoint(path).variables)


@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/layers"), h5py.ExternalLink("/etc/other.h5", "/x")], ids=["soft", "ex"]
)
def test_refuses_hdf5_link(keras: Path, link: Any) -> None:
    with h5py.File(keras, "a") as file:
        file["layers/more"] = link
    refused(keras, r"'layers/more': it is a link")


def test_refuses_hdf5_data_in_another_file(keras: Path) -> None:
    secret = keras.with_name("secret")
    secret.write_bytes(bytes(400))
    with h5py.File(keras, "a") as file:
        file.create_dataset("layers/x", (100,), "f4", external=[(str(secret), 0, 400)])
    refused(keras, "outside the file")


def test_refuses_virtual_hdf5_dataset(keras: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(keras.with_name("other.h5")), "x", shape=(4,))
    with h5py.File(keras, "a") as file:
        file.create_virtual_dataset("layers/x", layout)
    refused(keras, "outside the file")


def test_refuses_terabyte_hdf5_array_before_allocation(keras: Path) -> None:
    with h5py.File(keras, "a") as file:
        file.create_dataset("layers/x", (1 << 38,), "f4", chunks=(1 << 20,))
    tracemalloc.start()
    refused(keras, "takes 1,099,511,627,776 bytes, but 0 are stored")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_refuses_compressed_hdf5_with_advice(keras: Path) -> None:
    with h5py.File(keras, "a") as file:
        file.create_dataset("layers/x", data=np.zeros((64, 64)), compression="gzip")
    refused(keras, "is compressed.*save the weights again")


def test_refuses_compressed_chunk_larger_than_its_array(keras: Path) -> None:
    """64 MiB of zeros in 64 KiB, of an array that claims to be no larger than those."""
    chunk = zlib.compress(bytes(64 << 20))
    chunk += bytes(-len(chunk) % 4)
    with h5py.File(keras, "a") as file:
        options: Any = {"maxshape": (None,), "chunks": (16 << 20,), "compression": "gzip"}
        array = file.create_dataset("layers/x", (len(chunk) // 4,), "f4", **options)
        array.id.write_direct_chunk((0,), chunk)
    refused(keras, "'layers/x': it is compressed")


def test_refuses_hdf5_array_under_many_names(keras: Path) -> None:
    with h5py.File(keras, "a") as file:
        file["layers/x/vars/0"] = np.zeros(10_000, np.float32)
        for number in range(1, 100):
            file[f"layers/x/vars/{number}"] = file["layers/x/vars/0"]
    refused(keras, "take more bytes than the file has")


def test_refuses_long_names_shared_by_many_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nested groups let twenty bytes on disk stand for a path of a thousand."""
    monkeypatch.setattr(keras_hdf5, "_MAX_TOTAL_NAMES", 1 << 20)
    with h5py.File(tmp_path / "x", "w") as file:
        inner = file.create_group("/".join(["g" * 240] * 4))
        array = inner.create_dataset("a", (0,), "f4")
        for number in range(1_200):
            inner[f"{number}"] = array
    refused(tmp_path / "x", "longer names than any MoViNet's")


def test_refuses_string_in_hdf5(keras: Path) -> None:
    with h5py.File(keras, "a") as file:
        file["layers/x"] = "hello"
    refused(keras, "not an array of numbers")


def test_refuses_cyclic_hdf5_groups(keras: Path) -> None:
    with h5py.File(keras, "a") as file:
        file["layers/again"] = file["layers"]  # a hard link: a loop
    refused(keras, "more objects|longer names")


@pytest.mark.parametrize("keep", [100, 2000, -100])
def test_refuses_truncated_hdf5(keras: Path, keep: int) -> None:
    keras.write_bytes(keras.read_bytes()[:keep])
    refused(keras, "cannot be read as HDF5")


def test_refuses_hdf5_of_another_model(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["dense/dense/kernel:0"] = np.zeros((2, 2), np.float32)
    refused(tmp_path / "x.h5", r"not one of a MoViNet.*dense/dense/kernel:0")


def test_names_unknown_hdf5_array(keras: Path) -> None:
    with h5py.File(keras, "a") as file:
        file["layers/decoder/vars/0"] = np.zeros(2, np.float32)
    refused(keras, "'layers/decoder/vars/0'")


class Payload:
    """What an attacker pickles: loading it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("legacy", [False, True])
def test_refuses_state_dict_with_code_without_running_it(tmp_path: Path, legacy: bool) -> None:
    target = tmp_path / "owned"
    state = {"conv1.conv_1.conv3d.weight": torch.zeros(1), "x": Payload(target)}
    torch.save(state, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path / "x", "cannot be loaded as a PyTorch state dict of tensors")
    assert not target.exists()


def test_refuses_bare_pickle_with_code_without_running_it(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    (tmp_path / "x").write_bytes(pickle.dumps(Payload(target), protocol=2))
    refused(tmp_path / "x", "cannot be loaded as a PyTorch state dict")
    assert not target.exists()


def test_refuses_tensor_larger_than_its_file(tmp_path: Path) -> None:
    """A stride of 0 makes a terabyte of four bytes."""
    torch.save({"conv1.conv_1.conv3d.weight": torch.zeros(1).expand(1 << 38)}, tmp_path / "x")
    refused(tmp_path / "x", "larger than the file")


def test_refuses_zip_bomb(state_dict: Path) -> None:
    bomb = state_dict.with_name("bomb")
    with zipfile.ZipFile(state_dict) as source, zipfile.ZipFile(bomb, "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("statedict/data/99", bytes(64 << 20))
    refused(bomb, "compressed")


def test_refuses_zip_that_claims_to_span_disks(state_dict: Path) -> None:
    """Python's zipfile raises even when only asked whether the file is a zip."""
    data = state_dict.read_bytes()
    locator = data.index(b"PK\x06\x07")
    state_dict.write_bytes(data[: locator + 16] + b"\x02" + data[locator + 17 :])
    refused(state_dict, "cannot be loaded")


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}, {"x": 1}, {1: torch.zeros(2)}], ids=str)
def test_refuses_file_without_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x")
    refused(tmp_path / "x", "contains no state dict")


STEM = "conv1.conv_1.conv3d.weight"


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to(torch.float8_e4m3fn), "is stored as float8_e4m3fn"),
        (lambda t: t.to(torch.complex64), "is stored as complex64"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"is quantized \(qint8\)"),
        (lambda t: t.to("meta"), r"is without values \(device meta\)"),
        (lambda t: torch.nested.nested_tensor([t, t[:1]]), "is a nested tensor"),
        (lambda t: t.to_sparse(), r"uses torch\.Size"),
    ],
    ids=["float8", "complex", "quantized", "meta", "nested", "sparse"],
)
def test_refuses_tensor_that_is_not_a_plain_array(change: Any, said: str, state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    torch.save({**state, STEM: change(state[STEM])}, state_dict)
    refused(state_dict, said)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_reads_other_float_dtypes_exactly(dtype: torch.dtype, state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    torch.save({**state, STEM: state[STEM].to(dtype)}, state_dict)
    read = open_checkpoint(state_dict).variables["stem/_stem/_conv/kernel"]
    expected = state[STEM].to(dtype).to(torch.float64).permute(2, 3, 4, 1, 0).numpy()
    np.testing.assert_array_equal(read.astype(np.float64), expected)


def test_reads_parameters_and_lazily_negated_tensors(state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    negated = torch.view_as_complex(torch.stack([state[STEM], -state[STEM]], -1)).conj().imag
    assert negated.is_neg()
    for tensor in (torch.nn.Parameter(state[STEM]), negated):
        torch.save({**state, STEM: tensor}, state_dict)
        read = open_checkpoint(state_dict).variables["stem/_stem/_conv/kernel"]
        np.testing.assert_array_equal(read.ravel(), state[STEM].permute(2, 3, 4, 1, 0).ravel())


def test_reads_gpu_tensors_without_gpu(state_dict: Path) -> None:
    gpu = state_dict.with_name("gpu")
    with zipfile.ZipFile(state_dict) as source, zipfile.ZipFile(gpu, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            cpu, cuda = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"
            target.writestr(name, content.replace(cpu, cuda) if name.endswith(".pkl") else content)
    assert open_checkpoint(gpu).layout == "pytorch-port"


def test_reads_state_dict_in_training_checkpoint(state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)]).state_dict()
    torch.save({"epoch": 3, "state_dict": state, "optimizer": optimizer}, state_dict)
    opened = open_checkpoint(state_dict)
    assert set(opened.ignored) == {"epoch", "optimizer"}
    assert opened.variables["stem/_stem/_conv/kernel"].size == state[STEM].numel()


def test_names_several_state_dicts_in_one_file(state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    torch.save({"model": state, "ema": state}, state_dict)
    refused(state_dict, r"contains 2 state dicts \('model', 'ema'\)")


def test_names_entry_that_is_not_a_tensor(state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    torch.save({**state, "epoch": 3}, state_dict)
    refused(state_dict, "'epoch' is an int")


def test_refuses_pickled_module_without_advice_to_trust_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x")
    refused(tmp_path / "x", r"tensors \(it uses torch\.nn\.modules\.linear\.Linear\)")


class Bomb:
    """A quarter of a gigabyte in a few bytes, by a function that torch.load may call."""

    def __reduce__(self) -> Any:
        return bytearray, (1 << 28,)


def dict_copies() -> bytes:
    """A dict of 10,000 members, and a thousand copies of it at five bytes each."""
    members = b"(" + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in range(10_000)) + b"u"
    named = b"ccollections\nOrderedDict\nq\1"
    copies = b"h\1h\0\x85R" * 1000
    return b"\x80\2(" + b"}q\0" + members + named + copies + b"l."


def test_refuses_memory_exhausting_pickle_before_loading(tmp_path: Path) -> None:
    torch.save({STEM: torch.zeros(1), "x": Bomb()}, tmp_path / "zip")
    torch.save(Bomb(), tmp_path / "old", _use_new_zipfile_serialization=False)
    (tmp_path / "copies").write_bytes(dict_copies())
    for name, said in (("zip", "bytearray"), ("old", "bytearray"), ("copies", "in an unusual way")):
        tracemalloc.start()
        refused(tmp_path / name, f"cannot be loaded .*{said}")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 32 << 20, name


def test_refuses_pickle_with_more_objects_than_any_movinet(tmp_path: Path) -> None:
    """An empty list is one byte on disk and 56 in memory."""
    (tmp_path / "x").write_bytes(b"\x80\2" + b"]" * (1 << 20) + b".")
    refused(tmp_path / "x", "cannot be loaded .*more objects than any MoViNet")


@pytest.mark.parametrize("keep", [10, 1000, -30])
def test_refuses_truncated_state_dict(state_dict: Path, keep: int) -> None:
    state_dict.write_bytes(state_dict.read_bytes()[:keep])
    refused(state_dict, "cannot be loaded")


def test_refuses_state_dict_of_another_model(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "x")
    refused(tmp_path / "x", "not one of a MoViNet")


def test_reads_old_torch_format(state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    old = state_dict.with_name("old")
    torch.save(state, old, _use_new_zipfile_serialization=False)
    ours, theirs = open_checkpoint(old).variables, open_checkpoint(state_dict).variables
    assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}


def test_ignores_batch_norm_counters(state_dict: Path) -> None:
    state = torch.load(state_dict, weights_only=True)
    name = "conv1.conv_1.norm.num_batches_tracked"
    torch.save({**state, name: torch.tensor(5)}, state_dict)
    assert open_checkpoint(state_dict).ignored == {name: "number of batches seen in training"}
