import io

import numpy as np
import pytest

from benchmarks.paper import tables
from labeldist.training.metrics import evaluate_predictions
from labeldist.training.output.terminal import (
    comparison_table,
    display_width,
    duration,
    format_table,
    style,
    train_summary,
)
from labeldist.training.study.comparison import build_comparison


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _colour_allowed(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)


def metrics_of(predicted, names=("提问", "tell")):
    true = np.array([0] * 6 + [1] * 4)
    return evaluate_predictions(true, np.eye(2)[list(predicted)], names, [f"text {row} " * 30 for row in range(10)])


def comparison_of(*objectives, num_seeds=3):
    return build_comparison(runs_of(*objectives, num_seeds=num_seeds), data="trec", encoder="textcnn")


def runs_of(*objectives, num_seeds):
    runs = []
    for number, objective in enumerate(objectives):
        for seed in range(num_seeds):
            predicted = [0] * (4 + (number + seed) % 3) + [1] * (6 - (number + seed) % 3)
            runs.append({"objective": objective, "seed": seed, "metrics": metrics_of(predicted), "seconds": 61.0})
    return runs


# Rows of three classes: ask is taken for tell or for order so many times.
def three_classes(as_tell, as_order):
    true = np.repeat([0, 1, 2], 4)
    predicted = true.copy()
    predicted[: as_tell + as_order] = [1] * as_tell + [2] * as_order
    matrix = [[1, 5, 1], [5, 1, 1], [1, 1, 1]]
    names = ["ask", "tell", "order"]
    vectors = np.eye(3)[predicted]
    return evaluate_predictions(true, np.eye(3)[predicted], names, ["x"] * 12, vectors=vectors, matrix=matrix), matrix


def measured_comparison(num_seeds=2):
    runs = []
    for objective, as_tell, as_order in (("ce", 2, 1), ("static", 1, 2)):
        for seed in range(num_seeds):
            metrics, matrix = three_classes(as_tell, as_order - seed)
            runs.append({"objective": objective, "seed": seed, "metrics": metrics, "seconds": 1.0, "matrix": matrix})
    return build_comparison(runs, data="trec", encoder="textcnn")


def test_colour_needs_a_terminal_and_no_veto(monkeypatch):
    assert style("done", "green", io.StringIO()) == "done"
    assert style("done", "green", None) == "done"
    assert style("done", "green", Terminal()) == "\x1b[32mdone\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert style("done", "green", Terminal()) == "done"


def test_width_counts_wide_characters_twice_and_colours_not_at_all():
    assert display_width("提问ab") == 6
    assert display_width("e\u0301") == 1
    assert display_width(style("done", "green", Terminal())) == 4


def test_columns_of_a_table_stand_below_each_other():
    table = format_table(["class", "rows"], [["提问", "1"], [style("tell", "bold", Terminal()), "23"]], "<>")
    assert [display_width(line) for line in table.splitlines()] == [11, 11, 11, 11]


def test_a_table_without_rows_shows_its_headers():
    assert format_table(["a", "b"], []).splitlines() == ["a  b", "-  -"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 cells, one for each header, got 1"):
        format_table(["a", "b"], [["x"]])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (3599.6, "1 h 00 min"), (7290, "2 h 02 min")],
)
def test_durations_never_show_sixty(seconds, text):
    assert duration(seconds) == text


def test_summary_answers_which_classes_are_confused():
    text = train_summary(metrics_of([0] * 4 + [1] * 6), title="trec, textcnn", seconds=83, folder="runs/a", width=60)
    lines = text.splitlines()
    assert lines[0] == "trec, textcnn: accuracy 80.0 %, macro-F1 80.0 % (10 rows, 1 min 23 s)"
    assert "提问 taken for tell: 2 rows, 33.3 % of 提问" in lines
    assert lines[-1] == "Saved in runs/a"
    assert all(display_width(line) <= 75 for line in lines)


def test_summary_shows_neighbours_and_mistakes_below_the_accuracy():
    metrics, _ = three_classes(2, 1)
    lines = train_summary(metrics, title="trec").splitlines()
    assert lines[1].startswith("Nearest neighbours among these rows: precision@1 ")
    assert lines[1].endswith(f"MAP@R {100 * metrics['embeddings']['mean_average_precision_at_r']:.1f} %")
    # (5 + 5 + 1) / 3, and the mean of 5 and 1.
    assert lines[2] == "Mean distance of the mistakes by the run's own matrix: 3.67 (3.00 if spread evenly)"
    assert lines[3] == ""


def test_summary_leaves_out_what_was_not_or_could_not_be_measured():
    metrics, _ = three_classes(0, 0)
    assert "distance of the mistakes" not in train_summary(metrics, title="trec")
    earlier = {key: value for key, value in metrics.items() if key not in ("embeddings", "mistake_severity")}
    assert train_summary(earlier, title="trec").splitlines()[1] == ""
    alone = evaluate_predictions([0, 1], np.eye(2), ["ask", "tell"], ["x", "y"], vectors=np.eye(2))
    assert train_summary(alone, title="trec").splitlines()[1] == ""


def test_summary_of_a_perfect_model():
    assert "No test row was misclassified." in train_summary(metrics_of([0] * 6 + [1] * 4), title="demo")


def test_summary_of_many_classes_shows_the_weakest():
    names = [f"class{c}" for c in range(20)]
    text = train_summary(evaluate_predictions(range(20), np.eye(20), names, ["x"] * 20), title="many")
    assert "The 5 weakest of 20 classes" in text
    assert "class7" not in text


def test_the_last_line_of_a_comparison_is_the_verdict():
    comparison = comparison_of("ce", "ce-two-views", "static", "adaptive")
    lines = comparison_table(comparison).splitlines()
    assert lines[-1] == comparison["verdict"]["sentence"]
    assert "vs ce-two-views" in lines[2]
    assert [line.split()[0] for line in lines[4:8]] == ["ce", "ce-two-views", "static", "adaptive"]
    assert "baseline" in lines[5]
    assert "1 min 01 s" in lines[7]


def test_a_second_table_shows_neighbours_and_mistakes():
    comparison = measured_comparison()
    lines = comparison_table(comparison).splitlines()
    start = lines.index("Nearest neighbours among the test rows, and where the mistakes fall")
    headers, _, ce, static = lines[start + 2 : start + 6]
    assert headers.split("  ")[-1] == "if even"
    assert "precision@1 %" in headers
    # Under static's matrix: ce (5 + 5 + 1) / 3 and (5 + 5) / 2; static (5 + 1 + 1) / 3 and (5 + 1) / 2.
    assert ce.endswith("4.33 ± 0.94  3.00 ± 0.00")
    assert static.endswith("2.67 ± 0.47  3.00 ± 0.00")
    note = " ".join(lines[start + 6 : start + 9])
    assert "under the matrix of static, seed 0; if even:" in note
    assert lines[start + 9] == ""
    assert max(map(display_width, lines[start : start + 9])) <= 100


def test_the_second_table_has_the_columns_that_were_measured():
    # Two classes have one pair, and these runs no vectors.
    assert "Nearest neighbours" not in comparison_table(comparison_of("ce", "adaptive"))
    comparison = measured_comparison(num_seeds=1)
    for columns in comparison["objectives"].values():
        columns["r_precision"] = [None]
    table = comparison_table(comparison)
    assert "precision@1 %" in table
    assert "R-precision" not in table
    assert "±" not in table.split("\n", 1)[1]


@pytest.mark.parametrize("name", sorted(path.stem for path in tables.RESULTS.glob("*.json")))
def test_a_comparison_of_an_earlier_version_still_has_its_table(name):
    recorded = {key: value for key, value in tables.load(name).items() if key != "severity_matrix"}
    for columns in recorded["objectives"].values():
        for key in columns.keys() - {"accuracy", "macro_f1", "seconds"}:
            del columns[key]
    table = comparison_table(recorded)
    assert "Nearest neighbours" not in table
    assert table.splitlines()[-1] == recorded["verdict"]["sentence"]


def test_one_seed_shows_means_without_spread_interval_or_p():
    text = comparison_table(comparison_of("ce", "adaptive", num_seeds=1))
    assert "over 1 seed" in text
    assert "±" not in text.split("\n", 1)[1]
    assert "nan" not in text


def test_identical_objectives_confuse_alike():
    comparison = comparison_of("ce", "adaptive", num_seeds=1)
    comparison["pairs"]["adaptive"] = {"repaired": [], "broken": []}
    assert "adaptive confuses every pair of classes as often as ce." in comparison_table(comparison)


def test_the_table_of_a_comparison_fits_a_terminal():
    comparison = comparison_of("ce", "ce-two-views", "contrastive", "uniform", "static", "adaptive")
    assert max(map(display_width, comparison_table(comparison).splitlines()[2:10])) <= 100


def test_the_verdict_is_coloured_on_a_terminal_only():
    comparison = comparison_of("ce", "adaptive")
    assert "\x1b[" in comparison_table(comparison, Terminal())
    assert "\x1b[" not in comparison_table(comparison, io.StringIO())
