"""Objective levels: the mean of one contrastive loss for each level of a relation."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from comparisons import run_with_accuracy
from labeldist import FineLabelsOnly, LabelDistanceContrastiveLoss, Relation, StaticLDM
from labeldist.cli import main
from labeldist.models import TextCNN
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.training.api import compare
from labeldist.training.config import DataSettings, LossSettings, MatrixSettings, RunSettings
from labeldist.training.data.corpus import load_corpus
from labeldist.training.errors import UserError
from labeldist.training.label_distances import choose_matrix
from labeldist.training.levels import LevelContrast
from labeldist.training.run_folder import RunFolder, RunSpec
from labeldist.training.run_model import make_objective
from labeldist.training.study.comparison import build_comparison
from process_groups import results_of_group
from runs import CLASSES, QUICK, messages, read
from runs import train_on_rows as train
from strategies import brief, gradient_of, normal

pytestmark = pytest.mark.usefixtures("as_it_was")

GROUPS = [[0, 3], [1, 2]]
GROUP = torch.tensor([0, 1, 1, 0])
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3, 0, 1])
ONES = torch.ones(4, 4, dtype=torch.float64)
TREE = {"verdict": list(CLASSES[:2]), "news": list(CLASSES[2:])}
ORDER = (CLASSES[0], CLASSES[3], CLASSES[2], CLASSES[1])
ROWS = messages(100)
TEXTS, NAMES = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
SMALL: dict[str, Any] = {"embedding_dim": 8, "projection_dim": 8, "batch_size": 16, "epochs": 1}


def level_contrast(relation: Relation, **options: Any) -> LevelContrast:
    ones = StaticLDM(torch.ones_like(relation.closeness))
    losses = [
        LabelDistanceContrastiveLoss(ones, temperature=0.3, relevance=table, **options) for table in relation.levels()
    ]
    return LevelContrast(losses)


def two_levels() -> Relation:
    return Relation(Relation.from_groups(GROUPS, num_classes=4, closeness=0.5).closeness.double())


def contrast_in_loops(rows, labels, temperature: float) -> float:
    """Plain contrast, Eq. 4-13: the mean of KL of the uniform targets from the softmax of the similarities."""
    losses = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if not positives:
            continue
        cosines = {j: float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())) for j in others}
        logits = {j: (cosine + 1) / 2 / temperature for j, cosine in cosines.items()}
        total = math.log(sum(math.exp(logit) for logit in logits.values()))
        log_target = -math.log(len(positives))
        losses.append(sum(log_target - (logits[j] - total) for j in positives) / len(positives))
    return sum(losses) / len(losses)


# The loss


def test_two_levels_are_the_mean_of_contrast_on_classes_and_contrast_on_groups():
    rows = normal(len(LABELS), 5)
    value = level_contrast(two_levels())(rows, LABELS)
    loops = [contrast_in_loops(rows, labels.tolist(), 0.3) for labels in (LABELS, GROUP[LABELS])]
    assert value.item() == pytest.approx(sum(loops) / 2, rel=1e-12)


def test_the_gradient_is_the_mean_of_those_of_plain_contrast():
    rows, others = (normal(len(LABELS), 5).requires_grad_() for _ in range(2))
    level_contrast(two_levels())(rows, LABELS).backward()
    of_classes = LabelDistanceContrastiveLoss(ONES, temperature=0.3)(others, LABELS)
    of_groups = LabelDistanceContrastiveLoss(ONES[:2, :2], temperature=0.3)(others, GROUP[LABELS])
    ((of_classes + of_groups) / 2).backward()
    assert_close(gradient_of(rows), gradient_of(others))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_level_is_plain_contrast_to_the_bit(dtype):
    rows, others = (normal(len(LABELS), 5, dtype=dtype).requires_grad_() for _ in range(2))
    plain = LabelDistanceContrastiveLoss(ONES.to(dtype), temperature=0.3)
    value, expected = LevelContrast([plain])(rows, LABELS), plain(others, LABELS)
    assert torch.equal(value, expected)
    value.backward()
    expected.backward()
    assert torch.equal(gradient_of(rows), gradient_of(others))


@brief
@given(st.permutations(range(5)))
def test_names_of_classes_do_not_matter(order):
    closeness = Relation.from_order(num_classes=5).closeness.double()
    place = torch.tensor(order)
    rows, labels = normal(11, 4), torch.arange(11) % 5
    moved = Relation(closeness[place[:, None], place])
    assert_close(
        level_contrast(moved)(rows, place.argsort()[labels]), level_contrast(Relation(closeness))(rows, labels)
    )


def test_the_processes_share_the_pairs_of_every_level():
    rows, labels = normal(40, 5), torch.arange(40) % 4
    whole = rows.clone().requires_grad_()
    expected = level_contrast(two_levels())(whole, labels)
    expected.backward()

    def on_one(group):
        own = rows.clone().requires_grad_()
        loss = FineLabelsOnly(level_contrast(two_levels(), backend="blockwise"))
        with loss.sharded_over(group):
            value = loss(own, labels)
            value.backward()
        return value.detach(), gradient_of(own)

    found = results_of_group(2, on_one)
    for value, gradient in found:
        assert_close(value, expected.detach())
        # A part of the pairs.
        assert not torch.allclose(gradient, gradient_of(whole))
    # Each process had the upstream gradient of the whole batch.
    assert_close((found[0][1] + found[1][1]) / 2, gradient_of(whole))


# The objective


@pytest.fixture(scope="module")
def corpus(tickets):
    return load_corpus([str(tickets)])


def choose(corpus, matrix: dict[str, Any] | None = None, **data: Any) -> Any:
    settings = RunSettings(data=DataSettings(**data), matrix=MatrixSettings(**(matrix or {})))
    return choose_matrix("levels", settings, corpus, lambda: pytest.fail("nothing was to be counted"))


def test_a_run_has_a_table_for_each_level_and_says_so(corpus):
    choice = choose(corpus, hierarchy=json.dumps(TREE))
    assert torch.equal(choice.ldm.matrix, torch.ones(4, 4))
    assert choice.relevance is None
    same_group = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).float()
    assert [table.tolist() for table in choice.levels] == [torch.eye(4).tolist(), same_group.tolist()]
    assert choice.source == (
        "1 between all classes; the mean of 2 contrastive losses, whose positives are rows of the same class, or of "
        "classes with a closeness of at least 0.5, by the hierarchy as given"
    )
    assert "a closeness of at least 0.667, 0.333, by the order" in choose(corpus, {"order": ORDER}).source


def test_a_relation_without_levels_is_plain_contrast(corpus):
    choice = choose(corpus, hierarchy=json.dumps(list(CLASSES)))
    assert choice.levels == ()
    assert choice.source.startswith("1 between all classes, and no classes are closer than others, by the hierarchy")
    model = ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3), 4, projection_dim=5)
    objective = make_objective(RunSpec(RunSettings(), "levels", 0), choice, model, corpus)
    contrastive = objective.losses["contrastive"]
    assert isinstance(contrastive, LabelDistanceContrastiveLoss)
    assert contrastive.relevance_table() is None


def test_the_loss_of_a_run_is_the_mean_over_its_levels(corpus):
    loss, data = LossSettings(temperature=0.3, weighting="log"), DataSettings(hierarchy=json.dumps(TREE))
    spec = RunSpec(RunSettings(loss=loss, data=data), "levels", 0)
    model = ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3), 4, projection_dim=5)
    choice = choose(corpus, hierarchy=json.dumps(TREE))
    objective = make_objective(spec, choice, model, corpus)
    contrastive = objective.losses["contrastive"]
    assert isinstance(contrastive, LevelContrast)
    assert objective.views == 2
    assert objective.ldm is choice.ldm
    rows = normal(len(LABELS), 5, dtype=torch.float32)
    parts = [
        LabelDistanceContrastiveLoss(torch.ones(4, 4), temperature=0.3, weighting="log", relevance=table)(rows, LABELS)
        for table in choice.levels
    ]
    assert_close(contrastive(rows, LABELS), (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("chunks", [[], ["--chunk-size", "5"]], ids=["whole", "in chunks"])
def test_a_run_from_the_command_line(tickets, tmp_path, capsys, chunks):
    folder, tree = tmp_path / "run", tmp_path / "tree.json"
    tree.write_text(json.dumps(TREE))
    flags = ["--objective", "levels", "--hierarchy", str(tree), "--output", str(folder)]
    assert main(["train", "--data", str(tickets), *QUICK, *flags, *chunks]) == 0
    assert "the mean of 2 contrastive losses" in capsys.readouterr().err
    stored = read(folder / "ldm.json")
    assert stored["matrix"] == torch.ones(4, 4).tolist()
    assert "relevance" not in stored
    assert stored["levels"] == [table.tolist() for table in Relation.from_hierarchy(TREE, class_names=CLASSES).levels()]
    assert read(folder / "metrics.json")["matrix_source"] == stored["source"]
    assert [level.tolist() for level in RunFolder(folder).read_levels()] == stored["levels"]
    assert all("contrastive" in row for row in read(folder / "history.json")["log"] if "loss" in row)


def test_a_damaged_level_is_told(tmp_path):
    (tmp_path / "ldm.json").write_text(json.dumps({"class_names": ["a", "b"], "levels": [[[1.0, 0.0]]]}))
    with pytest.raises(UserError, match=r"ldm\.json cannot be read: the levels must be a square array of numbers"):
        RunFolder(tmp_path).read_levels()


def test_rows_with_coarse_labels_stay_out_of_every_level():
    coarse = [label if i < 60 else "verdict" for i, label in enumerate(NAMES) if i < 60 or label in TREE["verdict"]]
    texts = [text for i, text in enumerate(TEXTS) if i < 60 or NAMES[i] in TREE["verdict"]]
    run = train(texts, coarse, hierarchy=TREE, objective="levels", **SMALL)
    assert run.config.num_rows["coarse"] > 0
    assert len(run.levels) == 2
    assert run.levels[0] == torch.eye(4).tolist()
    assert run.relevance is None


def test_more_than_eight_levels_are_refused_before_anything_is_written(tmp_path):
    labels = [str(i % 10) for i in range(100)]
    with pytest.raises(UserError) as caught:
        train(TEXTS, labels, order=sorted(set(labels)), objective="levels", output=tmp_path / "run", **SMALL)
    assert str(caught.value) == (
        "objective levels: A relation must have at most 8 levels, with one contrastive loss for each, got 9. Round "
        "the closeness to fewer values, or use graded targets, which are one table. That is the objective graded."
    )
    assert not (tmp_path / "run").exists()


# Comparisons


def test_a_comparison_judges_levels_against_plain_contrast():
    found = compare(TEXTS[:60], NAMES[:60], objectives=["contrastive", "levels"], seeds=[0], hierarchy=TREE, **SMALL)
    verdict = found.comparison.verdict.objectives["levels"]
    assert verdict.same_matrix == ()
    assert "contrastive" in verdict.corrected_p
    assert found.comparison.provenance is not None
    assert "the mean of 2 contrastive losses" in found.comparison.provenance.matrices["levels-seed0"]


@pytest.mark.parametrize(("levels", "same"), [((), ("contrastive",)), (([[1, 0], [0, 1]], [[1, 1], [1, 1]]), ())])
def test_ones_with_levels_are_not_plain_contrast(levels, same):
    ones = [[1.0, 1.0], [1.0, 1.0]]
    runs = [run_with_accuracy("contrastive", 0, 0.8, matrix=ones)]
    runs += [run_with_accuracy("levels", 0, 0.9, matrix=ones, levels=levels)]
    verdict = build_comparison(runs, data="trec", encoder="textcnn").verdict.objectives["levels"]
    assert verdict.same_matrix == same
