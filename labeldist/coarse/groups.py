"""Groups of classes as masks, and groups from a hierarchy or from prefixes of class names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from labeldist.class_names import Class, class_indices, resolve_names
from labeldist.confusion import ArrayLike
from labeldist.ldm.hierarchy import Hierarchy
from labeldist.messages import shown

__all__ = ["Groups", "group_masks", "hierarchy_groups", "prefix_groups"]

Groups = Mapping[str, Iterable[Class]] | Sequence[Iterable[Class]]
"""A mapping from group names to classes, or a list of groups. A class is given by its name or index."""

_MAX_DEPTH = 1000


def group_masks(
    groups: Tensor | Groups | ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> Tensor:
    """Convert groups of classes to a mask.

    Args:
        groups: `{"number": ["count", "date"]}`, a list of lists of classes (names or indices), or a boolean `(G, C)`:
            a tensor or a numpy array.
        class_names: one name per class.
        num_classes: `C`, instead of names. If `groups` is a tensor, neither is needed.

    Returns:
        Boolean `(G, C)`, in the order of `groups`.

    Raises:
        ValueError: if a group is empty or has an unknown class (the message suggests the nearest name), or a tensor has
            the wrong shape.
        TypeError: if a tensor is not boolean.

    Examples:
        >>> group_masks({"number": ["count", "date"]}, class_names=["count", "place", "date"])
        tensor([[ True, False,  True]])
    """
    # A NumPy array; the core does not import NumPy.
    if hasattr(groups, "__array__"):
        groups = torch.as_tensor(groups)
    if isinstance(groups, Tensor):
        if class_names is not None:
            num_classes = len(class_names)
        if groups.ndim != 2 or not groups.shape[1] or num_classes not in (None, groups.shape[1]):
            wanted = "C" if num_classes is None else num_classes
            raise ValueError(f"groups must have shape (G, {wanted}), got {tuple(groups.shape)}.")
        if groups.dtype != torch.bool:
            raise TypeError(f"groups must be boolean, got {groups.dtype}.")
        masks, titles = groups, [str(index) for index in range(len(groups))]
    else:
        names = resolve_names(class_names, num_classes)
        members = list(groups.values() if isinstance(groups, Mapping) else groups)
        titles = (
            [shown(title) for title in groups] if isinstance(groups, Mapping) else list(map(str, range(len(members))))
        )
        masks = torch.zeros(len(members), len(names), dtype=torch.bool)
        for mask, group in zip(masks, members, strict=True):
            # A string is a sequence of letters.
            indices = class_indices([group] if isinstance(group, str) else group, names)
            if indices:
                mask[torch.tensor(indices)] = True
    for mask, title in zip(masks, titles, strict=True):
        if not mask.any():
            raise ValueError(f"Each group must allow at least one class, group {title} allows none.")
    return masks


def hierarchy_groups(tree: Hierarchy) -> dict[str, list[str]]:
    """Make a group of each named inner node of a hierarchy: the classes below it.

    Args:
        tree: nested mappings and sequences whose leaves are class names. The keys of mappings name inner nodes.

    Returns:
        Class names by inner node, from the root down.

    Raises:
        ValueError: if two inner nodes have the same name, an inner node has the name of a class that is not its only
            class, a node contains no class, or the tree is nested deeper than 1,000 levels.

    Examples:
        >>> hierarchy_groups({"number": ["count", {"time": ["date", "year"]}], "place": ["city"]})
        {'number': ['count', 'date', 'year'], 'time': ['date', 'year'], 'place': ['city']}
    """
    groups: dict[str, list[str]] = {}
    leaves: set[str] = set()
    # Not recursive: a tree may be deeper than Python's stack. A node with its name, the names above it, and its depth.
    stack: list[tuple[str | None, Any, tuple[str, ...], int]] = [(None, tree, (), 0)]
    while stack:
        name, node, above, depth = stack.pop()
        # A list that holds itself would go down forever.
        if depth > _MAX_DEPTH:
            raise ValueError(f"A hierarchy must not be nested deeper than {_MAX_DEPTH:,} levels.")
        if name is not None:
            if name in groups:
                raise ValueError(f"Each group of a hierarchy needs a name of its own, {shown(name)} stands twice.")
            groups[name], above = [], (*above, name)
        if isinstance(node, str):
            leaves.add(node)
            for group in above:
                groups[group].append(node)
        elif isinstance(node, Mapping):
            stack += [(str(key), child, above, depth + 1) for key, child in reversed(list(node.items()))]
        elif isinstance(node, Sequence):
            stack += [(None, child, above, depth + 1) for child in reversed(node)]
        else:
            raise ValueError(f"A hierarchy is made of mappings, sequences and class names, got {type(node).__name__}.")
    for name, members in groups.items():
        if not members:
            raise ValueError(f"Each group of a hierarchy must hold a class, {shown(name)} holds none.")
        if name in leaves and set(members) != {name}:
            raise ValueError(
                f"{shown(name)} is both a class and a group of other classes. Give one of them another name."
            )
    return {name: list(dict.fromkeys(members)) for name, members in groups.items()}


def prefix_groups(class_names: Iterable[str], separator: str) -> dict[str, list[str]]:
    """Make groups of classes whose names have the same prefix, such as `NUM` of `NUM:count` and `NUM:date`.

    Args:
        class_names: the class names.
        separator: the text between the parts of a name. Each prefix that ends before a separator names a group.

    Returns:
        Class names by prefix.

    Raises:
        ValueError: if the separator is empty, or a class name is the prefix of another class name.

    Examples:
        >>> prefix_groups(["NUM:date:year", "NUM:count", "LOC"], ":")
        {'NUM': ['NUM:date:year', 'NUM:count'], 'NUM:date': ['NUM:date:year']}
    """
    if not separator:
        raise ValueError("The separator of class names must have at least one character.")
    names = list(class_names)
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(separator)
        for end in range(1, len(parts)):
            if prefix := separator.join(parts[:end]):
                groups.setdefault(prefix, []).append(name)
    doubled = next((name for name in names if name in groups), None)
    if doubled is not None:
        raise ValueError(f"{shown(doubled)} is both a class and the group of {shown(groups[doubled][0])}.")
    return groups
