"""MkDocs hook: a flag in a text, such as `--margin`, is never broken after its hyphens."""

import re

_INLINE_CODE = re.compile(r"<code>([^<\n]*)</code>")
_FLAG = re.compile(r"(?<![\w-])--[\w-]+")


def on_page_content(content: str, **_) -> str:
    """Mark the flags in inline code for the style sheet."""
    return _INLINE_CODE.sub(lambda code: _FLAG.sub(r'<span class="flag">\g<0></span>', code[0]), content)
