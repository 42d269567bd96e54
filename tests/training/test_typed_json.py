"""Records come back from JSON as they were, or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from labeldist.training.typed_json import from_json, to_json, typed


@dataclass(frozen=True)
class Inner:
    rate: float | None
    kind: Literal["a", "b"]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    path: Path | None
    names: tuple[str, ...]
    counts: dict[str, int]
    flag: bool


VALUE = Outer(Inner(0.5, "a"), Path("x/y"), ("é", "b"), {"train": 3}, True)


@pytest.mark.parametrize("value", [VALUE, Outer(Inner(None, "b"), None, (), {}, False)])
def test_a_record_comes_back_as_it_was(value):
    assert from_json(Outer, to_json(value)) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flag": 1}, r"flag must be bool, got 1 \(int\)"),
        ({"names": "ab"}, r"names must be tuple\[str, \.\.\.\], got 'ab'"),
        ({"names": ["a", 3]}, "names must be str, got 3"),
        ({"counts": {"train": True}}, "train|counts must be int, got True"),
        ({"counts": []}, "counts must be dict"),
        ({"inner": None}, "inner must be an object, got None"),
        ({"inner": {"rate": "1", "kind": "a"}}, r"rate must be float \| None, got '1'"),
        ({"inner": {"rate": 1.0, "kind": "c"}}, "kind must be one of a, b, got 'c'"),
        ({"inner": {"rate": 1.0, "kind": ["a"]}}, "kind must be one of a, b"),
        ({"inner": {"rate": 1.0}}, "inner has no 'kind'"),
        ({"path": 3}, r"path must be Path \| None, got 3"),
        ({"colour": "red"}, "has an unknown 'colour'"),
    ],
)
def test_another_shape_or_type_is_told_by_name(change, message):
    with pytest.raises(TypeError, match=message):
        from_json(Outer, {**to_json(VALUE), **change})


def test_integers_are_numbers_and_truth_values_are_not():
    assert typed(float, 3, "rate") == 3.0
    assert isinstance(typed(float, 3, "rate"), float)
    for kind in (int, float):
        with pytest.raises(TypeError, match="got True"):
            typed(kind, True, "rate")


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(TypeError) as caught:
        typed(int, "x" * 10_000, "size")
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", [[], 3, None, "text"])
def test_what_is_no_object_is_told(value: Any):
    with pytest.raises(TypeError, match="Outer must be an object"):
        from_json(Outer, value)
