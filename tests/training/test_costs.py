"""Decisions of least expected cost: cost files, the command line, Python."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labeldist.cli import main
from labeldist.evaluation import (
    calibrate,
    decide,
    expected_calibration_error,
    expected_cost,
    fit_temperature,
    negative_log_likelihood,
    posterior_median,
)
from labeldist.training.api import load, train
from labeldist.training.errors import UserError
from labeldist.training.inference import Predictor
from labeldist.training.matrix_file import read_cost_file
from labeldist.training.records import CostedMetrics, record_from_json
from labeldist.training.relations import costs_of
from labeldist.training.run_data import read_run_corpus
from runs import CLASSES, messages, read

pytestmark = pytest.mark.usefixtures("as_it_was")

NAMES = ("a", "b", "c")
COSTS = [[0.0, 1.0, 2.5], [7.0, 0.0, 1.0], [3.0, 20.0, 0.0]]
BY_NAME = {a: {b: COSTS[i][j] for j, b in enumerate(NAMES) if a != b} for i, a in enumerate(NAMES)}
TEXTS = [row["text"] for row in messages(60, seed=3)]
# To overlook a complaint costs most.
DEAR: dict[str, dict[str, float]] = {
    a: {b: 50.0 if a == CLASSES[0] else 1.0 for b in CLASSES if b != a} for a in CLASSES
}
DEAR_TABLE = [[0.0 if a == b else DEAR[a][b] for b in CLASSES] for a in CLASSES]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", json.dumps(BY_NAME)),
        ("c.json", json.dumps({name: BY_NAME[name] for name in reversed(NAMES)})),
        ("c.json", json.dumps({"class_names": NAMES, "matrix": COSTS})),
        ("c.csv", "true,c,a,b\na,2.5,0,1\nc,0,3,20\nb,1,7,0\n"),
        ("c.tsv", "\ta\tb\tc\na\t0\t1\t2.5\nb\t7\t0\t1\nc\t3\t20\t0\n"),
    ],
)
def test_every_form_of_a_cost_file_is_the_same_table(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_cost_file(tmp_path / name, NAMES).tolist() == COSTS


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({**BY_NAME, "a": {"b": 1}}, "the cost of deciding 'c' for a row of 'a' is missing."),
        ({"a": BY_NAME["a"], "b": BY_NAME["b"]}, "it has 2 and 'c' is missing."),
        ({**BY_NAME, "a": {"b": 1, "cc": 1}}, "There is no class 'cc'; the classes are a, b, c. Did you mean 'c'?"),
        ({**BY_NAME, "d": {}}, "There is no class 'd'; the classes are a, b, c."),
        ({**BY_NAME, "a": {"b": -1, "c": 1}}, "row 'a', column 'b': a cost must be finite and >= 0, got -1.0."),
        ({**BY_NAME, "a": {"b": "x", "c": 1}}, "the cost of 'b' for 'a' must be a number, got 'x'."),
        ([1], 'costs are one object by true class, such as {"spam": {"mail": 1}, "mail": {"spam": 20}}.'),
    ],
)
def test_a_cost_file_that_does_not_fit_is_told_in_one_sentence(content, sentence, tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_cost_file(path, NAMES)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(sentence)


def test_costs_come_from_one_place(tmp_path):
    with pytest.raises(UserError, match="either by --costs or by --order, not by both"):
        costs_of(BY_NAME, NAMES, NAMES)
    with pytest.raises(UserError, match=r"^--order: The order must name every class"):
        costs_of(None, NAMES[:2], NAMES)
    with pytest.raises(UserError, match="There is no cost file"):
        costs_of(tmp_path / "none.json", (), NAMES)
    with pytest.raises(UserError, match=r"costs\.txt: costs are read from a \.json, \.csv or \.tsv file"):
        costs_of("costs.txt", (), NAMES)
    assert costs_of(None, (), NAMES) is None


@given(
    st.permutations(range(4)), st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=9)
)
def test_an_order_decides_for_the_posterior_median(order, rows):
    """As its steps are absolute errors. The median may be any of two classes that are equally good."""
    probabilities = torch.tensor(rows, dtype=torch.float64)
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    costs = costs_of(None, [CLASSES[i] for i in order], CLASSES)
    assert costs is not None
    decided, medians = decide(probabilities, costs), torch.tensor(order)[posterior_median(probabilities[:, order])]
    found, wanted = ((probabilities @ costs.double()).gather(1, c[:, None]) for c in (decided, medians))
    torch.testing.assert_close(found, wanted)


@pytest.fixture
def cost_file(tmp_path) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(DEAR))
    return path


def test_predict_decides_at_least_expected_cost(finished_run, cost_file, tmp_path, capsys):
    probabilities = Predictor.from_run(finished_run).probabilities(TEXTS)
    assert main(["predict", str(finished_run), *TEXTS, "--costs", str(cost_file)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    decided = [CLASSES[i] for i in decide(probabilities, DEAR_TABLE).tolist()]
    assert [row["label"] for row in rows] == decided
    assert decided != [CLASSES[i] for i in probabilities.argmax(dim=1).tolist()]
    assert all(row["probability"] == row["probabilities"][row["label"]] for row in rows)
    run = load(finished_run)
    assert run.predict(TEXTS, costs=DEAR) == run.predict(TEXTS, costs=cost_file) == rows
    assert main(["predict", str(finished_run), *TEXTS, "--order", *CLASSES]) == 0
    ordered = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    assert ordered == [CLASSES[i] for i in posterior_median(probabilities).tolist()]
    assert [row["label"] for row in run.predict(TEXTS, order=CLASSES)] == ordered


def test_evaluate_measures_both_decisions(finished_run, tickets, cost_file, tmp_path, capsys):
    output = tmp_path / "more" / "metrics.json"
    flags = ["--costs", str(cost_file), "-o", str(output.parent)]
    assert main(["evaluate", str(finished_run), "--data", str(tickets), *flags]) == 0
    out = " ".join(capsys.readouterr().out.split())
    stored = read(output)
    costs = stored["costs"]
    assert f"Mean cost: {costs['most_probable']:.4g} deciding for the most probable class" in out
    rows = [json.loads(line) for line in (tickets / "test.jsonl").read_text().splitlines()]
    probabilities = Predictor.from_run(finished_run).probabilities([row["text"] for row in rows])
    labels = [CLASSES.index(row["label"]) for row in rows]
    decided = decide(probabilities, DEAR_TABLE)
    assert costs["most_probable"] == expected_cost(labels, probabilities.argmax(dim=1), DEAR_TABLE)
    assert costs["least_expected"] == expected_cost(labels, decided, DEAR_TABLE)
    assert costs["least_expected_accuracy"] == pytest.approx((decided == torch.tensor(labels)).double().mean().item())
    # All else is as without costs.
    metrics = record_from_json(CostedMetrics, stored, source=output)
    assert load(finished_run).evaluate(tickets, costs=DEAR) == metrics
    plain: dict[str, Any] = {name: entry for name, entry in stored.items() if name != "costs"}
    assert plain == {"format": 1, **read(finished_run / "metrics.json")["test"]}


def test_a_mistake_is_told_in_the_names_of_either(finished_run, capsys):
    assert main(["predict", str(finished_run), "a text", "--order", *CLASSES[:3]]) == 2
    assert "--order: The order must name every class, from one end to the other, and 'del" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^order: The order must name every class"):
        load(finished_run).predict("a text", order=CLASSES[:3])
    with pytest.raises(UserError, match=r"^costs: the cost of deciding"):
        load(finished_run).evaluate(["a text"], [CLASSES[0]], costs={CLASSES[0]: {}})


# Calibrated probabilities


def test_a_run_has_the_temperature_of_its_validation_rows(finished_run):
    """The run's own model on the rows that its settings draw gives the temperature that it stored."""
    calibration = load(finished_run).metrics.calibration
    assert calibration is not None
    config = load(finished_run).config
    corpus = read_run_corpus(config.spec.settings, config.spec.seed)
    predictor = Predictor.from_run(finished_run)
    validation = predictor.probabilities(corpus.validation.texts)
    assert calibration.temperature == pytest.approx(fit_temperature(validation, corpus.validation.labels), rel=1e-3)
    assert calibration.num_rows == len(corpus.validation) > 0
    test, labels = predictor.probabilities(corpus.test.texts), corpus.test.labels
    for probabilities, error in ((test, calibration.error),
                                 (calibrate(test, calibration.temperature), calibration.calibrated_error)):  # fmt: skip
        assert error == pytest.approx(expected_calibration_error(probabilities, labels), abs=1e-4)
    assert calibration.calibrated_negative_log_likelihood == pytest.approx(
        negative_log_likelihood(test, labels, temperature=calibration.temperature), rel=1e-4
    )


def test_calibrated_probabilities_decide_by_cost_and_keep_the_most_probable_class(finished_run, cost_file, capsys):
    run, predictor = load(finished_run), Predictor.from_run(finished_run)
    probabilities = calibrate(predictor.probabilities(TEXTS), predictor.temperature)
    plain, calibrated = (run.predict(TEXTS, calibrated=wanted) for wanted in (False, True))
    assert [row["label"] for row in plain] == [row["label"] for row in calibrated]
    assert [row["probability"] for row in calibrated] == pytest.approx(probabilities.amax(dim=1).tolist(), abs=1e-6)
    assert main(["predict", str(finished_run), *TEXTS, "--costs", str(cost_file), "--calibrated"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == [CLASSES[i] for i in decide(probabilities, DEAR_TABLE).tolist()]
    assert rows == run.predict(TEXTS, costs=DEAR, calibrated=True)


def test_evaluate_measures_decisions_on_calibrated_probabilities(finished_run, tickets, cost_file, tmp_path):
    output = tmp_path / "more" / "metrics.json"
    flags = ["--data", str(tickets), "--costs", str(cost_file), "--calibrated", "-o", str(output.parent)]
    assert main(["evaluate", str(finished_run), *flags]) == 0
    rows = [json.loads(line) for line in (tickets / "test.jsonl").read_text().splitlines()]
    predictor = Predictor.from_run(finished_run)
    probabilities = calibrate(predictor.probabilities([row["text"] for row in rows]), predictor.temperature)
    labels = [CLASSES.index(row["label"]) for row in rows]
    assert read(output)["costs"]["least_expected"] == expected_cost(
        labels, decide(probabilities, DEAR_TABLE), DEAR_TABLE
    )
    assert read(output)["accuracy"] == load(finished_run).accuracy


def test_without_validation_rows_there_is_nothing_to_calibrate_with(tmp_path):
    run = train(
        TEXTS, [row["label"] for row in messages(60, seed=3)], objective="ce", validation_fraction=0, epochs=1,
        embedding_dim=8, output=tmp_path / "run",
    )  # fmt: skip
    assert run.metrics.calibration is None
    with pytest.raises(
        UserError, match=r"^calibrated needs a temperature that was fitted on validation rows, and .*run"
    ):
        run.predict("a text", calibrated=True)
