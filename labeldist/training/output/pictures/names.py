"""Class names in pictures: short, on one line, and in fonts that can show them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
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
CJK_PACKAGES = "Debian, Ubuntu: fonts-noto-cjk; Fedora: google-noto-sans-cjk-fonts"
NOTO_PACKAGES = "Debian, Ubuntu: fonts-noto-core; Fedora: google-noto-fonts-all"
CJK_RANGES = (
    (0x2E80, 0x9FFF),
    (0xAC00, 0xD7AF),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),
    (0xFF00, 0xFFEF),
    (0x20000, 0x3FFFF),
)
MAX_NAME_CHARACTERS = 30
MAX_NAMES_LISTED = 30


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


def font_note(class_names: Sequence[str]) -> str:
    """Lines below a picture with class numbers for names: where the names are, and a font that shows them."""
    missing = missing_characters(class_names)
    if not missing:
        return ""
    return (
        "class N: its name is entry N, counted from 0, of class_names in the run's config.json.\n"
        f"No installed font shows it.\n{_cure(missing)}"
    )


def font_sentence(class_names: Sequence[str]) -> str:
    """The same for a terminal, which shows the names themselves; empty where every name can be drawn.

    Examples:
        >>> font_sentence(["ask", "tell"])
        ''
    """
    missing = missing_characters(class_names)
    if not missing:
        return ""
    numbered = [(c, name) for c, name in enumerate(map(short_name, class_names)) if missing & set(name)]
    listed = ", ".join(f"{c}={name}" for c, name in numbered[:MAX_NAMES_LISTED])
    more = ", ... (all of them: class_names in config.json)" if len(numbered) > MAX_NAMES_LISTED else ""
    one = len(numbered) == 1
    return (
        f"Pictures: no installed font shows {len(numbered)} class name{'' if one else 's'}, and "
        f"{'its number stands' if one else 'their numbers stand'} there: {listed}{more}. {_cure(missing)}"
    )


def _cure(missing: frozenset[str]) -> str:
    if any(is_cjk(character) for character in missing):
        return f"Install Noto Sans CJK ({CJK_PACKAGES})."
    return f"Install a font that has its script, such as Noto Sans ({NOTO_PACKAGES})."


def is_cjk(character: str) -> bool:
    """Whether a character is Chinese, Japanese or Korean, their punctuation included."""
    return any(first <= ord(character) <= last for first, last in CJK_RANGES)


@cache
def font_families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Font families that together have glyphs for `characters`, and the characters that no installed font has."""
    families, missing = ["DejaVu Sans"], {character for character in characters if not character.isspace()}
    missing -= _characters(font_manager.findfont("DejaVu Sans"))
    for family, path in _other_fonts() if missing else ():
        if not missing:
            break
        # The fonts of last resort claim every character and draw a box.
        if not family.startswith((".", "Last")) and missing & _characters(path):
            families.append(family)
            missing -= _characters(path)
    return tuple(families), frozenset(missing)


def _other_fonts() -> Iterator[tuple[str, str]]:
    """Family and file of each font: those that matplotlib knows, then those that were installed since it looked."""
    known = {font.name: font.fname for font in font_manager.fontManager.ttflist if font.style == "normal"}
    yield from _cjk_first(known)
    # matplotlib keeps its list of fonts in a file, and never looks again.
    paths = {font.fname for font in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - paths):
        with suppress(RuntimeError, OSError):
            font_manager.fontManager.addfont(path)
    new = {font.name: font.fname for font in font_manager.fontManager.ttflist if font.fname not in paths}
    yield from _cjk_first(new)


def _cjk_first(fonts: dict[str, str]) -> Iterator[tuple[str, str]]:
    ordered = [name for name in CJK_FAMILIES if name in fonts] + sorted(fonts.keys() - set(CJK_FAMILIES))
    for name in ordered:
        yield name, fonts[name]


@cache
def _characters(font_path: str) -> frozenset[str]:
    """Characters that a font file has glyphs for; none if it cannot be read."""
    try:
        return frozenset(map(chr, FT2Font(font_path).get_charmap()))
    except (RuntimeError, OSError):
        return frozenset()
