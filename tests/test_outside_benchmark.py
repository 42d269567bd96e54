"""What people would train in place of this library: every method runs, and its loss is the one it is named after."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.trainer_pt_utils import LabelSmoother

from benchmarks.few_labels.record import key_of
from benchmarks.outside import table as tables
from benchmarks.outside.__main__ import main
from benchmarks.outside.methods import METHODS, Task, run
from benchmarks.outside.rows import ALL, draw
from benchmarks.outside.trainers import R_DROP_WEIGHT, SMOOTHING, plain, r_drop, smoothed, supcon
from benchmarks.records import load
from labeldist.training.config import DataSettings
from labeldist.training.data.corpus import load_corpus
from labeldist.training.run_data import draw_splits
from runs import write_corpus
from tiny_bert import Rows, bert


def batch(num_rows=6):
    rows = Rows(num_rows)
    return {"input_ids": rows.input_ids, "attention_mask": torch.ones_like(rows.input_ids)}, rows.labels


def given(logits):
    """A model that answers with these logits, whatever it is asked."""
    return lambda **_: SimpleNamespace(logits=logits)


def test_a_run_has_the_rows_of_a_comparison():
    from benchmarks.outside.rows import _read

    corpus = draw("demo", ALL, 3)
    compared = draw_splits(_read("demo"), DataSettings(), 3)
    assert corpus.fingerprint == compared.fingerprint
    assert len(corpus.validation) > 0
    few = draw("demo", 2, 3)
    assert np.bincount(few.train.labels).tolist() == [2] * len(few.class_names)
    assert len(few.validation) == 0
    assert few.fingerprint == load_corpus(["demo"], seed=3, shots=2, validation_fraction=0.0).fingerprint


def test_smoothed_labels_are_those_of_the_trainer():
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    expected = LabelSmoother(epsilon=SMOOTHING)({"logits": logits}, labels)
    torch.testing.assert_close(smoothed(given(logits), {}, labels), expected)


def test_r_drop_is_its_equation():
    # Two views of two rows, two classes.
    first, second = [[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]]
    labels = torch.tensor([0, 1])
    expected = 0.0
    for row, label in enumerate(labels.tolist()):
        p, q = (np.exp(view[row]) / np.exp(view[row]).sum() for view in (np.array(first), np.array(second)))
        both_ways = (p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()
        expected += (-np.log(p[label]) - np.log(q[label])) / 2 + R_DROP_WEIGHT * both_ways / 4
    found = r_drop(given(torch.tensor(first + second)), {}, labels)
    assert found.item() == pytest.approx(expected / len(labels), rel=1e-6)


def test_two_views_without_dropout_are_one():
    tokens, labels = batch()
    model = bert(dropout=0.0).train()
    torch.testing.assert_close(r_drop(model, tokens, labels), plain(model, tokens, labels))
    assert not torch.allclose(r_drop(bert(dropout=0.5).train(), tokens, labels), plain(model, tokens, labels))


def test_contrast_is_half_of_the_loss():
    tokens, labels = batch()
    model = bert(dropout=0.0).eval()
    contrast = 2 * supcon(model, tokens, labels) - plain(model, tokens, labels)
    output = model(**tokens, output_hidden_states=True)
    vectors = torch.nn.functional.normalize(output.hidden_states[-1].mean(dim=1), dim=1).repeat(2, 1).double()
    both = labels.repeat(2)
    similarity = vectors @ vectors.T / 0.1
    expected = 0.0
    for row in range(len(both)):
        others = [column for column in range(len(both)) if column != row]
        total = torch.logsumexp(similarity[row, others], dim=0)
        positives = [column for column in others if both[column] == both[row]]
        expected += sum((total - similarity[row, column]).item() for column in positives) / len(positives)
    assert contrast.item() == pytest.approx(expected / len(both), rel=1e-4)


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    """90 training and 30 test rows of four classes, of at most 64 tokens each."""
    return str(write_corpus(tmp_path_factory.mktemp("corpora") / "messages").absolute())


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_and_predicts(method, tiny_bert_folder, corpus_folder, monkeypatch):
    if method == "setfit":
        pytest.importorskip("setfit")
    monkeypatch.setattr("benchmarks.outside.methods.MAX_LENGTH", 64)
    monkeypatch.setattr("benchmarks.outside.trainers.MAX_LENGTH", 64)
    monkeypatch.setattr("benchmarks.few_labels.peers.MAX_LENGTH", 64)
    done = run(Task(method, corpus_folder, 2, 0, steps=2), encoder=str(tiny_bert_folder), device="cpu")
    corpus = draw(corpus_folder, 2, 0)
    assert (done["num_rows"], done["num_validation_rows"]) == (2 * len(corpus.class_names), 0)
    assert done["num_evaluated"] == len(corpus.test)
    assert 0 <= done["accuracy"] <= 1
    assert done["train_seconds"] > 0


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.filterwarnings("ignore")
def test_all_labels_leave_rows_for_early_stopping(tiny_bert_folder, corpus_folder, monkeypatch):
    monkeypatch.setattr("benchmarks.outside.trainers.MAX_LENGTH", 64)
    done = run(Task("r-drop", corpus_folder, ALL, 0, steps=2), encoder=str(tiny_bert_folder), device="cpu")
    assert (done["num_rows"], done["num_validation_rows"]) == (81, 9)


@pytest.mark.slow
@pytest.mark.usefixtures("as_it_was")
def test_the_driver_resumes(tiny_bert_folder, corpus_folder, tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    small = ["--corpora", corpus_folder, "--shots", "1", "--seeds", "0", "--methods", "frozen logistic"]
    small += ["--device", "cpu", "--threads", "1", "--encoder", str(tiny_bert_folder), "--commit", "abc"]

    def call(*more):
        monkeypatch.setattr(sys, "argv", ["outside", *small, "--output", str(path), *more])
        main()
        return capsys.readouterr().out

    assert "1 labels per class, seed 0: frozen logistic:" in call()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["device"] == "cpu"
    assert record["commands"][0].endswith("--output record.json")
    assert "0 runs to do, 1 done before" in call("--resume")
    assert json.loads(path.read_text(encoding="utf-8"))["runs"] == record["runs"]
    with pytest.raises(SystemExit, match="Give --resume"):
        call()


def made_record():
    """r-drop is 1, 2 and 3 points above the Trainer; setfit has one seed only."""
    accuracies = {"trainer": [0.8, 0.8, 0.8], "r-drop": [0.81, 0.82, 0.83], "setfit": [0.79]}
    runs = [
        {
            "method": method, "corpus": "a", "shots": ALL, "seed": seed, "accuracy": accuracy, "macro_f1": accuracy,
            "train_seconds": 2.0 + seed, "predict_seconds": 0.5,
        }
        for method, found in accuracies.items()
        for seed, accuracy in enumerate(found)
    ]  # fmt: skip
    return {
        "machines": ["a machine"], "device": "cuda", "gpus": 1, "jobs": 4, "threads": 1, "versions": {"torch": "2"},
        "commit": "abc", "commands": ["python -m benchmarks.outside"], "evaluated": "test", "max_length": 128,
        "encoder": "tiny", "runs": runs,
    }  # fmt: skip


def test_a_table_compares_every_method_with_the_plain_trainer():
    record = made_record()
    text = tables.report(record)
    assert "| a | all | 1 to 3 | 80.0 ± 0.0 | 82.0 ± 0.6 | 79.0 |" in text
    # Mean 2, standard deviation 1, over the root of 3: t = 3.46, p = 0.074, and a second comparison that has no p.
    assert "| a | all | +2.0 (-0.5 to +4.5, p 0.15) | -1.0 |" in text
    assert "Seconds to train on cuda, several runs beside one another" in text
    assert "| a | all | 3.0 | 3.0 | 2.0 |" in text
    assert len({key_of(one) for one in record["runs"]}) == len(record["runs"])
    record["runs"] = [one for one in record["runs"] if one["method"] != "trainer"]
    assert "Without trainer there is nothing to compare with." in tables.report(record)
    record["runs"] = []
    assert tables.report(record) == "No run has ended."


def test_a_table_of_methods_has_the_difference_to_the_library():
    record = made_record()
    for one in record["runs"]:
        one["method"] = "labeldist" if one["method"] == "trainer" else one["method"]
    lines = tables.methods_table(record).splitlines()
    assert lines[0] == "| method | a, all labels: % | seconds |"
    assert "| labeldist | 80.0 | 3 |" in lines
    assert "| r-drop | 82.0<br>+2.0 (-0.5 to +4.5) | 3 |" in lines
    assert "| setfit | 79.0<br>-1.0 | 2 |" in lines


@pytest.mark.parametrize("path", sorted(tables.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_has_every_method_of_every_seed(path):
    record = load(path)
    assert len({key_of(one) for one in record["runs"]}) == len(record["runs"])
    assert record["evaluated"] == "test"
    assert record["steps"] is None
    cells = {(one["corpus"], one["shots"], one["seed"]) for one in record["runs"]}
    found = {(one["method"], one["corpus"], one["shots"], one["seed"]) for one in record["runs"]}
    assert found == {(method, *cell) for method in METHODS for cell in cells}


def test_cross_entropy_is_the_plain_loss():
    tokens, labels = batch()
    model = bert().eval()
    torch.testing.assert_close(plain(model, tokens, labels), cross_entropy(model(**tokens).logits, labels))
