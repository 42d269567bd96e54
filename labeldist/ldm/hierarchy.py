"""Lowest common ancestors in a tree of classes written as nested mappings and sequences."""

from collections.abc import Mapping, Sequence
from typing import Union

import torch
from torch import Tensor

from labeldist.class_names import class_index

# Union instead of |, which a forward reference in quotes does not support.
Hierarchy = Union[str, Sequence["Hierarchy"], Mapping[str, "Hierarchy"]]  # noqa: UP007


def common_ancestor_depths(tree: Hierarchy, class_names: Sequence[str]) -> Tensor:
    """Depth of the lowest common ancestor of each pair of classes; the root has depth 0.

    Args:
        tree: nested mappings and sequences whose leaves are the class names, each exactly once.
        class_names: one name per class.

    Returns:
        `(C, C)`, in the default floating-point dtype; the diagonal is 0.

    Raises:
        ValueError: if a leaf is not a class, a class appears twice, or a class is missing.

    Examples:
        >>> common_ancestor_depths({"x": ["a", "b"], "y": "c"}, ["a", "b", "c"])
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 0., 0.]])
    """
    paths: dict[int, tuple[int, ...]] = {}
    for name, path in _leaves(tree, ()):
        index = class_index(name, class_names)
        if index in paths:
            raise ValueError(f"Each class must stand once in the hierarchy, {name!r} stands more than once.")
        paths[index] = path
    missing = [name for i, name in enumerate(class_names) if i not in paths]
    if missing:
        raise ValueError(f"The hierarchy must hold every class, {missing[0]!r} is missing.")
    depths = torch.zeros(len(class_names), len(class_names))
    for a, first in paths.items():
        for b, second in paths.items():
            if a != b:
                depths[a, b] = _common_prefix_length(first, second)
    return depths


def _leaves(node: Hierarchy, path: tuple[int, ...]):
    """Yield the name of each leaf and its path: the child numbers from the root to the leaf."""
    if isinstance(node, str):
        yield node, path
        return
    if not isinstance(node, Mapping | Sequence):
        raise ValueError(f"A hierarchy is made of mappings, sequences and class names, got {type(node).__name__}.")
    children = node.values() if isinstance(node, Mapping) else node
    for number, child in enumerate(children):
        yield from _leaves(child, (*path, number))


def _common_prefix_length(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Length of the common prefix of two paths."""
    depth = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        depth += 1
    return depth
