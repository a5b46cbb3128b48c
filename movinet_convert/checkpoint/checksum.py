"""The masked crc32c with which LevelDB tables and tensor bundles guard their bytes.

A crc stored beside the data that it covers is masked, so that the crc of data with embedded crcs
stays meaningful (LevelDB ``doc/table_format.md``; ``tensorflow/core/lib/hash/crc32c.h``).
"""

from __future__ import annotations

import google_crc32c

from movinet_convert.checkpoint.blob import Bytes

_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | Bytes, crc: int = 0) -> int:
    """The crc32c (Castagnoli) of ``data``, continuing from ``crc``."""
    if isinstance(data, bytes):
        return int(google_crc32c.extend(crc, data))
    guarded = data.view()
    guarded.flags.writeable = False  # the C implementation takes read-only buffers alone
    return int(google_crc32c.extend(crc, guarded))


def mask(crc: int) -> int:
    """Rotate right by 15 bits and add a constant."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def masked_crc32c(data: bytes | Bytes) -> int:
    """The checksum as it is stored in a file."""
    return mask(crc32c(data))
