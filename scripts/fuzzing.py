"""Valid files of every supported kind, ways to damage them, and the conditions to check.

An input passes if it gives the same weights as the undamaged file (or others, if the format has no
checksum), or is refused with one of the package's own exceptions.
"""

from __future__ import annotations

import io
import random
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.canonical import containers
from movinet_convert.checkpoint.model_garden import write_checkpoint
from movinet_convert.checkpoint.random_access import ByteRange, RandomAccessFile
from movinet_convert.checkpoint.sstable import encode_table, read_table
from movinet_convert.errors import MovinetError
from movinet_convert.model.settings import get_variant
from movinet_convert.weights.file import read_header, read_tensors, write_weights
from movinet_convert.weights.header import Header
from movinet_convert.weights.manifest import catalogue, dump, parse
from scripts import structured, tflite_damage
from scripts.tflite_writer import StreamWriter

ARCH = "t0"
Content = dict[str, bytes]  # name -> bytes of the array
Mutation = Callable[[random.Random, bytes], bytes]


class SilentDamageError(Exception):
    """A damaged file with checksums gave wrong weights."""


@dataclass(frozen=True)
class Target:
    """A file to damage (``original``, next to the others of its checkpoint) and its reader."""

    original: Path
    read: Callable[[Path], Content]
    checksummed: bool
    mutate: Mutation

    def prepare(self, scratch: Path) -> None:
        """Copy the undamaged files of the folder to ``scratch``, where inputs are tried."""
        for file in self.original.parent.iterdir():
            (scratch / file.name).write_bytes(file.read_bytes())

    def probe(self, data: bytes, scratch: Path, expected: Content) -> str:
        """Read ``data`` in place of the file; returns ``refused``, ``same`` or ``different``."""
        path = scratch / self.original.name
        path.write_bytes(data)
        try:
            content = self.read(path)
        except MovinetError:
            return "refused"
        if content == expected:
            return "same"
        if self.checksummed:
            raise SilentDamageError("a damaged file gave wrong weights")
        return "different"


# --- undamaged files ------------------------------------------------------------------------------


def small_weights(shape: tuple[int, ...] = (2, 3)) -> dict[str, np.ndarray]:
    """One or two small arrays per layer of a T0; enough to detect its layout."""
    generator = np.random.default_rng(7)
    leaves = {"stem": "_stem/_conv/kernel", "head": "_project/_conv/kernel"}
    names = [f"{c}/{leaves.get(c, '_expansion/_conv/kernel')}" for c in containers(ARCH)]
    names += [f"{c}/_mobile_bottleneck/_rezero/scale" for c in containers(ARCH)[1:-1]]
    names += ["classifier_head/_classifier/_conv/bias"]
    return {
        name: generator.normal(size=() if "scale" in name else shape).astype(np.float32)
        for name in names
    }


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, array in small_weights().items():
            container, _, rest = name.partition("/")
            block = containers(ARCH).index(container) - 1 if container.startswith("block") else -1
            layer = ("movinet_block" + (f"_{block}" if block else "")) if block >= 0 else container
            where = "layers" if container == "classifier_head" else "layers/movinet/layers"
            owner, _, leaf = rest.rpartition("/")
            file[f"{where}/{layer}/{owner}/vars/{int(leaf == 'bias')}"] = array


def write_torch(path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    blocks = containers(ARCH)[1:-1]
    short = [block.replace("lock", "", 1).replace("layer", "l") for block in blocks]
    names = [f"blocks.{block}.expand.conv_1.conv3d.weight" for block in short]
    names += ["conv1.conv_1.conv3d.weight", "conv7.conv_1.conv3d.weight"]
    state = {name: torch.randn(2, 3, 1, 1, 1, generator=generator) for name in names}
    torch.save({**state, "classifier.3.conv_1.conv3d.bias": torch.ones(7)}, path)


def write_safetensors(path: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in small_weights().items()}
    settings = get_variant("t0-base").settings()
    header = Header(variant="t0-base", settings=settings, num_classes=7)
    write_weights(path, tensors, header)


# --- reading --------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Content:
    source = path.parent if path.name.startswith("ckpt-1.") or path.name == "checkpoint" else path
    return {name: a.tobytes() for name, a in open_checkpoint(source).variables.items()}


def read_tflite(path: Path) -> Content:
    with tflite_damage.with_tiny():
        return read_checkpoint(path)


def read_safetensors(path: Path) -> Content:
    read_header(path)
    return {name: tensor.numpy().tobytes() for name, tensor in read_tensors(path).items()}


def read_manifest(path: Path) -> Content:
    text = path.read_bytes().decode(errors="replace")
    return {"manifest": dump(parse(text, str(path))).encode()}


# --- damage ---------------------------------------------------------------------------------------

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to six small changes: bit flips, numbers, deletions, copies."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(out)) if out else 0
        length = min(rng.choice((1, 2, 4, 8, 16, 64)), len(out) - at)
        kind = rng.randrange(7)
        if kind <= 1 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and out:
            out[at] = rng.randrange(256)
        elif kind == 3:
            number = rng.choice(_NUMBERS).to_bytes(8, rng.choice(("little", "big")))
            out[at : at + length] = number[:length]
        elif kind == 4:
            del out[at : at + length]
        elif kind == 5:
            out[at:at] = out[at : at + length]
        else:
            del out[rng.randrange(len(out) + 1) :]
    return bytes(out)


def flip_one_byte(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    out[rng.randrange(len(out))] ^= rng.randrange(1, 256)
    return bytes(out)


def mutate_entries(rng: random.Random, data: bytes) -> bytes:
    """Damage keys and values of a table, then recompute the checksum of every block.

    Otherwise the checksums would stop nearly all mutations early.
    """
    entries = _decode(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(entries))
        key, value = entries[at]
        if rng.randrange(4):
            value = mutate_bytes(rng, value)
        else:
            key = mutate_bytes(rng, key)
        entries[at] = (key, value)
    return encode_table(sorted(dict(entries).items()))


def _decode(data: bytes) -> list[tuple[bytes, bytes]]:
    return read_table(ByteRange(RandomAccessFile(io.BytesIO(data)), "index", 0, len(data)))


def mutate_structure(rng: random.Random, data: bytes) -> bytes:
    return structured.mutate_blocks(rng, _decode(data), mutate_bytes)


def mutate_graph(rng: random.Random, _: bytes) -> bytes:
    return structured.mutate_graph(rng, small_weights(), mutate_bytes)


def mutate_pickle(rng: random.Random, data: bytes) -> bytes:
    return structured.mutate_pickle(rng, data, mutate_bytes)


def mutate_tflite(rng: random.Random, data: bytes) -> bytes:
    return tflite_damage.mutate(rng, data, mutate_bytes)


def mutate_tar(rng: random.Random, data: bytes) -> bytes:
    """Damage a header and correct its checksum, or damage anything."""
    if rng.randrange(2):
        return mutate_bytes(rng, data)
    start = 512 * rng.randrange(len(data) // 512)
    header = bytearray(mutate_bytes(rng, data[start : start + 512])[:512].ljust(512, b"\0"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % (sum(header) & 0o777777)
    return data[:start] + bytes(header) + data[start + 512 :]


def mutate_gzip(rng: random.Random, data: bytes) -> bytes:
    """Damage the stream or its content."""
    if rng.randrange(2):
        return mutate_bytes(rng, data)
    compressor = zlib.compressobj(1, wbits=31)
    content = mutate_tar(rng, zlib.decompress(data, wbits=31))
    return compressor.compress(content) + compressor.flush()


def make_targets(folder: Path) -> Mapping[str, Target]:
    """Write the undamaged files into ``folder``; targets by name."""
    bundle = folder / "bundle"
    # Nearly all bytes are weights, as in real bundles, so that damage hits them.
    write_checkpoint(bundle, ARCH, small_weights((32, 32)))
    for name in ("tar", "gzip", "graph", "hdf5", "torch", "tflite", "safetensors", "manifest"):
        (folder / name).mkdir()
    for kind, mode in (("tar", "w"), ("gzip", "w:gz")):
        with tarfile.open(folder / kind / "x", mode) as tar:  # type: ignore[call-overload]
            tar.add(bundle, "movinet_t0_base")
    (folder / "graph" / "x").write_bytes(structured.saved_model(small_weights()))
    write_hdf5(folder / "hdf5" / "x")
    write_torch(folder / "torch" / "x")
    (folder / "tflite" / "x").write_bytes(StreamWriter().file())
    write_safetensors(folder / "safetensors" / "x")
    (folder / "manifest" / "x").write_text(dump(catalogue()), encoding="utf-8")
    index, data = bundle / "ckpt-1.index", bundle / "ckpt-1.data-00000-of-00001"
    return {
        "bundle-index": Target(index, read_checkpoint, True, mutate_bytes),
        "bundle-entries": Target(index, read_checkpoint, False, mutate_entries),
        "bundle-blocks": Target(index, read_checkpoint, False, mutate_structure),
        "bundle-state": Target(bundle / "checkpoint", read_checkpoint, False, mutate_bytes),
        "object-graph": Target(folder / "graph" / "x", read_checkpoint, False, mutate_graph),
        "bundle-data": Target(data, read_checkpoint, True, mutate_bytes),
        "tar": Target(folder / "tar" / "x", read_checkpoint, True, mutate_tar),
        "gzip": Target(folder / "gzip" / "x", read_checkpoint, True, mutate_gzip),
        "hdf5": Target(folder / "hdf5" / "x", read_checkpoint, False, mutate_bytes),
        "torch": Target(folder / "torch" / "x", read_checkpoint, False, mutate_bytes),
        "torch-pickle": Target(folder / "torch" / "x", read_checkpoint, False, mutate_pickle),
        "tflite": Target(folder / "tflite" / "x", read_tflite, False, mutate_tflite),
        "safetensors": Target(folder / "safetensors" / "x", read_safetensors, False, mutate_bytes),
        "manifest": Target(folder / "manifest" / "x", read_manifest, False, mutate_bytes),
    }
