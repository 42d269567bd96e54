import json
import shutil
import tracemalloc
from itertools import islice
from typing import Any

import pytest
import torch

from labeldist.evaluation import mistake_severity
from labeldist.training.data.corpus import load_corpus, read_split
from labeldist.training.errors import UserError
from labeldist.training.inference import Predictor
from labeldist.training.records import RunMetrics, Severity, read_record
from runs import CLASSES, contents, messages, read

pytestmark = pytest.mark.usefixtures("as_it_was")

TEXTS = [row["text"] for row in messages(300, seed=5)]


@pytest.fixture(scope="module")
def predictor(finished_run) -> Predictor:
    return Predictor.from_run(finished_run)


def test_a_run_that_moved_predicts_the_same(finished_run, predictor, tmp_path):
    moved = shutil.copytree(finished_run, tmp_path / "elsewhere" / "run")
    again = Predictor.from_run(moved)
    assert torch.equal(again.probabilities(TEXTS), predictor.probabilities(TEXTS))


def test_evaluation_is_the_runs_own(predictor, finished_run, tickets):
    split = read_split(tickets / "test.jsonl", predictor.class_names)
    test = read_record(finished_run / "metrics.json", RunMetrics).test
    assert predictor.evaluate(split) == test
    assert predictor.evaluate(load_corpus([str(tickets)]).test) == test


def test_evaluation_measures_mistakes_in_the_runs_own_matrix(finished_run, tickets, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    matrix = [[1.0, 5.0, 1.0, 1.0], [5.0, 1.0, 1.0, 1.0], [1.0] * 4, [1.0] * 4]
    (run / "ldm.json").write_text(json.dumps({**read(run / "ldm.json"), "matrix": matrix}))
    metrics = Predictor.from_run(run).evaluate(read_split(tickets / "test.jsonl", CLASSES))
    assert metrics.mistake_severity == Severity(*mistake_severity(metrics.confusion_matrix().tolist(), matrix))
    (run / "ldm.json").unlink()
    metrics = Predictor.from_run(run).evaluate(read_split(tickets / "test.jsonl", CLASSES))
    assert metrics.mistake_severity is None


def test_predictions_are_those_in_the_run_folder(predictor, finished_run):
    lines = (finished_run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row, prediction in zip(rows, predictor.predictions(row["text"] for row in rows), strict=True):
        assert (prediction["label"], prediction["text"]) == (row["predicted"], row["text"])
        assert prediction["probability"] == pytest.approx(row["probability"], abs=2e-6)


def test_order_is_kept_across_batches(predictor):
    predictions = list(predictor.predictions(TEXTS))
    assert [row["text"] for row in predictions] == TEXTS
    alone = [next(predictor.predictions([text])) for text in TEXTS[::37]]
    for together, single in zip(predictions[::37], alone, strict=True):
        assert together["probabilities"] == pytest.approx(single["probabilities"], abs=2e-6)


def test_probabilities_sum_to_one(predictor):
    probabilities = predictor.probabilities(TEXTS)
    assert probabilities.shape == (len(TEXTS), len(CLASSES))
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(TEXTS)))


def test_no_texts_give_no_predictions(predictor):
    assert list(predictor.predictions([])) == []


def test_texts_are_taken_as_they_come(predictor):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield "is it fast?"

    assert len(list(islice(predictor.predictions(endless()), 300))) == 300
    assert taken == 512


def test_memory_does_not_grow_with_the_number_of_texts(predictor):
    def peak(num_texts: int) -> int:
        tracemalloc.start()
        for _ in predictor.predictions(f"is number {i} fast?" for i in range(num_texts)):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(256)
    # A window of 1,024 texts in place of 256; all predictions together would take more than ten times as much.
    assert peak(2560) < 3 * peak(512)


def test_a_text_longer_than_the_limit_is_cut(predictor):
    words = "is the delivery very fast today ? " * 40
    tokenizer: Any = predictor.classifier.tokenizer
    cut = tokenizer.tokenizer.decode(tokenizer.encode([words])["input_ids"][0], skip_special_tokens=False)
    torch.testing.assert_close(predictor.probabilities([words]), predictor.probabilities([cut]))


def test_a_text_without_tokens_is_an_unknown_word(predictor):
    # All of these are dropped by the tokenizer.
    expected = predictor.probabilities(["zzzz"])
    for texts in (["\u200b"], ["\u200b", "\x01"], ["\u200b", "is it fast?"]):
        torch.testing.assert_close(predictor.probabilities(texts)[:1], expected)


def spoil_nothing_finished(run):
    (run / "metrics.json").unlink()


def spoil_half_the_model(run):
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def spoil_no_tokenizer(run):
    for path in (run / "model").glob("tokenizer*"):
        path.unlink()


def spoil_other_sizes(run):
    options = read(run / "model" / "config.json")
    names = {str(i): f"class {i}" for i in range(7)}
    (run / "model" / "config.json").write_text(json.dumps({**options, "id2label": names}))


def spoil_options(run):
    (run / "model" / "config.json").write_text("{}")


def spoil_config(run):
    (run / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (spoil_nothing_finished, "is not finished"),
        (spoil_half_the_model, "cannot be read"),
        (spoil_no_tokenizer, "cannot be read"),
        (spoil_other_sizes, "cannot be read"),
        (spoil_options, "cannot be read"),
        (spoil_config, "was not written by this version of labeldist"),
    ],
)
def test_a_damaged_run_is_told(finished_run, tmp_path, spoil, part):
    run = shutil.copytree(finished_run, tmp_path / "run")
    spoil(run)
    before = contents(run)
    with pytest.raises(UserError, match=part):
        Predictor.from_run(run)
    assert contents(run) == before
