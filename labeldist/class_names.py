"""Classes by name or index: one place that resolves them, and offers the nearest name for an unknown one."""

import difflib
import operator
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, SupportsIndex

from labeldist.messages import listed, shown

Class = str | SupportsIndex

# A longer name was not mistyped, and comparing it takes quadratic time.
_MAX_COMPARED = 200

# Characters that are shown as nothing though their category is a letter, a mark or a symbol: fillers, selectors.
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
_FILLER = re.compile(f"[{_FILLERS}]")


def nearest_name(name: str, known: Sequence[str]) -> str:
    """A clause that offers the known name closest to `name`: `" Did you mean 'fast'?"`, or nothing.

    A name that looks the same is offered with what the two differ in.

    Examples:
        >>> nearest_name("fst", ["fast", "slow"])
        " Did you mean 'fast'?"
        >>> nearest_name("fast", ["Fast", "slow"])
        " Did you mean 'Fast'? They differ only in case."
    """
    if len(name) > _MAX_COMPARED:
        return ""
    key = appearance(name)
    for candidate in known:
        if candidate != name and len(candidate) <= _MAX_COMPARED and appearance(candidate) == key:
            return f" Did you mean {shown(candidate)}? They differ only in {_difference(name, candidate)}."
    folded = {candidate.casefold(): candidate for candidate in known if len(candidate) <= _MAX_COMPARED}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return f" Did you mean {shown(folded[close[0]])}?" if close else ""


def look_alikes(names: Iterable[str]) -> list[tuple[str, str, str]]:
    r"""Names that look the same but are not equal, each with an earlier one and what the two differ in.

    Case, composed and decomposed accents, full-width forms, invisible characters and kinds of space are compared.

    Examples:
        >>> look_alikes(["thanks", "Thanks", "late", "late\u200b"])
        [('thanks', 'Thanks', 'case'), ('late', 'late\u200b', 'invisible characters (U+200B)')]
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[appearance(name)].append(name)
    return [(group[0], other, _difference(group[0], other)) for group in groups.values() for other in group[1:]]


def class_index(name: Class, class_names: Sequence[str]) -> int:
    """Index of a class given by name or by index.

    Raises:
        ValueError: if there is no such class.
        TypeError: if it is neither a name nor an index.

    Examples:
        >>> class_index("slow", ["fast", "slow"]), class_index(0, ["fast", "slow"])
        (1, 0)
    """
    if isinstance(name, str):
        if name not in class_names:
            raise ValueError(_unknown(name, class_names))
        return class_names.index(name)
    return _check_index(_as_index(name), len(class_names))


def class_indices(names: Iterable[Class], class_names: Sequence[str]) -> list[int]:
    """Indices of many classes given by name or by index, in time that does not grow with the number of classes.

    Raises:
        ValueError: if there is no such class.
        TypeError: if one is neither a name nor an index.

    Examples:
        >>> class_indices(["slow", 0], ["fast", "slow"])
        [1, 0]
    """
    # Of a name that stands twice, the first one, as in `class_index`.
    index = {name: i for i, name in reversed(list(enumerate(class_names)))}
    found: list[int] = []
    for name in names:
        if not isinstance(name, str):
            found.append(_check_index(_as_index(name), len(class_names)))
        elif name in index:
            found.append(index[name])
        else:
            raise ValueError(_unknown(name, class_names))
    return found


def _as_index(value: Any) -> int:
    # True counts as 1, but whoever passes it means a mask of classes.
    if isinstance(value, bool) or not hasattr(value, "__index__") or str(getattr(value, "dtype", "")) == "torch.bool":
        raise TypeError(
            f"A class is a name or an index, got {value!r}. Give a mask of classes as a boolean tensor, where one is "
            "taken."
        )
    return operator.index(value)


def checked_pairs(pairs: Iterable[Any], entry: str) -> Iterator[tuple[Class, Class, list[Any]]]:
    """Each listed pair of classes as both classes and what else was given: an entry of its own, or nothing.

    Args:
        pairs: `(a, b)` or `(a, b, entry)`.
        entry: what a third entry is, for the message.

    Raises:
        TypeError: if a pair is no sequence.
        ValueError: if it has another length.

    Examples:
        >>> list(checked_pairs([("fast", "slow"), (0, 1, 3.0)], "distance"))
        [('fast', 'slow', []), (0, 1, [3.0])]
    """
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Iterable):
            raise TypeError(f"A pair is (a, b) or (a, b, {entry}), got {shown(pair)}.")
        entries = tuple(pair)
        if len(entries) not in (2, 3):
            raise ValueError(f"A pair is (a, b) or (a, b, {entry}), got {len(entries)} entries: {entries}.")
        first, second, *own = entries
        yield first, second, own


def checked_groups(groups: Iterable[Any] | Mapping[Any, Any], class_names: Sequence[str]) -> Iterator[list[int]]:
    """The class indices of each group.

    Args:
        groups: groups of classes by name or index, or a mapping from a name of the group to its classes.
        class_names: one name per class.

    Raises:
        TypeError: if a group is no list of classes.
        ValueError: if there is no such class, or one stands twice in a group.

    Examples:
        >>> list(checked_groups({"sport": ["hockey", "baseball"]}, ["baseball", "guns", "hockey"]))
        [[2, 0]]
    """
    for group in groups.values() if isinstance(groups, Mapping) else groups:
        if isinstance(group, str) or not isinstance(group, Iterable):
            raise TypeError(f"A group is a list of classes, got {shown(group)}.")
        indices = class_indices(group, class_names)
        if len(set(indices)) < len(indices):
            doubled = next(index for index in indices if indices.count(index) > 1)
            raise ValueError(f"A group must name different classes, got {shown(class_names[doubled])} twice.")
        yield indices


def _check_index(index: int, num_classes: int) -> int:
    if not 0 <= index < num_classes:
        raise ValueError(f"A class index must lie in [0, {num_classes}), got {index}.")
    return index


def _unknown(name: str, class_names: Sequence[str]) -> str:
    return f"There is no class {shown(name)}; the classes are {listed(class_names)}.{nearest_name(name, class_names)}"


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
    if len(set(names)) < len(names):
        doubled = min(name for name in set(names) if names.count(name) > 1)
        raise ValueError(f"Class names must be unique, {shown(doubled)} stands more than once.")
    return names


def appearance(
    name: str,
    *,
    form: Literal["NFC", "NFKC"] | None = "NFKC",
    is_case_folded: bool = True,
    is_stripped: bool = True,
) -> str:
    """What is seen of a name. Each option can keep one kind of difference.

    Examples:
        >>> appearance("Card  arrival") == appearance("card arrival")
        True
    """
    if is_stripped and not name.isascii():
        name = "".join(letter for letter in name if not _is_invisible(letter))
    # Before the form, which turns some spaces into others.
    name = " ".join(name.split())
    # Folding takes some letters apart, so the form comes after it too.
    name = unicodedata.normalize(form, name) if form else name
    name = name.casefold() if is_case_folded else name
    return unicodedata.normalize(form, name) if form else name


def _difference(first: str, second: str) -> str:
    """In what two names differ that look the same."""

    def differ(**kept: object) -> bool:
        return appearance(first, **kept) != appearance(second, **kept)  # type: ignore[arg-type]

    kinds: list[str] = []
    if differ(is_case_folded=False):
        kinds.append("case")
    if differ(form=None):
        if differ(form="NFC"):
            kinds.append("compatibility characters such as full-width letters")
        else:
            kinds.append(f"Unicode form ({_form(first)} and {_form(second)} accents)")
    if differ(is_stripped=False):
        ours, theirs = (Counter(filter(_is_invisible, name)) for name in (first, second))
        # Where both have the same ones, they stand in different places.
        only = (ours - theirs) + (theirs - ours) or ours
        kinds.append(f"invisible characters ({', '.join(f'U+{ord(letter):04X}' for letter in sorted(only)[:5])})")
    if re.findall(r"\s+", first) != re.findall(r"\s+", second):
        kinds.append("spaces")
    return " and ".join(kinds) or "their code points"


def _form(name: str) -> str:
    is_composed, is_decomposed = unicodedata.is_normalized("NFC", name), unicodedata.is_normalized("NFD", name)
    return "mixed" if is_composed == is_decomposed else "composed" if is_composed else "decomposed"


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf" or bool(_FILLER.match(letter))
