"""Training from Python: the same results as the command line's, for texts in memory."""

import gc
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.utils import logging

from labeldist.cli import main
from labeldist.training.api import compare, load, train
from labeldist.training.errors import UserError
from labeldist.training.output.words import verdict_sentence
from labeldist.training.records import RunMetrics, read_record
from labeldist.training.study.results import Comparison
from runs import CLASSES, QUICK, messages, outcome, read, write_corpus

pytestmark = pytest.mark.usefixtures("as_it_was")

SMALL: dict[str, Any] = {
    "embedding_dim": 8, "projection_dim": 8, "batch_size": 16, "epochs": 2, "confusion_epochs": 1,
}  # fmt: skip
ROWS = messages(120)
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]


@pytest.fixture(scope="module")
def run():
    return train(TEXTS[:90], LABELS[:90], test=(TEXTS[90:], LABELS[90:]), **SMALL)


def test_texts_in_memory_train_as_files_do(run, finished_run, tmp_path):
    folder = run.save(tmp_path / "kept")
    assert outcome(folder) == outcome(finished_run)
    assert run.class_names == CLASSES
    assert run.metrics == read_record(finished_run / "metrics.json", RunMetrics)
    assert run.accuracy == run.metrics.test.accuracy
    assert run.macro_f1 == run.metrics.test.macro_f1
    assert run.label_distances == read(finished_run / "ldm.json")["matrix"]


def test_a_path_is_read_as_on_the_command_line(tickets, finished_run, tmp_path):
    kept = train(tickets, output=tmp_path / "run", **SMALL)
    assert outcome(tmp_path / "run") == outcome(finished_run)
    assert kept.config.spec.settings.data.data == (str(tickets),)
    files = [tickets / "train.jsonl", tickets / "test.jsonl"]
    assert train(files, objective="ce", **{**SMALL, "epochs": 1}).config.num_rows["test"] == 30


def test_a_run_embeds_texts_for_search(run):
    texts = ["is the delivery fast?", "the delivery was fast", "is the delivery fast?"]
    vectors = run.embed(texts)
    assert vectors.shape == (3, vectors.shape[1])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(run.embed(texts[1]), vectors[1:2], rtol=1e-5, atol=1e-6)
    assert run.embed([]).shape == (0, vectors.shape[1])
    logits = run._predictor.classifier.model.classifier(torch.from_numpy(vectors))
    expected = [row["label"] for row in run.predict(texts)]
    assert [run.class_names[label] for label in logits.argmax(dim=1)] == expected
    with pytest.raises(UserError, match=r"Text 2"):
        run.embed(["a", "  "])


def test_a_loaded_run_predicts_and_evaluates(run, tmp_path):
    again = load(run.save(tmp_path / "kept"))
    predictions = again.predict(TEXTS[:5])
    assert [one["text"] for one in predictions] == TEXTS[:5]
    assert again.predict(TEXTS[0]) == run.predict([TEXTS[0]])
    assert again.evaluate(TEXTS[90:], LABELS[90:]) == run.metrics.test
    with pytest.raises(UserError, match="Text 2: the text is empty"):
        run.predict(["a", " "])
    with pytest.raises(UserError, match=r"data, row 1: the label 'no' is no class"):
        run.evaluate(["a"], ["no"])


def test_a_temporary_run_goes_with_its_object():
    run = train(TEXTS, LABELS, objective="ce", **{**SMALL, "epochs": 1})
    folder = run.folder
    assert folder.is_dir()
    assert "temporary" in repr(run)
    del run
    gc.collect()
    assert not folder.exists()


def test_the_callers_random_states_are_left_alone():
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    train(TEXTS, LABELS, objective="ce", **{**SMALL, "epochs": 1})
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]


def test_the_callers_accelerator_is_left_alone():
    AcceleratorState._reset_state(reset_partial_state=True)
    verbosity = logging.get_verbosity()
    mine = Accelerator(cpu=True, mixed_precision="bf16")
    try:
        train(TEXTS[:40], LABELS[:40], objective="ce", **{**SMALL, "epochs": 1, "device": "cpu"})
        assert mine.mixed_precision == "bf16"
        assert logging.get_verbosity() == verbosity
        assert Accelerator(mixed_precision="bf16").mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_prediction_draws_no_random_numbers(run, tmp_path):
    again = load(run.save(tmp_path / "kept"))
    before = torch.get_rng_state()
    again.predict(TEXTS[:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_use_draws_no_random_numbers():
    code = "import random; random.seed(0); import labeldist; labeldist.train; print(random.random())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(process.stdout) == random.Random(0).random()


@pytest.mark.parametrize("objective", ["ce", "adaptive"])
def test_float64_may_be_the_callers_default(objective, tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        trained = train(TEXTS, LABELS, objective=objective, output=tmp_path / "run", **SMALL)
        assert load(trained.folder).embed(TEXTS[:1]).dtype == np.float32
        assert load(trained.folder).embed([]).dtype == np.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_mistakes_of_a_call_are_told_in_its_words(run, tmp_path):
    for message, call in (
        ("data: texts and labels must be equally many, got 2", lambda: run.evaluate(["a", "b"], ["x"])),
        ("data holds no rows", lambda: run.evaluate([], [])),
        ("texts must be one text or several, got 3", lambda: run.predict(3)),
        ("order must be a list of all classes, got 'a b'", lambda: run.predict("x", order="a b")),
        (r"exists already and is never overwritten. Choose another folder\.$", lambda: run.save(run.folder)),
    ):
        with pytest.raises(UserError, match=message):
            call()
    with pytest.raises(TypeError, match="seeds must be a list of whole numbers, got 2"):
        compare(TEXTS, LABELS, seeds=2)  # type: ignore[arg-type]


def test_another_device_is_refused(finished_run):
    with pytest.raises(TypeError, match="device must be one of 'auto', 'cpu', 'cuda', got 'cuda:1'"):
        load(finished_run, device="cuda:1")


def test_an_unknown_setting_is_told_with_the_nearest():
    with pytest.raises(TypeError, match=r"There is no setting 'temprature'\. Did you mean 'temperature'\?"):
        train(TEXTS, LABELS, temprature=1.0)
    with pytest.raises(TypeError, match="epochs must be a whole number, got '3'"):
        train(TEXTS, LABELS, epochs="3")
    with pytest.raises(TypeError, match="report must be true or false, got 'no'"):
        train(TEXTS, LABELS, report="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weighting must be one of 'scale', 'log'"):
        compare(TEXTS, LABELS, weighting="linear")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_distance": 0.0}, r"^max_distance must be a number above 0, got 0\.0\.$"),
        ({"seed": -1}, r"^seed must be a whole number"),
        ({"objective": "foo"}, "objective must be one of ce, .*, got 'foo'"),
        ({"objective": "ce", "confusable": [CLASSES[:2]]}, r"^confusable and matrix_file belong to objective"),
        ({"test": TEXTS}, "test must be a pair"),
    ],
)
def test_a_mistake_is_told_in_the_names_of_the_arguments(options, message):
    with pytest.raises(UserError, match=message):
        train(TEXTS, LABELS, **{**SMALL, **options})


def test_texts_without_labels_are_told():
    with pytest.raises(UserError, match="labels must be given with a list of texts"):
        train(TEXTS)
    with pytest.raises(UserError, match="labels belong to a list of texts, got str"):
        train("demo", LABELS)


def test_a_folder_that_is_taken_is_offered_to_go_on(tmp_path):
    options: dict[str, Any] = {**SMALL, "epochs": 1, "objective": "ce"}
    train(TEXTS, LABELS, output=tmp_path / "run", **options)
    with pytest.raises(UserError, match=r"exists already and is never overwritten.*resume=True\.$"):
        train(TEXTS, LABELS, output=tmp_path / "run", **options)
    before = outcome_of_ce(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    train(TEXTS, LABELS, output=tmp_path / "run", resume=True, **options)
    assert outcome_of_ce(tmp_path / "run") == before
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(UserError, match="changed since the run began"):
        train(TEXTS[:-1], LABELS[:-1], output=tmp_path / "run", resume=True, **options)


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("in_files", [True, False])
def test_a_run_goes_on_only_with_its_own_data_and_settings(is_finished, in_files, tickets, tmp_path):
    options: dict[str, Any] = {**SMALL, "epochs": 1, "objective": "ce", "output": tmp_path / "run"}
    train(*([tickets] if in_files else [TEXTS, LABELS]), **options)
    if not is_finished:
        (tmp_path / "run" / "metrics.json").unlink()
    changed = r"The data of .*run, or a file that its settings name, changed since the run began\. Choose another out"
    with pytest.raises(UserError, match=changed):
        train(TEXTS[1:], LABELS[1:], resume=True, **options)
    other = write_corpus(tmp_path / "other", num_train=80)
    with pytest.raises(UserError, match=changed):
        train(other, resume=True, **options)
    same = [tickets] if in_files else [TEXTS, LABELS]
    for name, value, told in (("objective", "contrastive", "ce"), ("seed", 1, "0"), ("dropout", 0.3, "0.5")):
        with pytest.raises(UserError, match=f"holds a run with {name} {told}, not {value}. Choose another output"):
            train(*same, resume=True, **{**options, name: value})
    assert train(*same, resume=True, **options).config.spec.objective == "ce"


def outcome_of_ce(run: Path) -> bytes:
    return (run / "metrics.json").read_bytes()


def test_the_command_line_cannot_go_on_with_texts_that_it_does_not_have(capsys, tmp_path):
    train(TEXTS, LABELS, output=tmp_path / "run", objective="ce", **{**SMALL, "epochs": 1})
    (tmp_path / "run" / "metrics.json").unlink()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "were given in Python" in capsys.readouterr().err


def test_a_comparison_in_memory_is_that_of_the_command_line(tickets, tmp_path, capsys):
    flags = ["--objectives", "ce", "static", "--seeds", "0", "--confusable", ",".join(CLASSES[:2])]
    assert main(["compare", "--data", str(tickets), *QUICK, *flags, "-o", str(tmp_path / "all")]) == 0
    found = compare(
        TEXTS[:90],
        LABELS[:90],
        test=(TEXTS[90:], LABELS[90:]),
        objectives=["ce", "static"],
        seeds=np.array([0]),  # type: ignore[arg-type]
        confusable=[CLASSES[:2]],
        **SMALL,
    )
    stored = read_record(tmp_path / "all" / "comparison.json", Comparison)
    assert found.accuracy == {name: tuple(scores.accuracy) for name, scores in stored.objectives.items()}
    assert found.verdict == verdict_sentence(stored).replace("tickets", "texts")
    assert found.run("static", 0).accuracy == found.accuracy["static"][0]
    assert " ".join(str(found).split()).endswith(found.verdict)
    with pytest.raises(UserError, match="has no run of adaptive with seed 0"):
        found.run("adaptive", 0)
    with pytest.raises(UserError, match="has no run of ce with seed 7"):
        found.run("ce", 7)


def test_tables_for_notebooks_escape_what_data_brings():
    names = ["<b>bold</b>", "\x1b[2Jclear"]
    found = compare(TEXTS[:40], names * 20, objectives=["ce", "contrastive"], seeds=[0], **{**SMALL, "epochs": 1})
    for shown in (found._repr_html_(), found.run("ce", 0)._repr_html_()):
        assert shown.count("<table>") == shown.count("</table>") > 0
        assert "<b>" not in shown
        assert "\x1b" not in shown
    assert "&lt;b&gt;bold" in found.run("ce", 0)._repr_html_()
    assert "\x1b" not in repr(found.run("ce", 0))


def test_loading_what_is_no_finished_run(tmp_path, finished_run):
    with pytest.raises(UserError, match="is no run folder of labeldist"):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((finished_run / "config.json").read_bytes())
    with pytest.raises(UserError, match="is not finished"):
        load(tmp_path)
