"""Dataclasses as JSON and back: what was written comes back, and nothing else passes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.training.record_json import ADDED, from_json, to_json
from strategies import brief


@dataclass(frozen=True)
class Part:
    name: str
    weight: float | None


@dataclass(frozen=True)
class Whole:
    kind: Literal["big", "small"]
    number: int
    is_done: bool
    parts: tuple[Part, ...]
    by_name: Mapping[str, tuple[float, ...]]
    extra: Any

    def __post_init__(self):
        if self.number > 99:
            raise ValueError("number must be below 100")


finite = st.floats(allow_nan=False, allow_infinity=False)
wholes = st.builds(
    Whole,
    kind=st.sampled_from(["big", "small"]),
    number=st.integers(-(10**6), 99),
    is_done=st.booleans(),
    parts=st.lists(st.builds(Part, st.text(), st.none() | finite), max_size=3).map(tuple),
    by_name=st.dictionaries(st.text(), st.lists(finite, max_size=3).map(tuple), max_size=3),
    extra=st.none() | st.lists(st.integers(), max_size=2),
)
WHOLE = {
    "kind": "big",
    "number": 1,
    "is_done": True,
    "parts": [{"name": "a", "weight": None}],
    "by_name": {"x": [1.0]},
    "extra": {"any": ["thing"]},
}


@brief
@given(wholes)
def test_what_was_written_is_read_back(whole):
    assert from_json(Whole, json.loads(json.dumps(to_json(whole), allow_nan=False))) == whole


def test_a_whole_number_may_stand_for_a_fraction():
    part = from_json(Part, {"name": "a", "weight": 1})
    assert part.weight == 1.0
    assert isinstance(part.weight, float)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "huge"}, "kind must be one of 'big', 'small', got 'huge'"),
        ({"kind": ["big"]}, "kind must be one of 'big', 'small', got a list"),
        ({"number": 1.5}, "number must be a whole number, got 1.5"),
        ({"number": True}, "number must be a whole number, got true"),
        ({"number": 100}, "number must be below 100"),
        ({"is_done": 1}, "is_done must be true or false, got 1"),
        ({"parts": {}}, "parts must be a list, got an object"),
        ({"parts": "ab"}, "parts must be a list, got 'ab'"),
        ({"parts": [None]}, "parts[0] must be an object, got null"),
        ({"parts": [{"name": "a"}]}, "parts[0].weight is missing"),
        ({"parts": [{"name": 1, "weight": 1}]}, "parts[0].name must be text, got 1"),
        ({"parts": [{"name": "a", "weight": "1"}]}, "parts[0].weight must be a number, got '1'"),
        ({"parts": [{"name": "a", "weight": math.nan}]}, "parts[0].weight must be a number, got nan"),
        ({"parts": [{"name": "a", "weight": 10**400}]}, "parts[0].weight must be a number, got a number that is too"),
        ({"by_name": []}, "by_name must be an object, got a list"),
        ({"by_name": {"\x1b[2J": 1}}, r"by_name.'\x1b[2J' must be a list, got 1"),
        ({"by_name": "x" * 100}, f"by_name must be an object, got '{'x' * 40}…'"),
        ({"more": 1}, "more is not known"),
        ({"\u202e": 1}, r"'\u202e' is not known"),
        ({"x" * 1000: 1}, f"'{'x' * 40}…' is not known"),
    ],
)
def test_what_does_not_fit_is_named(changes, sentence):
    with pytest.raises(ValueError, match=r"must be|missing|not known") as refused:
        from_json(Whole, {**WHOLE, **changes})
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("value", [None, [], "whole", 1])
def test_something_else_than_an_object_is_refused(value):
    with pytest.raises(ValueError, match="the file must be an object"):
        from_json(Whole, value)


def test_a_missing_entry_is_not_filled_in():
    for name in WHOLE:
        with pytest.raises(ValueError, match=f"^{name} is missing$"):
            from_json(Whole, {key: value for key, value in WHOLE.items() if key != name})


@dataclass(frozen=True)
class Grown(Part):
    color: str | None = field(default=None, metadata=ADDED)
    sizes: tuple[int, ...] = field(default=(), metadata=ADDED)


def test_files_from_before_a_field_was_added_are_read_and_written_as_they_were():
    old = {"name": "a", "weight": 1.0}
    assert from_json(Grown, old) == Grown("a", 1.0)
    assert to_json(Grown("a", 1.0)) == old
    new = Grown("a", 1.0, "red", (1, 2))
    assert from_json(Grown, json.loads(json.dumps(to_json(new)))) == new
    with pytest.raises(ValueError, match="color must be text, got 1"):
        from_json(Grown, {**old, "color": 1})
    with pytest.raises(ValueError, match="weight is missing"):
        from_json(Grown, {"name": "a", "color": "red"})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_lacks_are_not_written(value):
    with pytest.raises(ValueError, match="finite numbers only"):
        to_json(Part("a", value))


def test_an_annotation_that_cannot_be_read_is_a_mistake_of_the_code():
    @dataclass(frozen=True)
    class Odd:
        value: set[int]

    with pytest.raises(TypeError, match="no annotation that can be read"):
        from_json(Odd, {"value": []})
