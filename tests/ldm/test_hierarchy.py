"""Lowest common ancestors in a tree of classes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labeldist.ldm.hierarchy import common_ancestor_depths
from strategies import brief, refusal_of

NAMES = ["soccer", "rugby", "rowing", "chess"]
TREE = {"sport": {"ball": ["soccer", "rugby"], "water": ["rowing"]}, "other": ["chess"]}


def test_classes_that_separate_deeper_have_a_deeper_common_ancestor():
    # soccer and rugby separate below sport/ball (2), rowing separates below sport (1), chess at the root (0).
    expected = [[0, 2, 1, 0], [2, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert common_ancestor_depths(TREE, NAMES).tolist() == expected


def test_lists_and_mappings_may_be_mixed_and_keys_are_ignored():
    as_lists = [[["soccer", "rugby"], ["rowing"]], ["chess"]]
    assert torch.equal(common_ancestor_depths(as_lists, NAMES), common_ancestor_depths(TREE, NAMES))


def test_depths_follow_the_order_of_the_class_names():
    order = [2, 0, 3, 1]
    depths = common_ancestor_depths(TREE, [NAMES[i] for i in order])
    assert torch.equal(depths, common_ancestor_depths(TREE, NAMES)[order][:, order])


def test_a_tree_of_one_leaf_is_one_class():
    assert common_ancestor_depths("only", ["only"]).tolist() == [[0]]


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (
            {"sport": ["socer", "rugby"]},
            "There is no class 'socer'; the classes are soccer, rugby, rowing, chess. Did you mean 'soccer'?",
        ),
        (
            [TREE, "soccer"],
            "Each class must stand once in the hierarchy, 'soccer' stands more than once.",
        ),
        ({"sport": ["soccer", "rugby", "rowing"]}, "The hierarchy must hold every class, 'chess' is missing."),
        (
            {"sport": ["soccer", 3]},
            "A hierarchy is made of mappings, sequences and class names, got int.",
        ),
        ({"sport": None}, "A hierarchy is made of mappings, sequences and class names, got NoneType."),
    ],
)
def test_an_invalid_tree_raises_a_clear_error(tree, sentence):
    assert refusal_of(ValueError, common_ancestor_depths, tree, NAMES) == sentence


@st.composite
def trees(draw, num_leaves=6):
    """A nested list of the leaves "0", "1", ... split at random places."""

    def grow(leaves):
        if len(leaves) == 1:
            return leaves[0]
        cut = draw(st.integers(1, len(leaves) - 1))
        return [grow(leaves[:cut]), grow(leaves[cut:])]

    return grow([str(i) for i in range(num_leaves)])


@brief
@given(trees())
def test_depths_are_symmetric_and_ultrametric(tree):
    depths = common_ancestor_depths(tree, [str(i) for i in range(6)])
    assert torch.equal(depths, depths.T)
    for a in range(6):
        for b in range(6):
            for c in range(6):
                if len({a, b, c}) == 3:
                    # Of three classes, the two that separate last are equally far from the third.
                    assert depths[a, c] >= min(depths[a, b], depths[b, c])
