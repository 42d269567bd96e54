"""A model card: what a model hub shows of a folder."""

import html
import re
from collections.abc import Mapping, Sequence

from labeldist.messages import escape_controls
from labeldist.reports.findings import Findings
from labeldist.reports.page import template

__all__ = ["card_text", "in_markdown"]

MAX_VALUE = 300
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def in_markdown(text: str) -> str:
    r"""`text` on one line, as Markdown that shows it and does nothing else.

    Examples:
        >>> print(in_markdown("<b>a|b</b> *c*"))
        &lt;b&gt;a\|b&lt;/b&gt; \*c\*
    """
    line = escape_controls(" ".join(text.split()))
    line = line if len(line) <= MAX_VALUE else line[: MAX_VALUE - 1] + "…"
    return _SPECIAL.sub(r"\\\1", html.escape(line, quote=False))


def card_text(
    findings: Findings, *, title: str, encoder: str, objective: str, settings: Mapping[str, str], command: str = ""
) -> str:
    """The card's text, without its metadata. It has class names and numbers, and no text of the data.

    Args:
        findings: on the test rows.
        title: of the card.
        encoder: name of the encoder.
        objective: that was trained.
        settings: what else to say, by name.
        command: that trains it again.

    Examples:
        >>> from labeldist.reports.findings import find
        >>> from labeldist.reports.predictions import predictions_of
        >>> found = find(predictions_of(["ask", "tell"], ["ask", "ask"]))
        >>> card_text(found, title="Mail", encoder="textcnn", objective="ce", settings={}).splitlines()[0]
        '# Mail'
    """
    names: Sequence[str] = [in_markdown(name) for name in findings.predictions.class_names]
    return template("card.md.j2", autoescape=False).render(
        f=findings,
        names=names,
        title=in_markdown(title),
        encoder=in_markdown(encoder),
        objective=objective,
        settings={in_markdown(key): in_markdown(value) for key, value in settings.items()},
        # A fence ends at the first line of back quotes.
        command=escape_controls(command).replace("```", "'''"),
    )
