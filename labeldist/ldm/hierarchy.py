"""Lowest common ancestors in a tree of classes written as nested mappings and sequences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Union

import torch
from torch import Tensor

from labeldist.class_names import class_indices
from labeldist.messages import shown

# Union instead of |, which a forward reference in quotes does not support.
Hierarchy = Union[str, Sequence["Hierarchy"], Mapping[str, "Hierarchy"]]  # noqa: UP007

# A list that holds itself would go down forever.
_MAX_DEPTH = 100_000


def common_ancestor_depths(tree: Hierarchy, class_names: Sequence[str]) -> Tensor:
    r"""Depth of the lowest common ancestor (LCA) of each pair of classes; the root has depth 0.

    In the order in which the tree names the leaves, the LCA of leaves $i < j$ is as deep as the shallowest LCA of two
    neighbors between them, so one running minimum per row gives all depths, in `O(C^2)`.

    Args:
        tree: nested mappings and sequences whose leaves are the class names, each exactly once.
        class_names: one name per class.

    Returns:
        `(C, C)`, in the default floating-point dtype; the diagonal is 0.

    Raises:
        ValueError: if a leaf is not a class or appears twice, a class is missing, or a list contains itself.

    Examples:
        >>> common_ancestor_depths({"x": ["a", "b"], "y": "c"}, ["a", "b", "c"])
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 0., 0.]])
    """
    leaves = list(_leaves(tree))
    indices = class_indices((name for name, *_ in leaves), class_names)
    seen: set[int] = set()
    for index, (name, *_) in zip(indices, leaves, strict=True):
        if index in seen:
            raise ValueError(f"Each class must stand once in the hierarchy, {shown(name)} stands more than once.")
        seen.add(index)
    missing = [name for i, name in enumerate(class_names) if i not in seen]
    if missing:
        raise ValueError(f"The hierarchy must hold every class, {shown(missing[0])} is missing.")
    neighbors = torch.tensor([float(shared) for _, shared, _ in leaves])
    in_tree_order = torch.zeros(len(leaves), len(leaves))
    for i in range(len(leaves) - 1):
        in_tree_order[i, i + 1 :] = neighbors[i + 1 :].cummin(dim=0).values
    in_tree_order += in_tree_order.T.clone()
    # The position in the tree of each class.
    position = torch.empty(len(indices), dtype=torch.long)
    position[torch.tensor(indices, dtype=torch.long)] = torch.arange(len(indices))
    return in_tree_order[position[:, None], position]


def deepest_leaf(tree: Hierarchy) -> int:
    """Depth of the deepest leaf; the root has depth 0.

    Examples:
        >>> deepest_leaf({"x": ["a", "b"], "y": "c"})
        2
    """
    return max((depth for *_, depth in _leaves(tree)), default=0)


def _leaves(tree: Hierarchy) -> Iterator[tuple[str, int, int]]:
    """Yield each leaf's name, the depth of its lowest ancestor in common with the leaf before it, and its own depth."""
    # Not recursive: a tree may be deeper than Python's stack. The last iterator gives children of depth len(stack) - 1.
    stack: list[Iterator[Hierarchy]] = [iter([tree])]
    shared = 0
    while stack:
        for node in stack[-1]:
            if isinstance(node, str):
                yield node, max(shared, 0), len(stack) - 1
                shared = len(stack) - 2
                continue
            if not isinstance(node, Mapping | Sequence):
                raise ValueError(
                    f"A hierarchy is made of mappings, sequences and class names, got {type(node).__name__}."
                )
            if len(stack) > _MAX_DEPTH:
                raise ValueError(f"A hierarchy must not be nested deeper than {_MAX_DEPTH} levels.")
            stack.append(iter(node.values() if isinstance(node, Mapping) else node))
            break
        else:
            stack.pop()
            shared = min(shared, len(stack) - 2)
