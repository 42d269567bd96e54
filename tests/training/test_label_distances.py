"""Which matrix, how many views and which loss each objective trains with."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from labeldist.ldm import AdaptiveLDM, StaticLDM
from labeldist.training.config import MatrixSettings
from labeldist.training.data.corpus import load_corpus
from labeldist.training.errors import UserError
from labeldist.training.label_distances import choose_matrix, count_confusions, needs_counting
from runs import CLASSES, read, settings_of, train

pytestmark = pytest.mark.usefixtures("as_it_was")

PAIR = "delivery_complaint,delivery_praise"
COUNTS = torch.tensor([[5, 4, 0, 0], [1, 8, 0, 0], [0, 0, 9, 1], [0, 0, 0, 7]])
OFF = ~torch.eye(4, dtype=torch.bool)


@pytest.fixture(scope="module")
def corpus(tickets):
    return load_corpus([str(tickets)])


def never() -> torch.Tensor:
    raise AssertionError("nothing was to be counted")


def choose(objective, corpus, count=never, **matrix) -> Any:
    settings = settings_of("tickets", matrix=MatrixSettings(**matrix))
    assert needs_counting(objective, settings) == (count is not never)
    return choose_matrix(objective, settings, corpus, count)


@pytest.mark.parametrize("objective", ["ce", "ce-two-views"])
def test_cross_entropy_has_no_matrix(corpus, objective):
    assert choose(objective, corpus).ldm is None


def test_contrastive_has_ones(corpus):
    choice = choose("contrastive", corpus)
    assert torch.equal(choice.ldm.matrix, torch.ones(4, 4))
    assert choice.ldm.class_names == CLASSES


def test_static_takes_pairs_from_the_command_line(corpus):
    choice = choose("static", corpus, confusable=(PAIR,), max_distance=3.0)
    expected = torch.ones(4, 4)
    expected[0, 1] = expected[1, 0] = 3.0
    assert torch.equal(choice.ldm.matrix, expected)
    assert choice.source == "3 between 1 pair, as given: delivery_complaint / delivery_praise"


def test_static_takes_a_file(corpus, tmp_path):
    matrix = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 2, 3], [4, 5, 6, 7]]
    path = tmp_path / "ldm.json"
    path.write_text(json.dumps({"class_names": CLASSES, "matrix": matrix}))
    choice = choose("static", corpus, matrix_file=path)
    assert choice.ldm.matrix.tolist() == matrix
    assert choice.source == "from ldm.json"


def test_static_without_either_takes_the_most_confused_pairs_and_says_so(corpus):
    choice = choose("static", corpus, lambda: COUNTS)
    expected = torch.ones(4, 4)
    expected[0, 1] = expected[1, 0] = expected[2, 3] = expected[3, 2] = 5.0
    assert torch.equal(choice.ldm.matrix, expected)
    assert "delivery_complaint / delivery_praise; delivery_question / delivery_status" in choice.source
    assert "cross-entropy run on the validation set" in choice.source
    one = choose("static", corpus, lambda: COUNTS, num_pairs=1)
    assert one.ldm.distance("delivery_question", "delivery_status") == 1.0
    cross = choose("static", corpus, lambda: COUNTS, confusion_from="cross-validation", folds=4)
    assert "4-fold cross-validation" in cross.source


def test_static_of_a_classifier_that_never_errs_is_ones_and_says_so(corpus):
    choice = choose("static", corpus, lambda: torch.eye(4).long())
    assert torch.equal(choice.ldm.matrix, torch.ones(4, 4))
    assert "no pair" in choice.source


@pytest.mark.parametrize("max_distance", [0.2, 5.0])
def test_uniform_is_static_spread_evenly(corpus, tmp_path, max_distance):
    matrix = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 2, 3], [4, 5, 6, 7]]
    path = tmp_path / "ldm.json"
    path.write_text(json.dumps({"class_names": CLASSES, "matrix": matrix}))
    for options in ({"confusable": (PAIR,)}, {"matrix_file": path}):
        static, uniform = (
            choose(name, corpus, max_distance=max_distance, **options).ldm for name in ("static", "uniform")
        )
        assert len(set(uniform.matrix[OFF].tolist())) == 1
        assert uniform.matrix[OFF].mean() == pytest.approx(static.matrix[OFF].mean().item())
    counted = choose("uniform", corpus, lambda: COUNTS, max_distance=max_distance)
    assert counted.ldm.mean_off_diagonal == pytest.approx((8 + 4 * max_distance) / 12)


def test_adaptive_takes_its_settings(corpus):
    choice = choose(
        "adaptive",
        corpus,
        max_distance=3.0,
        warmup_fraction=0.5,
        update_every=2,
        normalization="count",
        symmetric=False,
    )
    ldm = choice.ldm
    assert isinstance(ldm, AdaptiveLDM)
    assert (ldm.max_distance, ldm.warmup_fraction, ldm.update_every) == (3.0, 0.5, 2)
    assert (ldm.normalization, ldm.symmetric) == ("count", False)
    assert choice.confusion is None
    assert torch.equal(ldm.matrix, torch.ones(4, 4))


def test_adaptive_from_cross_validation_keeps_its_counts(corpus):
    choice = choose("adaptive", corpus, lambda: COUNTS, confusion_from="cross-validation")
    assert torch.equal(choice.confusion, COUNTS)
    assert "3-fold cross-validation" in choice.source


def test_an_unknown_class_is_told_before_anything_is_counted(corpus):
    with pytest.raises(UserError, match="delivery_prase"):
        choose("static", corpus, confusable=("delivery_prase,delivery_status",))


def test_counts_are_of_rows_that_the_model_was_not_trained_on(corpus, tmp_path):
    settings = settings_of("tickets")
    counts = count_confusions(settings, corpus, seed=0, scratch=tmp_path / "counting")
    assert counts.sum(dim=1).tolist() == np.bincount(corpus.validation.labels, minlength=4).tolist()
    assert torch.equal(counts, count_confusions(settings, corpus, seed=0, scratch=tmp_path / "counting"))
    assert not list(tmp_path.iterdir())
    crossed = settings_of("tickets", matrix=MatrixSettings(confusion_from="cross-validation", confusion_epochs=1))
    counts = count_confusions(crossed, corpus, seed=0, scratch=tmp_path / "counting")
    # Every training row is held out once.
    assert counts.sum(dim=1).tolist() == np.bincount(corpus.train.labels, minlength=4).tolist()


def test_more_folds_than_rows_are_refused(corpus, tmp_path):
    matrix = MatrixSettings(confusion_from="cross-validation", folds=1000)
    with pytest.raises(UserError, match="--folds 1000 does not fit the training set"):
        count_confusions(settings_of("tickets", matrix=matrix), corpus, 0, tmp_path)


@pytest.fixture
def objectives_of(tickets, tmp_path, monkeypatch):
    """Train a little and return the `TrainerObjective` of the run itself, not those of the short runs that count."""
    from labeldist.training import run_model as run

    def train_and_look(objective, **options):
        made = []
        original = run.TrainerObjective

        def spy(*arguments, **named):
            made.append(original(*arguments, **named))
            return made[-1]

        with monkeypatch.context() as patch:
            patch.setattr(run, "TrainerObjective", spy)
            said = []
            train(tmp_path / objective, settings_of(tickets, **options), objective, say=said.append)
        assert len(made) == 1
        return made[0], tmp_path / objective, said

    return train_and_look


@pytest.mark.parametrize(
    ("objective", "views", "has_contrast"),
    [
        ("ce", 1, False),
        ("ce-two-views", 2, False),
        ("contrastive", 2, True),
        ("uniform", 2, True),
        ("static", 2, True),
        ("adaptive", 2, True),
    ],
)
def test_what_each_objective_trains_with(objectives_of, objective, views, has_contrast):
    made, folder, said = objectives_of(objective)
    assert made.views == made.ce_views == views
    assert (made.joint is not None) == has_contrast
    assert (folder / "ldm.json").exists() == has_contrast
    log = read(folder / "history.json")["log"]
    assert ("contrastive" in log[0]) == has_contrast
    assert any(sentence.startswith("Label distances: ") for sentence in said) == has_contrast
    if has_contrast:
        assert made.joint.ce_weight == 0.5
        kind = AdaptiveLDM if objective == "adaptive" else StaticLDM
        assert type(made.ldm) is kind
        stored = read(folder / "ldm.json")
        newest = stored["history"][-1]["matrix"] if objective == "adaptive" else stored["matrix"]
        assert newest == made.ldm.matrix.tolist()
        assert bool(stored["history"]) == (objective == "adaptive")


def test_adaptive_learns_from_cross_validation_too(objectives_of, tickets):
    matrix = MatrixSettings(confusion_from="cross-validation", confusion_epochs=1, warmup_fraction=0.0)
    made, folder, _ = objectives_of("adaptive", matrix=matrix)
    counts = torch.tensor(read(folder / "confusion.json")["counts"])
    assert counts.sum() == 81
    twin = AdaptiveLDM(4, warmup_fraction=0.0)
    history = read(folder / "ldm.json")["history"]
    for entry in history:
        twin.update(counts, progress=entry["progress"])
        assert twin.matrix.tolist() == entry["matrix"]
    assert len(history) == 2
    assert torch.equal(made.ldm.matrix, twin.matrix)


def test_a_run_says_on_standard_error_which_matrix_it_took(capsys, tickets, tmp_path):
    from labeldist.cli import main
    from runs import QUICK

    for flags, part in (
        (
            ["static", "--confusable", PAIR],
            "Label distances: 5 between 1 pair, as given: delivery_complaint / delivery_praise.",
        ),
        (["static"], "the most confused of a short cross-entropy run on the validation set"),
        (["uniform"], "the mean of this static matrix"),
        (["contrastive"], "Label distances: 1 between all classes."),
    ):
        folder = tmp_path / f"{flags[0]}{len(flags)}"
        assert (
            main(["train", "--no-report", "--data", str(tickets), *QUICK, "--objective", *flags, "-o", str(folder)])
            == 0
        )
        err = capsys.readouterr().err
        assert part in err
        assert err.count("\n") == 1


@pytest.mark.data
def test_confusions_of_real_questions_are_counted_on_every_training_row(corpora, tmp_path):
    corpus = load_corpus([str(corpora / "trec")], shots=20)
    matrix = MatrixSettings(confusion_from="cross-validation", confusion_epochs=2)
    counts = count_confusions(settings_of("trec", matrix=matrix), corpus, 0, tmp_path / "counting")
    assert counts.sum() == len(corpus.train) == 120
    assert counts.shape == (6, 6)
