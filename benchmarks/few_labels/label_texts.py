"""One text a class: what a user would write who has a few labels only. Every method gets the same.

Where the class names of a corpus say something, they are opened: `rec.sport.hockey` is "rec sport hockey". Where they
are codes (`NUM:dist`, `acq`), or say too little (`negative`, of movie reviews), `label_texts.json` has a line a class.
Those of TREC follow the published definitions of its classes (Li and Roth, 2002), those of Reuters the meaning of its
topic codes; none was tuned.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


def label_texts(corpus: str, class_names: Sequence[str]) -> list[str]:
    """The text of each class.

    Raises:
        KeyError: if the corpus has hand-written texts, but none for one of its classes.

    Examples:
        >>> label_texts("20ng", ["rec.sport.hockey"]), label_texts("trec", ["NUM"])
        (['rec sport hockey'], ['number: how many, how much, when'])
    """
    written = _written().get(corpus)
    return [written[name] if written else opened(name) for name in class_names]


def opened(name: str) -> str:
    """A class name with spaces for what joins its parts.

    Examples:
        >>> opened("delivery_complaint"), opened("very negative")
        ('delivery complaint', 'very negative')
    """
    return " ".join(re.split(r"[\s._:/-]+", name)).strip()


@lru_cache
def _written() -> dict[str, dict[str, str]]:
    return json.loads(Path(__file__).with_name("label_texts.json").read_text(encoding="utf-8"))
