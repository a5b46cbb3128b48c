"""Archives are read in place, under any name, and refused if they contain unsafe members."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from movinet_convert.checkpoint import archive, open_checkpoint
from movinet_convert.errors import CheckpointError
from tests.checkpoint.bundle_writer import small_movinet, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "movinet_a0_base"
    folder.mkdir()
    write_bundle(folder / "ckpt-1", small_movinet())
    (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    return folder


def pack(folder: Path, target: Path, mode: str = "w", **options: object) -> Path:
    with tarfile.open(target, mode, **options) as tar:  # type: ignore[call-overload]
        tar.add(folder, folder.name)
    return target


def assert_holds_the_movinet(path: Path) -> None:
    opened = open_checkpoint(path)
    assert opened.arch == "a0"
    np.testing.assert_array_equal(opened.variables["stem/_stem/_conv/kernel"], np.arange(6.0))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("name", ["movinet_a0_base.tar.gz", "movinet.tar", "no suffix"])
def test_detects_tar_and_gzip_from_content(
    folder: Path, tmp_path: Path, mode: str, name: str
) -> None:
    assert_holds_the_movinet(pack(folder, tmp_path / name, mode))


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=str
)
def test_reads_every_tar_format(folder: Path, tmp_path: Path, form: int) -> None:
    assert_holds_the_movinet(pack(folder, tmp_path / "x.tar", format=form))


def test_finds_files_without_top_folder(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for file in folder.iterdir():
            tar.add(file, f"./{file.name}")
    assert_holds_the_movinet(tmp_path / "x.tar")


def test_skips_macos_metadata_files(folder: Path, tmp_path: Path) -> None:
    (folder / "._ckpt-1.index").write_bytes(b"\0\5\x16\7")
    (folder / "checkpoint").unlink()
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder / "._ckpt-1.index", "._movinet_a0_base")
        tar.add(folder, folder.name)
    assert_holds_the_movinet(tmp_path / "x.tar")


def test_reading_archive_leaves_no_files_behind(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "x.tar.gz", "w:gz")
    before = sorted(tmp_path.rglob("*"))
    dict(open_checkpoint(tmp_path / "x.tar.gz").variables)
    assert sorted(tmp_path.rglob("*")) == before


def add(tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    tar.addfile(info, io.BytesIO(b"data") if info.size else None)


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("/etc/passwd", tarfile.REGTYPE, "leaves"),
        ("../escape", tarfile.REGTYPE, "leaves"),
        ("movinet_a0_base/../../escape", tarfile.REGTYPE, "leaves"),
        ("..\\escape", tarfile.REGTYPE, "leaves"),
        ("link", tarfile.SYMTYPE, "link"),
        ("link", tarfile.LNKTYPE, "link"),
        ("device", tarfile.CHRTYPE, "device"),
        ("disk", tarfile.BLKTYPE, "device"),
        ("pipe", tarfile.FIFOTYPE, "device"),
    ],
)
def test_refuses_unsafe_member(
    folder: Path, tmp_path: Path, name: str, kind: bytes, problem: str
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder, folder.name)
        add(tar, name, kind, link="../../etc/passwd")
    with pytest.raises(CheckpointError, match=rf"x\.tar is refused.*{problem}"):
        open_checkpoint(tmp_path / "x.tar")


def test_refuses_member_larger_than_archive(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "x.tar")
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:-20])
    with pytest.raises(CheckpointError, match="more than remain in the archive"):
        open_checkpoint(path)


def test_refuses_too_many_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(archive.MAX_MEMBERS + 1):
            add(tar, f"file{number}")
    with pytest.raises(CheckpointError, match="more than 1,000 members"):
        open_checkpoint(tmp_path / "x.tar")


def test_stops_gzip_bomb_at_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20), 1))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="decompresses to more than 8,388,608 bytes"):
        archive.open_archive(path, max_bytes=8 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_stops_gzip_file_at_compression_ratio_limit(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20), 1))
    with pytest.raises(CheckpointError, match="decompresses to more than 16,777,216 bytes"):
        open_checkpoint(path)


def test_full_disk_is_not_reported_as_damage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(folder, tmp_path / "x.tar.gz", "w:gz")
    with Path("/dev/full").open("wb") as full:
        monkeypatch.setattr(archive.tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*TMPDIR"):
            open_checkpoint(path)


@pytest.mark.parametrize("name", ["movinet_a0_base/ckpt-1.index", "./movinet_a0_base/ckpt-1.index"])
def test_names_duplicate_file(folder: Path, tmp_path: Path, name: str) -> None:
    path = pack(folder, tmp_path / "x.tar")
    with tarfile.open(path, "a") as tar:
        add(tar, name)
    with pytest.raises(CheckpointError, match=r"contains 'movinet_a0_base/ckpt-1\.index' twice"):
        open_checkpoint(path)


def test_global_pax_headers_are_not_copied_into_each_member(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    records = {f"k{number}": "" for number in range(50_000)}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=records) as tar:
        for number in range(100):
            add(tar, f"file{number}")
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="headers are longer"):
        open_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("position", [0.1, 0.5, -6])
def test_refuses_damaged_gzip_stream(folder: Path, tmp_path: Path, position: float) -> None:
    path = pack(folder, tmp_path / "x.tar.gz", "w:gz")
    data = bytearray(path.read_bytes())
    data[int(position * len(data)) if position > 0 else int(position)] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(path)


def test_refuses_truncated_gzip_stream(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "x.tar.gz", "w:gz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(path)


def test_refuses_gzip_of_other_content(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(b"Dear diary,\n" * 100))
    with pytest.raises(CheckpointError, match="not a tar"):
        open_checkpoint(path)


def test_refuses_sparse_member(tmp_path: Path) -> None:
    info = tarfile.TarInfo("movinet/ckpt-1.index")
    info.type = tarfile.GNUTYPE_SPARSE
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(CheckpointError, match=r"refused|readable"):
        open_checkpoint(tmp_path / "x.tar")


def test_finds_saved_model_in_archive(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "variables"
    folder.mkdir(parents=True)
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"graph")
    write_bundle(folder / "variables", small_movinet())
    assert_holds_the_movinet(pack(tmp_path / "model", tmp_path / "x.tar.gz", "w:gz"))
    with tarfile.open(tmp_path / "bare.tar", "w") as tar:
        tar.add(tmp_path / "model", ".")
    assert_holds_the_movinet(tmp_path / "bare.tar")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE], ids=["gnu", "pax"])
def test_refuses_huge_header_before_reading_it(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 32 << 20
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.fileobj.write(info.tobuf() + bytes(info.size))  # type: ignore[union-attr]
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="headers are longer"):
        open_checkpoint(tmp_path / "x.tar")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
