"""Fonts for labels in any script: matplotlib's own, then those that are installed."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from movinet_convert.errors import MovinetWarning
from movinet_convert.files.extras import missing_extra

OWN = "DejaVu Sans"  # comes with matplotlib; Latin, Greek, Cyrillic, Arabic, Hebrew and others
# Common fonts for the scripts that it lacks.
OTHERS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans", "IPAGothic"),
    *("WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo"),
    *("Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Bengali"),
    *("Noto Sans Thai", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS", "Noto Sans"),
)


@cache
def families() -> tuple[str, ...]:
    """The families to look for a character in, in this order, of those that are installed."""
    installed = set(_manager().get_font_names())
    return (OWN, *(name for name in OTHERS if name in installed))


@cache
def font_file(text: str) -> str:
    """The file of the first font that has every character of ``text``, else matplotlib's own.

    Warns about characters that no font has.
    """
    missing = missing_characters(text)
    if missing:
        warnings.warn(
            f"No installed font has {missing[:20]!r} of the label {text[:60]!r}; boxes are drawn "
            "instead: install a font for this script, such as Noto Sans CJK.",
            MovinetWarning,
            stacklevel=2,
        )
    wanted = {ord(character) for character in text if not character.isspace()}
    files = [_file(family) for family in families()]
    return next((file for file in files if wanted <= _characters(file)), files[0])


def missing_characters(text: str) -> str:
    """The characters of ``text`` that none of ``families`` has."""
    known = frozenset().union(*(_characters(_file(family)) for family in families()))
    return "".join(c for c in dict.fromkeys(text) if not c.isspace() and ord(c) not in known)


@cache
def _file(family: str) -> str:
    return str(_manager().findfont(family))


@cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())


@cache
def _manager() -> Any:
    try:
        from matplotlib import font_manager
    except ImportError:
        raise missing_extra("Drawing labels", "video") from None
    return font_manager.fontManager
