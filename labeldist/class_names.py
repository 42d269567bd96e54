"""Classes by name or index: one place that resolves them and offers the nearest name for an unknown one."""

import difflib
import operator
from collections.abc import Sequence
from typing import SupportsIndex

Class = str | SupportsIndex


def nearest_name(name: str, known: Sequence[str]) -> str:
    """A clause that offers the known name closest to `name`: `' Did you mean "fast"?'`, or nothing.

    Examples:
        >>> nearest_name("fst", ["fast", "slow"])
        " Did you mean 'fast'?"
    """
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def class_index(name: Class, class_names: Sequence[str]) -> int:
    """Index of a class given by name or by index.

    Raises:
        ValueError: if there is no such class.

    Examples:
        >>> class_index("slow", ["fast", "slow"]), class_index(0, ["fast", "slow"])
        (1, 0)
    """
    if not isinstance(name, str):
        name = operator.index(name)
        if not 0 <= name < len(class_names):
            raise ValueError(f"A class index must lie in [0, {len(class_names)}), got {name}.")
        return name
    if name not in class_names:
        shown = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
        raise ValueError(f"There is no class {name!r}; the classes are {shown}.{nearest_name(name, class_names)}")
    return list(class_names).index(name)


def resolve_names(class_names: Sequence[str] | None, num_classes: int | None) -> tuple[str, ...]:
    """The names of all classes: those given, or `"0"`, `"1"`, ... for `num_classes`.

    Raises:
        ValueError: if neither is given, both disagree, or a name stands twice.
    """
    if class_names is None:
        if num_classes is None or num_classes < 1:
            raise ValueError(f"Give class_names, or num_classes of at least 1; got num_classes={num_classes}.")
        return tuple(str(i) for i in range(num_classes))
    names = tuple(class_names)
    if not names or (num_classes is not None and len(names) != num_classes):
        raise ValueError(f"class_names must have {num_classes or 'at least 1'} entries, got {len(names)}.")
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled:
        raise ValueError(f"Class names must be unique, {doubled[0]!r} stands more than once.")
    return names
