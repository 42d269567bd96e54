"""MkDocs hook: LaTeX to MathML when the site is built, so that pages show equations without scripts or a network.

Arithmatex finds the equations, in pages and docstrings alike; latex2mathml translates them. What it cannot translate
is a warning, and so fails a strict build. MathML needs a font with mathematical metrics: readers without one get STIX
Two Math from the site, copied from the package ziamath.
"""

import html
import logging
import re
import shutil
from importlib.resources import files
from pathlib import Path

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.mathml")

_EQUATION = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.*?)\\\)</span>|<div class="arithmatex">\\\[(?P<block>.*?)\\\]</div>',
    re.DOTALL,
)
_UPRIGHT_LETTERS = re.compile(r'<mi mathvariant="normal">\w</mi>(?:<mi mathvariant="normal">\w</mi>)+')
_FUNCTION_NAME = re.compile(r"(<mi>(?:cos|exp|log)</mi>)(?!<mo)")


def on_page_content(content: str, page, **_) -> str:
    """Replace every equation of a rendered page."""

    def replace(match: re.Match) -> str:
        is_block = match["block"] is not None
        latex = html.unescape(match["block"] if is_block else match["inline"]).strip()
        mathml = to_mathml(latex, is_block=is_block)
        if "\\" in mathml or ">&<" in mathml:
            log.warning("%s: no MathML for the equation %s", page.file.src_path, latex)
        return f'<div class="equation">{mathml}</div>' if is_block else mathml

    return _EQUATION.sub(replace, content)


def on_post_build(config, **_) -> None:
    """Put the font where the style sheet looks for it."""
    target = Path(config["site_dir"], "assets", "fonts")
    target.mkdir(parents=True, exist_ok=True)
    name = "STIXTwoMath-Regular.ttf"
    with files("ziamath.fonts").joinpath(name).open("rb") as font, (target / name).open("wb") as copy:
        shutil.copyfileobj(font, copy)


def to_mathml(latex: str, *, is_block: bool) -> str:
    """Translate one equation and set its names of several letters as words."""
    mathml = convert(latex, display="block" if is_block else "inline")
    mathml = _UPRIGHT_LETTERS.sub(lambda word: f"<mi>{re.sub('<[^>]+>', '', word[0])}</mi>", mathml)
    return _FUNCTION_NAME.sub(r'\1<mspace width="0.167em" />', mathml)
