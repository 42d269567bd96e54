"""Records on disk: one format, read exactly or refused in one sentence."""

import json
import re
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper import tables
from comparisons import compared, metrics_of
from labeldist.training.errors import UserError
from labeldist.training.record_json import ADDED
from labeldist.training.records import (
    FORMAT,
    Confusion,
    PredictionMetrics,
    RunMetrics,
    Severity,
    read_record,
    record_from_json,
    record_to_json,
    write_record,
)
from labeldist.training.study.results import Comparison, Provenance
from strategies import thorough

METRICS = metrics_of([[7, 3], [1, 9]], precision=0.5, mistake_severity=Severity(2.5, None, 4))
RUN = RunMetrics("static", 3, "a file", 0, None, 2.0, 1000, METRICS)
COMPARISON = replace(
    compared({"ce": [0.8, 0.82], "adaptive": [0.9, 0.91]}),
    provenance=Provenance({"ce-seed0": "none"}, {"data": {"data": ["demo"]}}, "a machine", {"torch": "2"}),
)
RECORDS = [METRICS, RUN, COMPARISON]
KINDS = [PredictionMetrics, RunMetrics, Comparison]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_back_as_it_was_written(record, tmp_path):
    path = tmp_path / "record.json"
    write_record(path, record)
    assert next(iter(json.loads(path.read_text(encoding="utf-8")))) == "format"
    assert read_record(path, type(record)) == record


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read"),
        ('{"format": 1', "cannot be read"),
        ("[]", "as a JSON object, and holds something else"),
        ("null", "as a JSON object, and holds something else"),
        ("{}", "with its format, a whole number, and has none"),
        ('{"format": true}', "with its format, a whole number, and has none"),
        ('{"format": "1"}', "with its format, a whole number, and has none"),
        ('{"format": 2}', "must have format 1, got format 2. Read it with the version of labeldist that wrote it"),
        ('{"format": 1}', " is missing."),
        ('{"format": 1, "a": ' + 100_000 * "[" + 100_000 * "]" + "}", "nested too deeply"),
    ],
)
def test_what_is_no_record_is_refused_in_one_sentence(kind, text, sentence, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(sentence)) as refused:
        read_record(path, kind)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_record_of_another_kind_is_refused(tmp_path):
    for record in RECORDS:
        path = tmp_path / "record.json"
        write_record(path, record)
        for kind in KINDS:
            if kind is not type(record):
                with pytest.raises(UserError, match=f"does not hold {kind.title} as labeldist writes it: "):
                    read_record(path, kind)


def places(value: Any, at: tuple = ()):
    """Where every entry of nested JSON stands."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def changed(value: Any, at: tuple, new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = changed(copy[at[0]], at[1:], new)
    return copy


SMALL = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=3)
JSON = SMALL | st.lists(SMALL, max_size=2) | st.dictionaries(st.text(max_size=3), SMALL, max_size=2)


@thorough
@given(st.data())
def test_a_record_of_the_wrong_shape_is_read_or_refused_and_never_crashes(data):
    record = data.draw(st.sampled_from(RECORDS))
    stored = record_to_json(record)
    at = data.draw(st.sampled_from(list(places(stored))))
    mutated = changed(stored, at, data.draw(JSON))
    try:
        read = record_from_json(type(record), mutated, source="record.json")
    except UserError:
        return
    # What was taken is a record that can be written again.
    assert record_from_json(type(record), record_to_json(read), source="again") == read


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_names": ["ask"]}, "per_class must have the 1 classes of class_names"),
        ({"num_rows": 21}, "confusion must count the 21 rows"),
        ({"confusion": {"true": [2], "predicted": [0], "num_rows": [20]}}, "confusion must have classes below 2"),
        ({"confusion": {"true": [0], "predicted": [], "num_rows": [20]}}, "must have one length"),
        ({"confusion": {"true": [-1], "predicted": [0], "num_rows": [20]}}, "classes must be at least 0"),
        ({"confusion": {"true": [0], "predicted": [0], "num_rows": [0]}}, "num_rows at least 1"),
    ],
)
def test_metrics_that_do_not_belong_together_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        record_from_json(PredictionMetrics, {**record_to_json(METRICS), **changes}, source="metrics.json")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"baseline": "uniform"}, "objectives must have 'uniform', which another entry names"),
        ({"seeds": [0]}, r"objectives\.'ce' must have 1 entries in each list"),
    ],
)
def test_a_comparison_that_does_not_belong_together_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        record_from_json(Comparison, {**record_to_json(COMPARISON), **changes}, source="comparison.json")


def test_an_unknown_objective_is_refused():
    with pytest.raises(UserError, match=r"objective must be one of 'ce', .*, got 'foo'"):
        record_from_json(RunMetrics, {**record_to_json(RUN), "objective": "foo"}, source="metrics.json")


def test_a_confusion_matrix_has_a_row_for_each_true_class():
    assert Confusion((0, 2), (1, 2), (4, 5)).matrix(3).tolist() == [[0, 4, 0], [0, 0, 0], [0, 0, 5]]


@pytest.mark.parametrize("path", sorted(tables.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_comparisons_have_the_format_of_today(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["comparison"]["format"] == FORMAT
    comparison = record_from_json(Comparison, stored["comparison"], source=path)
    assert record_to_json(comparison) == stored["comparison"]
    added_since = {field.name for field in fields(Comparison) if field.metadata == ADDED}
    assert {field.name for field in fields(Comparison)} - added_since == stored["comparison"].keys() - {"format"}
