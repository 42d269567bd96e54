"""Tables of predictions as people have them."""

import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from labeldist.reports.findings import find
from labeldist.reports.page import About
from labeldist.reports.report import Report
from labeldist.training.errors import UserError
from labeldist.training.reporting.prediction_table import PredictionColumns, read_predictions

ROWS = [
    {"text": "is it fast?", "label": "ask", "prediction": "tell", "probability": 0.75},
    {"text": "it is fast", "label": "tell", "prediction": "tell", "probability": 0.5},
]


def read(*arguments, **options) -> Any:
    """What was read; of any type, since its optional parts are there."""
    return read_predictions(*arguments, **options)


def written(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_file_says_the_same(tmp_path, kind):
    found = read(written(tmp_path / f"mail.{kind}", ROWS))
    assert found.class_names == ("ask", "tell")
    assert found.labels.tolist() == [0, 1]
    assert found.predicted.tolist() == [1, 1]
    assert found.texts == ("is it fast?", "it is fast")
    assert found.confidence.tolist() == [0.75, 0.5]


@pytest.mark.parametrize("prefix", ["", "p_", "prob_", "P_"])
def test_a_column_for_each_class_holds_all_probabilities(tmp_path, prefix):
    rows = [
        {"y_true": "ask", "y_pred": "ask", f"{prefix}ask": 0.7, f"{prefix}tell": 0.3, "id": 7},
        {"y_true": "tell", "y_pred": "ask", f"{prefix}ask": 0.6, f"{prefix}tell": 0.4, "id": 8},
    ]
    found = read(written(tmp_path / "p.csv", rows))
    assert found.probabilities.tolist() == [[0.7, 0.3], [0.6, 0.4]]
    assert found.confidence.tolist() == [0.7, 0.6]
    assert found.texts is None
    assert found.top.classes.tolist() == [[0, 1], [0, 1]]


def test_an_object_of_probabilities_decides_where_no_prediction_stands(tmp_path):
    rows = [
        {"text": "a", "label": "x", "probabilities": {"x": 0.2, "y": 0.5, "z": 0.3}},
        {"text": "b", "label": "y", "probabilities": {"x": 0.1, "y": 0.9}},
    ]
    found = read(written(tmp_path / "p.jsonl", rows))
    assert found.class_names == ("x", "y", "z")
    assert found.predicted.tolist() == [1, 1]
    assert found.confidence.tolist() == [0.5, 0.9]
    # Not every class has its probability in every row.
    assert found.probabilities is None
    assert found.top.classes.tolist() == [[1, 2, 0], [1, 0, -1]]


def test_columns_of_numbers_that_are_no_probabilities_are_left_alone(tmp_path):
    rows = [{"label": "1", "pred": "2", "1": 17, "2": 3}, {"label": "2", "pred": "2", "1": 5, "2": 9}]
    found = read(written(tmp_path / "p.csv", rows))
    assert found.probabilities is None
    assert found.confidence is None
    assert found.class_names == ("1", "2")


def test_labels_of_numbers_are_ordered_as_numbers(tmp_path):
    rows = [{"label": float(i), "predicted": 10.0} for i in (10, 9, 1)]
    found = read(written(tmp_path / "p.parquet", rows))
    assert found.class_names == ("1", "9", "10")


def test_named_columns_take_precedence(tmp_path):
    rows = [{"label": "no", "gold": "a", "predicted": "no", "mine": "b", "text": "no", "body": "yes", "how": 0.5}]
    columns = PredictionColumns("body", "gold", "mine", "how")
    found = read(written(tmp_path / "p.jsonl", rows), columns)
    assert (found.class_names, found.texts, found.confidence.tolist()) == (("a", "b"), ("yes",), [0.5])


@pytest.mark.parametrize(
    ("rows", "columns", "sentence"),
    [
        ([{"text": "a", "prediction": "x"}], {}, "no column is known to hold the label"),
        ([{"text": "a", "label": "x"}], {}, "no column is known to hold the prediction .*--prediction-column"),
        (ROWS, {"prediction": "predictio"}, "no column 'predictio' .* Did you mean 'prediction'"),
        (ROWS, {"probability": "confidence"}, "no column 'confidence' .--probability-column"),
        ([{**ROWS[0], "label": ""}], {}, "p.jsonl, line 1: the label .* is missing"),
        ([ROWS[0], {**ROWS[1], "prediction": None}], {}, "line 2: the prediction .* is missing"),
        ([{**ROWS[0], "how": 75}], {"probability": "how"}, r"probability .* must lie in \[0, 1\], got 75"),
        ([{**ROWS[0], "how": "high"}], {"probability": "how"}, r"must lie in \[0, 1\], got 'high'"),
        ([{**ROWS[0], "label": ["a"]}], {}, "must be one string or number"),
        ([{"label": "ask", "probabilities": [0.1]}], {}, "must be an object {class: probability}"),
        ([{"label": "ask", "probabilities": {"ask": 3}}], {}, r"must lie in \[0, 1\], got 3"),
        ([{"label": "a", "prediction": "x"}] * 5, {}, "no class in common: 'a' and 'x'"),
        ([{**ROWS[1]}], {}, "name one class, 'tell'; a report needs two"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(tmp_path, rows, columns, sentence):
    path = written(tmp_path / "p.jsonl", rows)
    with pytest.raises(UserError, match=sentence):
        read_predictions(path, PredictionColumns(**columns))


def test_a_class_that_is_none_of_the_known_ones_is_said(tmp_path):
    path = written(tmp_path / "p.jsonl", ROWS)
    with pytest.raises(UserError, match="'tell' is no class; the classes are 'ask', 'order'"):
        read_predictions(path, class_names=["ask", "order"])


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("score", [3.2, -1.0], r"column 'score' is left out: .* must lie in \[0, 1\]"),
        ("probs", [[0.1, 0.9], [0.2, 0.8]], "column 'probs' is left out: .* must be an object"),
        ("prob", [0.97, 0.02], "column 'prob' is left out: 1 of 2 rows have less than one in 2"),
    ],
)
def test_a_column_that_only_looks_like_probabilities_is_left_out_and_told(tmp_path, column, values, reason):
    rows = [
        {"label": name, "prediction": name, column: value} for name, value in zip(("ask", "tell"), values, strict=True)
    ]
    notes: list[str] = []
    found = read(written(tmp_path / "p.jsonl", rows), note=notes.append)
    assert found.confidence is None
    assert re.search(reason, notes[-1])


@pytest.mark.parametrize("gap", [None, float("nan"), ""])
def test_rows_without_a_probability_are_counted_and_the_others_kept(tmp_path, gap):
    rows = [{"text": "x", "label": "ask", "prediction": "tell", "proba": value} for value in (0.9, gap, 0.7)]
    said: list[str] = []
    found = read_predictions(written(tmp_path / "p.jsonl", rows), say=said.append)
    assert said == ["1 of 3 rows has no probability: confidence is about the others"]
    assert [found.confidence_of(row) for row in range(3)] == [0.9, None, 0.7]
    page = Report(find(found), About()).html
    assert "Of 3 rows, 2 have a probability: this part is about those." in page
    data = page.split('type="application/json">')[1].split("</script>")[0]
    # JSON has no NaN, and a browser would read none of the data.
    assert [row[3] for row in json.loads(data, parse_constant=pytest.fail)["rows"]] == [0.9, 0.7, None]
    assert "nan" not in page.split("<script id")[0].casefold()


@pytest.mark.parametrize(
    ("written_as", "expected"),
    [("0,9076", 0.9076), ("90,5 %", 0.905), ("91%", 0.91), ("9,1E-01", 0.91), ("1,0", 1.0), ("0.5", 0.5)],
)
def test_probabilities_are_read_as_spreadsheets_write_them(tmp_path, written_as, expected):
    path = tmp_path / "p.csv"
    path.write_text(f"\ufeffText;Label;Prediction;Probability\r\nx;a;b;{written_as}\r\n", encoding="utf-8")
    found = read_predictions(path)
    assert found.confidence_of(0) == pytest.approx(expected)


@pytest.mark.parametrize("written_as", ["91", "-0,5", "1.000,5", "0,9,1", "%"])
def test_what_is_no_probability_in_a_spreadsheet_either_is_left_out(tmp_path, written_as):
    path = tmp_path / "p.csv"
    path.write_text(f"text;label;prediction;probability\nx;a;b;{written_as}\n")
    assert read_predictions(path).confidence is None


def test_whole_numbers_are_one_class_however_they_are_written(tmp_path):
    (tmp_path / "p.csv").write_text("label,prediction\n1,1.0\n2,2.0\n2,1.0\n")
    found = read(tmp_path / "p.csv")
    assert found.class_names == ("1", "2")
    assert (found.labels == found.predicted).tolist() == [True, True, False]


@pytest.mark.parametrize("prefix", ["", "p_", "proba_"])
def test_without_predictions_the_most_probable_class_is_predicted(tmp_path, prefix):
    rows = [
        {"label": "ask", f"{prefix}ask": 0.7, f"{prefix}tell": 0.2, f"{prefix}shout": 0.1, "id": 0.5},
        {"label": "tell", f"{prefix}ask": 0.2, f"{prefix}tell": 0.3, f"{prefix}shout": 0.5, "id": 0.25},
        {"label": "shout", f"{prefix}ask": "20 %", f"{prefix}tell": "0", f"{prefix}shout": "80 %", "id": 1},
    ]
    found = read(written(tmp_path / "p.csv", rows))
    assert found.class_names == ("ask", "shout", "tell")
    assert [found.class_names[i] for i in found.predicted] == ["ask", "shout", "shout"]
    assert found.confidence.tolist() == pytest.approx([0.7, 0.5, 0.8])


@pytest.mark.parametrize(("begin", "end"), [("", ""), ("p_", ""), ("p(", ")")])
def test_a_class_that_no_row_is_labeled_with_has_a_column_too(tmp_path, begin, end):
    scores = {"a (x)": [0.3, 0.1], "b (y)": [0.2, 0.8], "C (z)": [0.5, 0.1]}
    rows = [
        {"label": label, **{f"{begin}{name}{end}": values[i] for name, values in scores.items()}, "length": 40 + i}
        for i, label in enumerate(["a (x)", "b (y)"])
    ]
    found = read(written(tmp_path / "p.csv", rows))
    assert found.class_names == ("C (z)", "a (x)", "b (y)")
    assert [found.class_names[i] for i in found.predicted] == ["C (z)", "b (y)"]


def test_columns_beside_those_of_all_classes_are_no_classes(tmp_path):
    rows = [{"label": name, "p_ask": 0.7, "p_tell": 0.3, "p_value": 0.9, "p_date": "2026"} for name in ("ask", "tell")]
    assert read(written(tmp_path / "p.csv", rows)).class_names == ("ask", "tell")


@pytest.mark.parametrize("name", ["score", "p", "confidence"])
def test_a_class_may_have_the_name_of_a_known_column(tmp_path, name):
    rows = [{"label": label, name: 0.7, "other": 0.3} for label in (name, "other")]
    found = read(written(tmp_path / "p.csv", rows))
    assert found.confidence.tolist() == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize("labels", [[0, 1, 2], ["0", "1", "2"], [0.0, 1.0, 2.0], ["0.0", "1.0", "2.0"]])
def test_numbered_classes_have_numbered_columns(tmp_path, labels):
    scores = [[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
    rows = [{"y_true": label, **dict(zip("012", row, strict=True))} for label, row in zip(labels, scores, strict=True)]
    found = read(written(tmp_path / "p.parquet", rows))
    assert found.class_names == ("0", "1", "2")
    assert found.predicted.tolist() == [1, 1, 2]


TWO_ROWS = [{"label": "ask", "p_ask": 0.7, "p_tell": 0.3}, {"label": "tell", "p_ask": 0.6, "p_tell": 0.4}]
MUST_SUM = r"line 3: no column has predictions, so the probabilities of all classes must lie in \[0, 1\] and sum to 1, "


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": "shout"}, r"no column has predictions, and none has the probability of class 'shout'\. Give "),
        ({"label": "ASK"}, r"two classes differ in case only"),
        ({"p_tell": ""}, rf"{MUST_SUM}got 0\.6 in 'p_ask', none in 'p_tell'"),
        ({"p_tell": "high"}, MUST_SUM),
        ({"p_tell": 0.2}, rf"{MUST_SUM}got 0\.6 in 'p_ask', 0\.2 in 'p_tell'\. Give --prediction-column, or a "),
        ({"p_ask": 4.5, "p_tell": -3.5}, MUST_SUM),  # scores that are no probabilities, and sum to 1
    ],
)
def test_probabilities_that_cannot_predict_are_refused(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        read(written(tmp_path / "p.csv", [TWO_ROWS[0], {**TWO_ROWS[1], **changes}]))


def test_one_hot_labels_are_no_predictions(tmp_path):
    rows = [{"label": name, "ask": int(name == "ask"), "tell": int(name == "tell")} for name in ("ask", "tell", "ask")]
    with pytest.raises(UserError, match=r"the columns 'ask', 'tell' repeat the label\. Give --prediction-column"):
        read(written(tmp_path / "p.csv", rows))


def test_a_row_without_probabilities_in_its_object_has_no_prediction(tmp_path):
    rows = [
        {"label": "ask", "probs": {"ask": 0.9, "tell": 0.1}, "ask": 0.9},
        {"label": "tell", "probs": None, "ask": 1},
    ]
    with pytest.raises(UserError, match="line 2: there is neither a prediction nor a probability"):
        read(written(tmp_path / "p.jsonl", rows))
