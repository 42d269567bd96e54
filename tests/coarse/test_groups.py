"""Groups of classes: masks, inner nodes of a hierarchy, prefixes of names."""

import numpy as np
import pytest
import torch

from labeldist.coarse import group_masks, hierarchy_groups, prefix_groups
from strategies import refusal_of

NAMES = ["abb", "exp", "city", "date"]


@pytest.mark.parametrize(
    "groups", [{"short": ["abb", "exp"], "date": ["date"]}, [["abb", "exp"], [3]], {"short": [0, 1], "date": "date"}]
)
def test_groups_by_name_by_index_and_in_a_list_are_the_same_masks(groups):
    expected = [[True, True, False, False], [False, False, False, True]]
    assert group_masks(groups, class_names=NAMES).tolist() == expected
    assert group_masks(torch.tensor(expected), class_names=NAMES).tolist() == expected


def test_there_may_be_no_group():
    assert group_masks({}, num_classes=3).shape == (0, 3)


@pytest.mark.parametrize(
    ("groups", "options", "error", "sentence"),
    [
        (
            {"short": ["abb", "expp"]},
            {"class_names": NAMES},
            ValueError,
            "There is no class 'expp'; the classes are abb, exp, city, date. Did you mean 'exp'?",
        ),
        (
            {"x": []},
            {"class_names": NAMES},
            ValueError,
            "Each group must allow at least one class, group 'x' allows none.",
        ),
        (
            torch.tensor([[True, False], [False, False]]),
            {},
            ValueError,
            "Each group must allow at least one class, group 1 allows none.",
        ),
        (torch.ones(1, 2), {}, TypeError, "groups must be boolean, got torch.float32."),
        (
            torch.ones(1, 2).bool(),
            {"num_classes": 3},
            ValueError,
            "groups must have shape (G, 3), got (1, 2).",
        ),
        (
            [[True, False, True]],
            {"num_classes": 3},
            TypeError,
            "A class is a name or an index, got True. Give a mask of classes as a boolean tensor, where one is taken.",
        ),
        ([[0, 7]], {"num_classes": 3}, ValueError, "A class index must lie in [0, 3), got 7."),
        ([[0]], {}, ValueError, "Give class_names, or num_classes of at least 1; got num_classes=None."),
    ],
)
def test_bad_groups_are_told(groups, options, error, sentence):
    assert refusal_of(error, group_masks, groups, **options) == sentence


def test_a_mask_of_numpy_is_taken_as_one_of_torch():
    masks = np.array([[True, False, True]])
    assert torch.equal(group_masks(masks, num_classes=3), torch.from_numpy(masks))


def test_each_inner_node_with_a_name_holds_all_classes_below_it():
    tree = {"all": [{"short": ["abb", "exp"]}, [["city"], "date"], {"when": "date"}]}
    assert hierarchy_groups(tree) == {"all": ["abb", "exp", "city", "date"], "short": ["abb", "exp"], "when": ["date"]}
    assert hierarchy_groups(["a", ["b"]]) == {}
    assert hierarchy_groups({"a": ["a"]}) == {"a": ["a"]}


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"x": {"y": "a"}, "y": "b"}, "Each group of a hierarchy needs a name of its own, 'y' stands twice."),
        ({"x": ["a", {"y": []}]}, "Each group of a hierarchy must hold a class, 'y' holds none."),
        ({"a": ["a", "b"]}, "'a' is both a class and a group of other classes. Give one of them another name."),
        ({"x": [3]}, "A hierarchy is made of mappings, sequences and class names, got int."),
    ],
)
def test_a_hierarchy_that_cannot_name_groups_is_told(tree, sentence):
    assert refusal_of(ValueError, hierarchy_groups, tree) == sentence


def test_a_list_that_holds_itself_is_refused():
    tree: list = []
    tree.append(tree)
    assert refusal_of(ValueError, hierarchy_groups, tree) == "A hierarchy must not be nested deeper than 1,000 levels."


def test_every_prefix_is_a_group():
    assert prefix_groups(["NUM::a", "NUM::b::c", "LOC"], "::") == {
        "NUM": ["NUM::a", "NUM::b::c"],
        "NUM::b": ["NUM::b::c"],
    }
    assert refusal_of(ValueError, prefix_groups, ["a"], "") == (
        "The separator of class names must have at least one character."
    )
    assert refusal_of(ValueError, prefix_groups, ["NUM", "NUM:a"], ":") == (
        "'NUM' is both a class and the group of 'NUM:a'."
    )
