"""The relation of a run's classes, and the objectives that train with it: near, far, graded, soft labels, margin."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comparisons import run_with_accuracy
from labeldist import LabelDistanceContrastiveLoss, RelatedCrossEntropy, Relation
from labeldist.cli import main
from labeldist.models import TextCNN
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.training.api import compare
from labeldist.training.config import DataSettings, LossSettings, MatrixSettings, RunSettings, check_settings
from labeldist.training.data.corpus import load_corpus
from labeldist.training.errors import UserError
from labeldist.training.label_distances import choose_matrix, needs_counting
from labeldist.training.relations import relation_of
from labeldist.training.run_data import fingerprint
from labeldist.training.run_folder import RunFolder, RunSpec
from labeldist.training.run_model import make_objective
from labeldist.training.study.compare import CompareSpec, check_spec
from labeldist.training.study.comparison import build_comparison
from runs import CLASSES, QUICK, messages, read, settings_of
from runs import train_on_rows as train

pytestmark = pytest.mark.usefixtures("as_it_was")

ORDER = (CLASSES[0], CLASSES[3], CLASSES[2], CLASSES[1])
TREE = {"verdict": list(CLASSES[:2]), "news": list(CLASSES[2:])}
ROWS = messages(100)
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
SMALL: dict[str, Any] = {"embedding_dim": 8, "projection_dim": 8, "batch_size": 16, "epochs": 1}
OFF = ~torch.eye(4, dtype=torch.bool)


def of(matrix: dict[str, Any] | None = None, **data: Any) -> RunSettings:
    return RunSettings(data=DataSettings(**data), matrix=MatrixSettings(**(matrix or {})))


@given(st.permutations(CLASSES))
def test_an_order_is_one_whatever_the_order_of_the_classes(order):
    relation = relation_of(of({"order": tuple(order)}), CLASSES)
    assert relation is not None
    assert relation.class_names == CLASSES
    for i, first in enumerate(order):
        for j, second in enumerate(order):
            assert relation.between(first, second) == pytest.approx(1 - abs(i - j) / 3)


def test_a_hierarchy_is_the_relation_too(tmp_path):
    expected = Relation.from_hierarchy(TREE, class_names=CLASSES).closeness
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(TREE))
    for hierarchy in (str(path), json.dumps(TREE)):
        relation = relation_of(of(hierarchy=hierarchy), CLASSES)
        assert relation is not None
        assert torch.equal(relation.closeness, expected)
    names = ["a:x", "a:y", "b"]
    by_name = relation_of(of(hierarchy_separator=":"), names)
    assert by_name is not None
    assert torch.equal(by_name.closeness, Relation.from_names(names).closeness)
    # Beside an order it serves coarse labels alone.
    ordered = relation_of(of({"order": ORDER}, hierarchy=str(path)), CLASSES)
    assert ordered is not None
    assert ordered.between(ORDER[0], ORDER[3]) == 0
    assert relation_of(RunSettings(), CLASSES) is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (of({"order": ("a", "b")}), "--order: The order must name every class, from one end to the other, and 'c' is "),
        (
            of({"order": ("a", "b", "c", "b")}),
            "--order: The order must name each class once, 'b' stands more than once",
        ),
        (
            of({"order": ("a", "bb", "c")}),
            "--order: There is no class 'bb'; the classes are a, b, c. Did you mean 'b'?",
        ),
        (of(hierarchy='[["a", "b"]]'), "--hierarchy: The hierarchy must hold every class, 'c' is missing."),
        (of(hierarchy='["a", "b", "c", "b"]'), "--hierarchy: Each class must stand once in the hierarchy, 'b' stands "),
        (of(hierarchy='["a", "b", "k"]'), "--hierarchy: There is no class 'k'; the classes are a, b, c."),
        (of(hierarchy="tree.json"), "There is no hierarchy file tree.json."),
        (of(hierarchy_separator="/"), "--hierarchy-separator: No class name contains the separator '/': a, b, c."),
    ],
)
def test_a_relation_that_does_not_fit_is_told_in_one_sentence(settings, sentence):
    with pytest.raises(UserError) as caught:
        relation_of(settings, ("a", "b", "c"))
    assert sentence in str(caught.value)


@pytest.fixture(scope="module")
def corpus(tickets):
    return load_corpus([str(tickets)])


def choose(objective, corpus, **matrix) -> Any:
    settings = settings_of("tickets", matrix=MatrixSettings(**matrix))
    assert not needs_counting(objective, settings)
    return choose_matrix(objective, settings, corpus, lambda: pytest.fail("nothing was to be counted"))


def test_near_and_far_push_in_opposite_directions(corpus):
    near, far = (choose(name, corpus, order=ORDER, max_distance=4.0) for name in ("near", "far"))
    assert near.ldm.class_names == far.ldm.class_names == CLASSES
    assert near.ldm.distance(*ORDER[:2]) == far.ldm.distance(ORDER[0], ORDER[2]) == 3.0
    assert near.ldm.distance(ORDER[0], ORDER[3]) == 1.0
    assert far.ldm.distance(ORDER[0], ORDER[3]) == 4.0
    torch.testing.assert_close((near.ldm.matrix + far.ldm.matrix)[OFF], torch.full((12,), 5.0))
    order = ", ".join(ORDER)
    assert near.source == f"1 to 3, pushes related classes apart harder, by the order {order}"
    assert far.source == f"2 to 4, pushes unrelated classes apart harder, by the order {order}"
    assert "less hard" in choose("far", corpus, order=ORDER, max_distance=0.5).source
    assert near.relevance is far.relevance is None


def test_graded_has_ones_and_graded_targets(corpus):
    choice = choose("graded", corpus, order=ORDER, relevance_weight=0.3, relevance_level=0.5)
    assert torch.equal(choice.ldm.matrix, torch.ones(4, 4))
    neighbors = [abs(ORDER.index(a) - ORDER.index(b)) == 1 for a in CLASSES for b in CLASSES]
    expected = torch.eye(4) + 0.2 * torch.tensor(neighbors).view(4, 4)
    torch.testing.assert_close(choice.relevance, expected)
    assert choice.source.startswith(
        "1 between all classes; rows of related classes are weak positives, of relevance 0 "
    )
    plain = choose("graded", corpus, order=ORDER, relevance_weight=0.0)
    assert plain.relevance is None
    assert "no class is relevant to another" in plain.source


def test_the_loss_of_a_run_has_the_graded_targets(corpus):
    settings = settings_of("tickets", matrix=MatrixSettings(order=ORDER))
    choice = choose("graded", corpus, order=ORDER)
    model = ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3), 4, projection_dim=5)
    objective = make_objective(RunSpec(settings, "graded", 0), choice, model, corpus)
    contrastive = objective.losses["contrastive"]
    assert isinstance(contrastive, LabelDistanceContrastiveLoss)
    assert torch.equal(contrastive.relevance_table(), choice.relevance)  # type: ignore[arg-type]
    assert objective.views == 2


def test_a_graded_run_from_the_command_line(tickets, tmp_path, capsys):
    folder = tmp_path / "run"
    flags = ["--objective", "graded", "--order", *ORDER, "--relevance-weight", "0.3", "--output", str(folder)]
    assert main(["train", "--data", str(tickets), *QUICK, *flags]) == 0
    assert "rows of related classes are weak positives, of relevance 0 to 0.2, by the order" in capsys.readouterr().err
    stored = read(folder / "ldm.json")
    assert stored["matrix"] == torch.ones(4, 4).tolist()
    assert stored["relevance"][0][0] == 1.0
    assert stored["relevance"][0][3] == pytest.approx(0.2)
    assert read(folder / "metrics.json")["matrix_source"] == stored["source"]
    relevance = RunFolder(folder).read_relevance()
    assert relevance is not None
    assert relevance.tolist() == stored["relevance"]


def test_python_and_coarse_labels_share_the_hierarchy():
    coarse = [label if i < 60 else "verdict" for i, label in enumerate(LABELS) if i < 60 or label in TREE["verdict"]]
    texts = [text for i, text in enumerate(TEXTS) if i < 60 or LABELS[i] in TREE["verdict"]]
    run = train(texts, coarse, hierarchy=TREE, objective="graded", **SMALL)
    assert run.config.num_rows["coarse"] > 0
    assert run.metrics.matrix_source.endswith("of relevance 0 to 0.05, by the hierarchy as given")
    assert run.relevance is not None
    assert run.relevance[0] == pytest.approx([1.0, 0.05, 0.0, 0.0])
    far = train(texts, coarse, hierarchy=TREE, objective="far", **SMALL)
    assert far.label_distances is not None
    assert far.label_distances[0] == [1.0, 3.0, 5.0, 5.0]
    assert far.relevance is None


def test_classes_that_are_numbers_are_ordered_by_number():
    stars = [1 + i % 3 for i in range(60)]
    run = train(TEXTS[:60], stars, order=[1, 2, 3], objective="far", **SMALL)
    assert run.label_distances == [[1.0, 3.0, 5.0], [3.0, 1.0, 3.0], [5.0, 3.0, 1.0]]
    with pytest.raises(TypeError, match="order must be a list, got '123'"):
        train(TEXTS[:60], stars, order="123", objective="far", **SMALL)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"objective": "graded"},
            "objective graded needs a relation of the classes. Give order (the classes from one end to the other), "
            "relation_file, hierarchy or hierarchy_separator.",
        ),
        (
            {"objective": "static", "order": (*ORDER, ORDER[0])},
            f"order: The order must name each class once, '{ORDER[0]}' stands more than once.",
        ),
        (
            {"objective": "far", "order": ORDER[:3]},
            f"order: The order must name every class, from one end to the other, and '{ORDER[3]}' is missing.",
        ),
        ({"objective": "graded", "relevance_weight": -1.0}, "relevance_weight must be 0 or more, got -1.0."),
        ({"objective": "soft-labels", "order": ORDER, "softness": -0.5}, "softness must be 0 or more, got -0.5."),
        ({"objective": "margin", "order": ORDER, "class_margin": -1.0}, "class_margin must be 0 or more, got -1.0."),
        (
            {"objective": "margin", "order": ORDER, "focal_gamma": 1.0},
            "Give either objective margin or focal_gamma: each replaces the cross-entropy.",
        ),
        (
            {"objective": "soft-labels"},
            "objective soft-labels needs a relation of the classes. Give order (the classes from one end to the "
            "other), relation_file, hierarchy or hierarchy_separator.",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(options, sentence, tmp_path):
    with pytest.raises(UserError) as caught:
        train(TEXTS, LABELS, output=tmp_path / "run", **{**SMALL, **options})
    assert str(caught.value) == sentence
    assert not (tmp_path / "run").exists()


def test_a_comparison_refuses_what_a_run_refuses(tickets):
    with pytest.raises(UserError, match=r"--objective far needs a relation of the classes\. Give --order"):
        check_spec(CompareSpec(settings_of(tickets), ("contrastive", "far"), (0,)))
    with pytest.raises(UserError, match=r"--relevance-level must be between 0 and 1, got 1\.5"):
        check_settings(settings_of(tickets, matrix=MatrixSettings(relevance_level=1.5)))


def test_a_comparison_judges_graded_targets_against_plain_contrast():
    found = compare(
        TEXTS[:60], LABELS[:60], objectives=["contrastive", "far", "graded"], seeds=[0], order=list(ORDER), **SMALL
    )
    comparison = found.comparison
    assert comparison.controls == ("contrastive",)
    assert list(comparison.verdict.objectives) == ["far", "graded"]
    for verdict in comparison.verdict.objectives.values():
        assert verdict.same_matrix == ()
        assert "contrastive" in verdict.corrected_p
    provenance = comparison.provenance
    assert provenance is not None
    assert provenance.matrices["far-seed0"].startswith("2.33 to 5, pushes unrelated classes apart harder")


@pytest.mark.parametrize(("relevance", "same"), [(None, ("contrastive",)), ([[1, 0.1], [0.1, 1]], ())])
def test_ones_with_graded_targets_are_not_plain_contrast(relevance, same):
    ones = [[1.0, 1.0], [1.0, 1.0]]
    runs = [run_with_accuracy("contrastive", 0, 0.8, matrix=ones)]
    runs += [run_with_accuracy("graded", 0, 0.9, matrix=ones, relevance=relevance)]
    verdict = build_comparison(runs, data="trec", encoder="textcnn").verdict.objectives["graded"]
    assert verdict.same_matrix == same


@pytest.mark.parametrize(
    ("objective", "has_contrast", "expected"),
    [
        ("soft-labels", False, {"softness": 0.3, "margin": 0.0}),
        ("margin", True, {"softness": 0.0, "margin": 1.5}),
    ],
)
def test_the_relation_has_a_part_in_the_classification_loss(corpus, objective: Any, has_contrast, expected):
    loss = LossSettings(softness=0.3, class_margin=1.5, class_weights="balanced", label_smoothing=0.1)
    settings = settings_of("tickets", loss=loss, matrix=MatrixSettings(order=ORDER))
    choice = choose(objective, corpus, order=ORDER)
    assert (choice.ldm is not None) == has_contrast
    assert "by the order" in choice.source
    model = ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3), 4, projection_dim=5)
    objective = make_objective(RunSpec(settings, objective, 0), choice, model, corpus)
    classification = objective.losses["classification"]
    assert isinstance(classification, RelatedCrossEntropy)
    assert {name: getattr(classification, name) for name in expected} == expected
    assert classification.label_smoothing == 0.1
    assert classification.weight is not None
    distances = 1 - Relation.from_order(class_names=ORDER).closeness
    place = [ORDER.index(name) for name in CLASSES]
    torch.testing.assert_close(classification.margins, expected["margin"] * distances[place][:, place])


@pytest.mark.parametrize("objective", ["far-permuted", "graded-permuted"])
def test_a_permuted_relation_is_another_one_of_the_same_entries(corpus, objective):
    settings = settings_of("tickets", matrix=MatrixSettings(order=ORDER))

    def table(name: Any, seed: int = 0):
        choice: Any = choose_matrix(name, settings, corpus, lambda: pytest.fail("nothing was to be counted"), seed=seed)
        return choice.ldm.matrix if choice.relevance is None else choice.relevance

    own = table(objective.removesuffix("-permuted"))
    tables = [table(objective, seed) for seed in range(6)]
    for permuted in tables:
        assert not torch.equal(permuted, own)
        assert torch.equal(permuted.diagonal(), own.diagonal())
        torch.testing.assert_close(permuted.flatten().sort().values, own.flatten().sort().values)
    assert torch.equal(table(objective, 3), tables[3])
    assert any(not torch.equal(tables[0], other) for other in tables[1:])
    assert ", its classes exchanged at random" in choose(objective, corpus, order=ORDER).source


def test_an_adaptive_matrix_may_push_far(corpus):
    choice = choose("adaptive", corpus, adaptive_use="far")
    assert choice.ldm.use == "far"
    assert choice.source.endswith("confusions, pushes classes apart that are not confused")
    with pytest.raises(UserError, match=r"--adaptive-use far needs --normalization rate"):
        check_settings(settings_of("tickets", matrix=MatrixSettings(adaptive_use="far", normalization="count")))


def test_an_adaptive_matrix_may_grade_targets(corpus):
    choice = choose("adaptive", corpus, adaptive_use="graded", relevance_weight=0.3)
    assert choice.relevance.ldm is choice.ldm
    assert choice.source.endswith("of relevance up to 0.3, learned from the validation set's confusions")
    with pytest.raises(UserError, match="--adaptive-use graded needs --normalization rate"):
        check_settings(settings_of("tickets", matrix=MatrixSettings(adaptive_use="graded", normalization="count")))
    with pytest.raises(UserError, match="--adaptive-use graded needs a --max-distance above 1, got 1"):
        check_settings(settings_of("tickets", matrix=MatrixSettings(adaptive_use="graded", max_distance=1.0)))


def test_a_run_learns_graded_targets_and_keeps_them(tmp_path):
    names = tuple(sorted(set(LABELS)))
    options: dict[str, Any] = {**SMALL, "epochs": 6, "warmup_fraction": 0.0}
    run = train(TEXTS, LABELS, objective="adaptive", adaptive_use="graded", output=tmp_path, **options)
    kept = json.loads((tmp_path / "ldm.json").read_text())
    assert tuple(kept["class_names"]) == names
    assert np.array_equal(kept["matrix"], np.ones((len(names), len(names))))
    assert len(kept["history"]) > 1
    relevances = np.array([update["relevance"] for update in kept["history"]])
    off = ~np.eye(len(names), dtype=bool)
    assert 0 < relevances[:, off].max() <= 0.1
    assert kept["relevance"] in [np.eye(len(names)).tolist(), *relevances.tolist()]
    assert run.relevance == kept["relevance"]


def test_far_has_to_beat_far_between_exchanged_classes():
    found = compare(TEXTS[:60], LABELS[:60], objectives=["far", "far-permuted"], seeds=[0], order=list(ORDER), **SMALL)
    assert found.comparison.controls == ("far-permuted",)
    assert list(found.comparison.verdict.objectives) == ["far"]


def test_a_margin_beside_ones_is_not_plain_contrast():
    ones = [[1.0, 1.0], [1.0, 1.0]]
    runs = [run_with_accuracy(name, 0, 0.8, matrix=ones) for name in ("contrastive", "margin")]
    verdict = build_comparison(runs, data="trec", encoder="textcnn").verdict.objectives["margin"]
    assert verdict.same_matrix == ()
    assert "contrastive" in verdict.corrected_p


def test_runs_with_soft_labels_and_a_margin_are_compared():
    found = compare(
        TEXTS[:60],
        LABELS[:60],
        objectives=["ce-two-views", "soft-labels", "margin"],
        seeds=[0],
        order=list(ORDER),
        measure="mean-absolute-error",
        **SMALL,
    )
    assert set(found.comparison.verdict.objectives) == {"soft-labels", "margin"}
    provenance = found.comparison.provenance
    assert provenance is not None
    assert provenance.matrices["soft-labels-seed0"].startswith(
        "none: cross-entropy alone, with soft labels by the order"
    )
    assert "has a margin of 2 by the order" in provenance.matrices["margin-seed0"]


def test_a_relation_file_is_the_relation_of_a_run(corpus, tmp_path, tickets, capsys):
    path = tmp_path / "closeness.csv"
    Relation.from_order(class_names=ORDER).to_file(path)
    for objective in ("near", "far", "graded"):
        found = choose(objective, corpus, relation_file=path)
        ordered = choose(objective, corpus, order=ORDER)
        assert torch.equal(found.ldm.matrix, ordered.ldm.matrix)
        assert found.source.endswith("by the relation of closeness.csv")
    folder = tmp_path / "run"
    flags = ["--objective", "far", "--relation-file", str(path), "-o", str(folder)]
    assert main(["train", "--data", str(tickets), *QUICK, *flags]) == 0
    stored = read(folder / "config.json")
    assert stored["matrix"]["relation_file"] == str(path)
    assert read(folder / "metrics.json")["test"]["relation"]["graded_ndcg"] > 0
    settings = RunFolder(folder).read_config().spec.settings
    before = fingerprint(settings, corpus)
    Relation.from_order(class_names=CLASSES).to_file(path)
    assert fingerprint(settings, corpus) != before
    capsys.readouterr()
    path.write_text(path.read_text().replace("praise", "prase"))
    assert main(["train", "--data", str(tickets), *QUICK, *flags[:-1], str(tmp_path / "other")]) == 2
    assert f"{path}: There is no class 'delivery_prase'; the classes are" in capsys.readouterr().err
    with pytest.raises(UserError, match="either by --order or by --relation-file, not by both"):
        check_settings(of({"order": ORDER, "relation_file": path}))
    with pytest.raises(UserError, match=r"There is no relation file .*none\.csv"):
        relation_of(of({"relation_file": tmp_path / "none.csv"}), CLASSES)


def test_a_hierarchy_that_changed_is_another_run(corpus, tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(TREE))
    settings = of(hierarchy=str(path))
    before = fingerprint(settings, corpus)
    assert before == fingerprint(settings, corpus) != corpus.fingerprint
    path.write_text(json.dumps({"all": TREE}))
    assert fingerprint(settings, corpus) != before
    assert fingerprint(of(hierarchy=json.dumps(TREE)), corpus) == corpus.fingerprint
