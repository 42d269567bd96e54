"""Runs on rows of which some have a coarse label only: the command line, Python, resuming, comparing."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from labeldist import FineLabelsOnly, MarginalCrossEntropy
from labeldist.cli import main
from labeldist.ldm import StaticLDM
from labeldist.models import TextCNN
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.training.api import compare
from labeldist.training.classification import FocalLoss, with_coarse_labels
from labeldist.training.config import DataSettings, RunSettings, check_settings
from labeldist.training.data.corpus import Corpus, Split
from labeldist.training.errors import UserError
from labeldist.training.label_distances import MatrixChoice
from labeldist.training.run_folder import RunSpec
from labeldist.training.run_model import make_objective
from runs import QUICK, messages, outcome, read
from runs import train_on_rows as train

pytestmark = pytest.mark.usefixtures("as_it_was")

GROUPS = {"news": ["delivery_question", "delivery_status"], "verdict": ["delivery_complaint", "delivery_praise"]}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
ROWS = messages(150)
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
# The first 60 rows have a class, 40 more a group.
MIXED = [label if i < 60 else GROUP_OF[label] for i, label in enumerate(LABELS[:100])]
TEST = (TEXTS[120:], LABELS[120:])
SMALL: dict[str, Any] = {"embedding_dim": 8, "projection_dim": 8, "batch_size": 16, "epochs": 2, "confusion_epochs": 1}


def mixed_csv(path):
    lines = [f'"{text}",{LABELS[i] if i < 60 else ""},{GROUP_OF[LABELS[i]]}' for i, text in enumerate(TEXTS[:100])]
    path.write_text("\n".join(["text,label,group", *lines]) + "\n")
    (path.parent / "test.csv").write_text(
        "\n".join(["text,label", *(f'"{text}",{label}' for text, label in zip(*TEST, strict=True))]) + "\n"
    )
    return path


@pytest.fixture(scope="module")
def run():
    said: list[str] = []
    run = train(TEXTS[:100], MIXED, test=TEST, hierarchy=GROUPS, say=said.append, **SMALL)
    return run, said


def test_a_run_trains_on_classes_and_groups_and_says_so(run):
    trained, said = run
    assert trained.class_names == tuple(sorted(GROUP_OF))
    assert trained.config.num_rows == {"train": 54, "validation": 6, "test": 30, "coarse": 40}
    counts = {group: MIXED[60:].count(group) for group in GROUPS}
    sentence = (
        f"coarse: 40 rows of train have a coarse label, by group: news {counts['news']} (2 classes), verdict "
        f"{counts['verdict']} (2 classes)"
    )
    assert sentence in said
    assert sentence in trained.config.notes
    assert json.loads(str(trained.config.spec.settings.data.hierarchy)) == GROUPS


def test_the_command_line_does_the_same(run, tmp_path, capsys):
    path = mixed_csv(tmp_path / "train.csv")
    tree = tmp_path / "tree.json"
    tree.write_text(json.dumps(GROUPS))
    arguments = ["train", "--data", str(path), str(tmp_path / "test.csv"), *QUICK]
    folders = [tmp_path / "by-column", tmp_path / "by-tree"]
    assert main([*arguments, "--coarse-column", "group", "--output", str(folders[0])]) == 0
    assert main([*arguments, "--coarse-column", "group", "--hierarchy", str(tree), "--output", str(folders[1])]) == 0
    assert "coarse: 40 rows of train have a coarse label" in capsys.readouterr().err
    kept = run[0].save(tmp_path / "kept")
    assert outcome(folders[1]) == outcome(kept)
    # A hierarchy also says how related the classes are, which is measured.
    metrics = [read(folder / "metrics.json") for folder in (folders[0], kept)]
    assert metrics[1]["test"].pop("relation") is not None
    metrics[0]["test"].pop("relation", None)
    assert metrics[0] == metrics[1]
    others = [
        {name: value for name, value in outcome(folder).items() if name != "metrics.json"}
        for folder in (folders[0], kept)
    ]
    assert others[0] == others[1]
    assert read(folders[1] / "config.json")["data"]["hierarchy"] == str(tree)


def test_an_interrupted_run_goes_on_with_the_same_groups(run, tmp_path):
    folder = run[0].save(tmp_path / "run")
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="changed since the run began"):
        train([*TEXTS[:99], "another"], MIXED, test=TEST, hierarchy=GROUPS, output=folder, resume=True, **SMALL)
    again = train(TEXTS[:100], MIXED, test=TEST, hierarchy=GROUPS, output=folder, resume=True, **SMALL)
    assert outcome(folder) == outcome(run[0].save(tmp_path / "kept"))
    assert again.class_names == run[0].class_names


def test_cross_validation_counts_rows_with_a_class(tmp_path):
    options = {**SMALL, "epochs": 1, "confusion_from": "cross-validation", "folds": 2, "output": tmp_path / "r"}
    trained = train(TEXTS[:100], MIXED, test=TEST, hierarchy=GROUPS, objective="static", **options)
    counts = np.array(read(tmp_path / "r" / "confusion.json")["counts"])
    assert counts.shape == (4, 4)
    assert counts.sum() == 54
    assert trained.label_distances is not None


def test_a_comparison_shares_the_coarse_rows():
    found = compare(
        TEXTS[:100], MIXED, test=TEST, hierarchy=GROUPS, objectives=["ce", "contrastive"], seeds=[0], **SMALL
    )
    configs = [found.run(name, 0).config for name in ("ce", "contrastive")]
    assert {config.fingerprint for config in configs} == {configs[0].fingerprint}
    assert all(config.num_rows["coarse"] == 40 for config in configs)


def small_corpus(**coarse: Any) -> Corpus:
    rows = Split(["a", "b", "c", "d"], np.array([0, 0, 0, 1]))
    return Corpus("x", ("0", "1", "2"), rows, rows, rows, "f", (), **coarse)


COARSE = {"coarse": Split(["e"], np.array([3])), "groups": {"g": ("0", "2")}}


def test_the_loss_of_a_run_with_coarse_rows():
    assert with_coarse_labels(None, small_corpus()) is None
    loss = with_coarse_labels(FocalLoss(2.0), small_corpus(**COARSE))
    assert isinstance(loss, MarginalCrossEntropy)
    assert isinstance(loss.fine, FocalLoss)
    assert loss.groups.tolist() == [[True, False, True]]
    model = ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3), 3, projection_dim=5)
    choice = MatrixChoice(StaticLDM.uniform(num_classes=3), "")
    settings = RunSettings()
    objective = make_objective(RunSpec(settings, "static", 0), choice, model, small_corpus(**COARSE))
    assert isinstance(objective.losses["contrastive"], FineLabelsOnly)
    # Balanced weights count rows with a class.
    balanced = RunSettings(loss=type(settings.loss)(class_weights="balanced"))
    objective = make_objective(RunSpec(balanced, "static", 0), choice, model, small_corpus(**COARSE))
    inner = objective.losses["classification"].fine
    assert isinstance(inner, nn.CrossEntropyLoss)
    torch.testing.assert_close(inner.weight, torch.tensor([4 / 6, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"hierarchy": "x.json", "hierarchy_separator": ":"},
            "Give the groups of classes either by --hierarchy or by --hierarchy-separator, not by both.",
        ),
        ({"hierarchy_separator": ""}, "--hierarchy-separator must have at least one character."),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, sentence):
    with pytest.raises(UserError) as caught:
        check_settings(RunSettings(data=DataSettings(**options)))
    assert str(caught.value) == sentence


def test_python_says_it_with_its_own_names():
    with pytest.raises(UserError, match=r"^hierarchy: the class 'x' is the label of no row of texts \(train\)\."):
        train(TEXTS[:100], MIXED, hierarchy={"news": ["x"]}, **SMALL)
    with pytest.raises(UserError, match=r"^hierarchy is made of mappings, lists and class names: "):
        train(TEXTS[:100], MIXED, hierarchy={"news": {1, 2}}, **SMALL)
