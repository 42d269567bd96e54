"""MkDocs hook: a flag in a text, such as `--margin`, is never broken after its hyphens."""

import re

_FLAG = re.compile(r"<code>(?=--[\w-]{1,30}</code>)")


def on_page_content(content: str, **_) -> str:
    """Mark short flags for the style sheet."""
    return _FLAG.sub('<code class="flag">', content)
