"""What the terminal shows after a run and after a comparison."""

import io
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.paper import tables
from comparisons import WHERE, compared, finished, metrics_of
from labeldist.training.metrics import evaluate_predictions
from labeldist.training.output.terminal import comparison_table, train_summary
from labeldist.training.output.text_layout import display_width
from labeldist.training.output.words import verdict_sentence
from labeldist.training.records import PredictionMetrics
from labeldist.training.study.comparison import build_comparison
from labeldist.training.study.results import Comparison, PairChanges

# Clears the screen, sets the window's title, turns the direction of text, deletes what stands before, C1.
HOSTILE = "a\x1b[2J\x1b]0;t\x07\u202e\b\x9b31m"
CONTROLS = set(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x202E])) - {"\n"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _eighty_columns_of_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def comparison_of(*objectives, num_seeds=3):
    runs = []
    for number, objective in enumerate(objectives):
        for seed in range(num_seeds):
            found = (number + seed) % 3
            metrics = metrics_of([[4 + found, 2 - found], [0, 4]], ["提问", "tell"])
            runs.append(finished(objective, seed, metrics))
    return build_comparison(runs, **WHERE)


# Rows of three classes: ask is taken for tell or for order so many times.
def three_classes(as_tell, as_order):
    true = np.repeat([0, 1, 2], 4)
    predicted = true.copy()
    predicted[: as_tell + as_order] = [1] * as_tell + [2] * as_order
    matrix = [[1, 5, 1], [5, 1, 1], [1, 1, 1]]
    names = ["ask", "tell", "order"]
    vectors = np.eye(3)[predicted]
    return evaluate_predictions(true, np.eye(3)[predicted], names, ["x"] * 12, vectors=vectors, matrix=matrix), matrix


def measured_comparison(num_seeds=2, objectives=(("ce", 2, 1), ("static", 1, 2))):
    runs = []
    for objective, as_tell, as_order in objectives:
        for seed in range(num_seeds):
            metrics, matrix = three_classes(as_tell, as_order - seed)
            runs.append(finished(objective, seed, metrics, matrix=matrix))
    return build_comparison(runs, **WHERE)


def test_summary_answers_which_classes_are_confused():
    metrics = metrics_of([[4, 2], [0, 4]], ["提问", "tell"])
    text = train_summary(metrics, title="trec, textcnn", seconds=83, folder="runs/a")
    lines = text.splitlines()
    assert lines[0] == "trec, textcnn: accuracy 80.0 %, macro-F1 80.0 % (10 rows, 1 min 23 s)"
    assert "提问 taken for tell: 2 rows, 33.3 % of 提问" in lines
    assert lines[-1] == "Saved in runs/a"
    assert all(display_width(line) <= 80 for line in lines)


def test_summary_shows_neighbors_and_mistakes_below_the_accuracy():
    metrics, _ = three_classes(2, 1)
    lines = train_summary(metrics, title="trec").splitlines()
    assert metrics.embeddings is not None
    assert lines[1].startswith("Nearest neighbors: precision@1 ")
    assert lines[1].endswith(f"MAP@R {100 * (metrics.embeddings.mean_average_precision_at_r or 0):.1f} %")
    # (5 + 5 + 1) / 3, and the mean of 5 and 1.
    assert lines[2] == "Mean label distance of the mistakes: 3.67 (3.00 if spread evenly)"
    assert lines[3] == ""


def test_summary_leaves_out_what_was_not_or_could_not_be_measured():
    metrics, _ = three_classes(0, 0)
    assert "distance of the mistakes" not in train_summary(metrics, title="trec")
    unmeasured = replace(metrics, embeddings=None, mistake_severity=None)
    assert train_summary(unmeasured, title="trec").splitlines()[1] == ""
    alone = evaluate_predictions([0, 1], np.eye(2), ["ask", "tell"], ["x", "y"], vectors=np.eye(2))
    assert train_summary(alone, title="trec").splitlines()[1] == ""


def test_summary_of_a_perfect_model():
    assert "No test row was misclassified." in train_summary(metrics_of([[6, 0], [0, 4]]), title="demo")


def test_summary_of_many_classes_shows_the_weakest():
    names = [f"class{c}" for c in range(20)]
    text = train_summary(evaluate_predictions(range(20), np.eye(20), names, ["x"] * 20), title="many")
    assert "The 5 weakest of 20 classes" in text
    assert "class7" not in text


def long_names(num_classes: int) -> list[str]:
    return [f"a_class_with_a_name_{c}".ljust(28, "x") for c in range(num_classes)]


def test_summary_fits_80_columns_with_long_names_and_texts():
    metrics = metrics_of(np.full((4, 4), 1234), long_names(4))
    lines = train_summary(
        metrics, title="a-corpus-with-a-name, an-encoder-with-a-name, adaptive", seconds=83
    ).splitlines()
    assert max(map(display_width, lines)) <= 80


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_sentences_and_examples_follow_the_width_of_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    metrics = metrics_of([[4, 2], [0, 4]])
    lines = train_summary(metrics, title="trec, textcnn", stream=Terminal()).splitlines()
    # Examples take all the columns that there are, but for a last word that would not fit.
    assert columns - 8 <= max(map(display_width, lines)) <= columns


def test_the_last_sentence_of_a_comparison_is_the_verdict():
    comparison = comparison_of("ce", "ce-two-views", "static", "adaptive")
    text = comparison_table(comparison)
    assert " ".join(text.split()).endswith(verdict_sentence(comparison))
    lines = text.splitlines()
    assert lines[0] == "trec, textcnn: mean ± standard deviation over 3 seeds"
    assert lines[1] == "points: difference of accuracy to ce-two-views"
    assert lines[3].split("  ")[0] == "objective"
    assert [line.split()[0] for line in lines[5:9]] == ["ce", "ce-two-views", "static", "adaptive"]
    assert "baseline" in lines[6]
    assert "  61 s  " in lines[8]


def test_a_second_table_shows_neighbors_and_mistakes():
    lines = comparison_table(measured_comparison()).splitlines()
    start = lines.index("Nearest neighbors among the test rows, in %, and the distance of the mistakes")
    headers, _, ce, static = lines[start + 2 : start + 6]
    assert headers.split() == ["objective", "precision@1", "R-precision", "MAP@R", "distance", "if", "even"]
    # Under static's matrix: ce (5 + 5 + 1) / 3 and (5 + 5) / 2; static (5 + 1 + 1) / 3 and (5 + 1) / 2.
    assert ce.endswith("4.33 ± 0.94  3.00 ± 0.00")
    assert static.endswith("2.67 ± 0.47  3.00 ± 0.00")
    end = lines.index("", start + 6)
    assert "under the matrix of static, seed 0; if even:" in " ".join(lines[start + 6 : end])


def test_the_second_table_has_the_columns_that_were_measured():
    # Two classes have one pair, and these runs no vectors.
    assert "Nearest neighbors" not in comparison_table(comparison_of("ce", "adaptive"))
    comparison = measured_comparison(num_seeds=1)
    objectives = {name: replace(scores, r_precision=(None,)) for name, scores in comparison.objectives.items()}
    table = comparison_table(replace(comparison, objectives=objectives))
    assert "precision@1" in table
    assert "R-precision" not in table
    assert "±" not in table.split("\n", 1)[1]


@pytest.mark.parametrize("name", sorted(path.stem for path in tables.RESULTS.glob("*.json")))
def test_a_recorded_comparison_has_its_table_and_fits_80_columns(name):
    comparison = tables.load(name).comparison
    text = comparison_table(comparison)
    assert " ".join(text.split()).endswith(verdict_sentence(comparison))
    assert max(map(display_width, text.splitlines())) <= 80


def test_one_seed_shows_means_without_spread_interval_or_p():
    text = comparison_table(comparison_of("ce", "adaptive", num_seeds=1))
    assert "over 1 seed\n" in text
    assert "±" not in text.split("\n", 1)[1]
    assert "nan" not in text


def test_identical_objectives_confuse_alike():
    comparison = replace(comparison_of("ce", "adaptive", num_seeds=1), pairs={"adaptive": PairChanges((), ())})
    assert "adaptive confuses every pair of classes as often as ce." in comparison_table(comparison)


def test_each_repaired_or_broken_pair_has_a_line():
    base = metrics_of([[5, 4, 0], [0, 9, 3], [0, 0, 9]], ["ask", "tell", "order"])
    other = metrics_of([[7, 1, 1], [0, 12, 0], [0, 0, 9]], ["ask", "tell", "order"])
    comparison = build_comparison([finished("ce", 0, base), finished("adaptive", 0, other)], **WHERE)
    lines = comparison_table(comparison).splitlines()
    start = lines.index("adaptive confuses less often")
    assert lines[start + 1 : start + 5] == [
        "  ask / tell: 4.0 to 1.0 (right: 14.0 to 19.0)",
        "  tell / order: 3.0 to 0.0 (right: 18.0 to 21.0)",
        "adaptive confuses more often",
        "  ask / order: 0.0 to 1.0 (right: 14.0 to 16.0)",
    ]


def test_a_comparison_of_all_objectives_fits_80_columns():
    names = ("ce", "ce-two-views", "contrastive", "uniform", "static", "adaptive")
    comparison = measured_comparison(
        num_seeds=3, objectives=[(name, place % 2, 2 + place % 3 - place % 2) for place, name in enumerate(names)]
    )
    assert comparison.severity_matrix
    text = comparison_table(comparison)
    assert "MAP@R" in text
    assert max(map(display_width, text.splitlines())) <= 80


@pytest.mark.parametrize("columns", [40, 56, 70, 80, 100])
def test_a_comparison_of_long_names_fits_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ("ce", "ce-two-views", "contrastive", "logistic-label-texts", "centroid-label-texts", "adaptive")
    comparison = measured_comparison(num_seeds=3, objectives=[(name, place % 2, 2) for place, name in enumerate(names)])
    lines = comparison_table(comparison, Terminal()).splitlines()
    assert max(map(display_width, lines)) <= columns
    shown = " ".join(lines)
    for title in ("accuracy %", "95 % interval", "a run", "precision@1", "MAP@R", "if even"):
        assert title in shown


def test_the_verdict_stands_below_a_rule():
    comparison = comparison_of("ce", "static", "adaptive")
    before, _, after = comparison_table(comparison).rpartition("\n" + "=" * 80 + "\n")
    assert before.endswith("\n")
    assert " ".join(after.split()) == verdict_sentence(comparison)


def test_the_verdict_is_colored_on_a_terminal_only():
    comparison = comparison_of("ce", "adaptive")
    text = comparison_table(comparison, Terminal())
    assert "\x1b[33m\x1b[1mLabel distance (adaptive) on trec" in text
    assert "\x1b[" not in comparison_table(comparison, io.StringIO())


def hostile_metrics() -> PredictionMetrics:
    names = [f"{HOSTILE}{c}" for c in range(3)]
    true, predicted = [0, 0, 1, 2], [1, 2, 1, 0]
    return evaluate_predictions(true, np.eye(3)[predicted], names, [f"{HOSTILE} text"] * 4)


def hostile_comparison() -> Comparison:
    runs = [finished(name, 0, hostile_metrics()) for name in ("ce", "static", HOSTILE)]
    comparison = build_comparison(runs, data=HOSTILE, encoder=HOSTILE)
    comparison = replace(comparison, pairs=dict(compared({"ce": [0.8], "static": [0.9]}).pairs))
    return replace(comparison, severity_matrix=HOSTILE)


def test_control_characters_of_data_are_shown_as_codes():
    summary = train_summary(hostile_metrics(), title=HOSTILE, folder=HOSTILE)
    for text in (summary, comparison_table(hostile_comparison())):
        assert not CONTROLS & set(text)
        assert r"a\x1b[2J" in text
        assert r"\u202e" in text


def test_on_a_terminal_the_only_escape_codes_are_those_of_styles():
    text = train_summary(hostile_metrics(), title=HOSTILE, folder=HOSTILE, stream=Terminal())
    text += comparison_table(hostile_comparison(), Terminal())
    assert "\x1b[1m" in text
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"):
        text = text.replace(code, "")
    assert not CONTROLS & set(text)
