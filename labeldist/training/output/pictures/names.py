"""Class names in pictures: short, on one line, and in fonts that can show them."""

from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from labeldist.messages import escape_controls

# Fonts made for Chinese, Japanese and Korean, tried before any other that has the characters.
CJK_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "SimHei", "Heiti SC", "Hiragino Sans GB", "Noto Sans CJK JP", "Hiragino Sans", "Yu Gothic",
    "Noto Sans CJK KR", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip
MAX_NAME_CHARACTERS = 30


def short_name(name: str) -> str:
    """A name on one line, cut to 30 characters, with its control characters escaped."""
    name = escape_controls(" ".join(name.split()))
    return name if len(name) <= MAX_NAME_CHARACTERS else name[: MAX_NAME_CHARACTERS - 1] + "…"


def text_width(text: str) -> int:
    """Width in Latin letters; ideographs and others beyond the general punctuation are about twice as wide."""
    return sum(2 if ord(character) > 0x2E80 else 1 for character in text)


def display_names(class_names: Sequence[str]) -> list[str]:
    """Class names cut to a readable length; a name that no installed font can show becomes the number of its class."""
    names = list(map(short_name, class_names))
    missing = missing_characters(class_names)
    return [f"class {c}" if missing & set(name) else name for c, name in enumerate(names)]


def missing_characters(class_names: Sequence[str]) -> frozenset[str]:
    """Characters of the names, as pictures show them, that no installed font has."""
    return font_families(frozenset("".join(map(short_name, class_names))))[1]


@cache
def font_families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Font families that together have glyphs for `characters`, and the characters that no installed font has."""
    families, missing = ["DejaVu Sans"], {character for character in characters if not character.isspace()}
    missing -= _characters(font_manager.findfont("DejaVu Sans"))
    fonts = {font.name: font.fname for font in font_manager.fontManager.ttflist if font.style == "normal"}
    ordered = [name for name in CJK_FAMILIES if name in fonts] + sorted(fonts.keys() - set(CJK_FAMILIES))
    for family in ordered:
        if not missing:
            break
        # The fonts of last resort claim every character and draw a box.
        if not family.startswith((".", "Last")) and missing & _characters(fonts[family]):
            families.append(family)
            missing -= _characters(fonts[family])
    return tuple(families), frozenset(missing)


@cache
def _characters(font_path: str) -> frozenset[str]:
    """Characters that a font file has glyphs for; none if it cannot be read."""
    try:
        return frozenset(map(chr, FT2Font(font_path).get_charmap()))
    except (RuntimeError, OSError):
        return frozenset()
