"""Where mistakes fall, and how embeddings group the classes."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from labeldist import Relation, StaticLDM
from labeldist.evaluation import MistakeSeverity, embedding_metrics, mistake_severity, retrieval
from labeldist.evaluation.retrieval import BLOCK_ROWS, METRICS
from strategies import brief, confusion_matrices, label_vectors, matrices, normal, refusal_of, seeds

# Mistakes


def test_severity_of_a_worked_example():
    # Four mistakes: 0 as 1 twice (distance 5), 0 as 2 (1), 2 as 1 (3): (5 + 5 + 1 + 3) / 4 = 3.5.
    # Row means off the diagonal: class 0 (5 + 1) / 2 = 3, class 2 (2 + 3) / 2 = 2.5: (3 * 3 + 2.5) / 4 = 2.875.
    counts = torch.tensor([[90, 2, 1], [0, 50, 0], [0, 1, 7]])
    ldm = StaticLDM([[9.0, 5.0, 1.0], [4.0, 9.0, 4.0], [2.0, 3.0, 9.0]])
    assert mistake_severity(counts, ldm) == MistakeSeverity(3.5, 2.875, 4)


def test_row_and_column_are_not_exchanged():
    counts, distances = torch.tensor([[5, 3], [0, 5]]), torch.tensor([[1.0, 2.0], [7.0, 1.0]])
    assert mistake_severity(counts, distances).mean_distance == 2
    assert mistake_severity(counts.T, distances).mean_distance == 7


def test_a_large_distance_of_the_builders_marks_the_classes_that_are_easily_confused():
    names = ["rugby", "soccer", "chess"]
    builders = [
        StaticLDM.from_pairs([("rugby", "soccer")], class_names=names),
        Relation.from_hierarchy({"ball": ["rugby", "soccer"], "board": ["chess"]}, class_names=names).near(),
        StaticLDM.from_confusion([[8, 2, 0], [2, 8, 0], [0, 0, 9]], class_names=names),
    ]
    near, far = torch.tensor([[5, 2, 0], [2, 5, 0], [0, 0, 5]]), torch.tensor([[5, 0, 2], [0, 5, 2], [0, 0, 5]])
    for ldm in builders:
        severe, mild = mistake_severity(near, ldm), mistake_severity(far, ldm)
        assert severe.mean_distance > severe.expected_distance
        assert mild.mean_distance < mild.expected_distance


@pytest.mark.parametrize("counts", [[[3]], [[3, 0], [0, 4]], [[0, 0], [0, 0]]])
def test_without_a_mistake_there_is_no_mean(counts):
    severity = mistake_severity(counts, torch.ones(len(counts), len(counts)))
    assert math.isnan(severity.mean_distance)
    assert math.isnan(severity.expected_distance)
    assert severity.num_mistakes == 0


@st.composite
def counts_and_distances(draw) -> tuple[Tensor, Tensor]:
    counts = draw(confusion_matrices())
    return counts, draw(matrices(len(counts), len(counts), st.sampled_from([0.0, 1.0, 2.5, 5.0])))


@brief
@given(counts_and_distances())
def test_severity_is_the_mean_over_single_mistakes(problem):
    counts, distances = problem
    pairs = [(a, b) for a in range(len(counts)) for b in range(len(counts)) if a != b]
    single = [float(distances[a, b]) for a, b in pairs for _ in range(int(counts[a, b]))]
    even = [
        sum(float(distances[a, c]) for c in range(len(counts)) if c != a) / (len(counts) - 1)
        for a, b in pairs
        for _ in range(int(counts[a, b]))
    ]
    severity = mistake_severity(counts, distances)
    assert severity.num_mistakes == len(single)
    if single:
        assert severity.mean_distance == pytest.approx(sum(single) / len(single))
        assert severity.expected_distance == pytest.approx(sum(even) / len(even))


@brief
@given(counts_and_distances(), st.randoms(use_true_random=False))
def test_severity_does_not_depend_on_the_order_of_classes_nor_on_the_diagonal(problem, random):
    counts, distances = problem
    order = list(range(len(counts)))
    random.shuffle(order)
    whole = mistake_severity(counts, distances)
    shuffled = mistake_severity(counts[order][:, order], distances[order][:, order].fill_diagonal_(3))
    assert shuffled == pytest.approx(whole, nan_ok=True)


@brief
@given(confusion_matrices())
def test_where_all_distances_are_equal_chance_is_as_severe(counts):
    severity = mistake_severity(counts, torch.full(counts.shape, 2.5))
    expected = 2.5 if severity.num_mistakes else math.nan
    assert severity[:2] == pytest.approx((expected, expected), nan_ok=True)


def test_arguments_are_left_as_they_were():
    counts, distances = torch.tensor([[3, 1], [1, 3]]), torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    mistake_severity(counts, distances)
    assert counts.tolist() == [[3, 1], [1, 3]]
    assert distances.tolist() == [[1.0, 2.0], [2.0, 1.0]]


def test_a_learnt_matrix_is_read_without_its_gradient():
    ldm = StaticLDM(torch.nn.Parameter(torch.tensor([[1.0, 2.0], [2.0, 1.0]])))
    assert mistake_severity([[3, 1], [1, 3]], ldm).mean_distance == 2


@pytest.mark.parametrize(
    ("counts", "distances", "error", "sentence"),
    [
        (
            [[1, 2], [3, 4]],
            torch.ones(3, 3),
            ValueError,
            "counts must have the shape of ldm, (3, 3), got (2, 2). Count over the same classes.",
        ),
        ([[1, 2]], torch.ones(2, 2), ValueError, "Confusion counts must have shape (C, C) with C >= 1, got (1, 2)."),
        (
            [[1, -2], [0, 1]],
            torch.ones(2, 2),
            ValueError,
            "Confusion counts must be finite and non-negative, got -2 at row 0, column 1.",
        ),
        (
            [[0.5, 0.5], [0.5, 0.5]],
            torch.ones(2, 2),
            TypeError,
            "Confusion counts must be integers (numbers of rows), got torch.float32.",
        ),
        (
            [[1, 2], [3, 4]],
            [[1.0, math.nan], [1.0, 1.0]],
            ValueError,
            "Label distances must be finite and non-negative, got nan at row 0, column 1.",
        ),
    ],
    ids=["other size", "not square", "negative", "rates", "NaN distance"],
)
def test_bad_counts_or_distances_are_answered_by_one_sentence(counts, distances, error, sentence):
    assert refusal_of(error, mistake_severity, counts, distances) == sentence


# Embeddings


def by_hand(embeddings: Tensor, labels: list, ref_emb: Tensor | None = None, ref_labels: list | None = None) -> dict:
    """The three metrics from their definitions, float64, one query after the other."""
    references, classes = (embeddings, labels) if ref_emb is None or ref_labels is None else (ref_emb, ref_labels)
    found = {name: [] for name in METRICS}
    for i, (query, label) in enumerate(zip(embeddings.double(), labels, strict=True)):
        others = [j for j in range(len(classes)) if ref_emb is not None or j != i]
        cosines = torch.cosine_similarity(query[None], references.double(), dim=1)
        others.sort(key=lambda j: -cosines[j].item())
        hits = [classes[j] == label for j in others]
        num_same = sum(hits)
        if not num_same:
            continue
        found["precision_at_1"].append(hits[0])
        found["r_precision"].append(sum(hits[:num_same]) / num_same)
        precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(num_same) if hits[k]]
        found["mean_average_precision_at_r"].append(sum(precisions) / num_same)
    return {name: sum(values) / len(values) if values else math.nan for name, values in found.items()}


def assume_no_near_tie(embeddings: Tensor, references: Tensor) -> None:
    """Which of two equally near rows comes first is not defined."""
    rows, others = (torch.nn.functional.normalize(tensor) for tensor in (embeddings, references))
    gaps = (rows @ others.T).sort(dim=1).values.diff(dim=1)
    assume(not gaps.numel() or gaps.min() > 1e-5)


def test_metrics_of_a_worked_example():
    # On a circle at 0, 10, 25 and 45 degrees, of classes a b a a; each a has R = 2 others.
    # Row 0: in order 1 2 3, b a a: P@1 0, R-precision 1/2, MAP@R (0 + 1/2) / 2.
    # Row 2: in order 1 3 0 (15, 20, 25 degrees), b a a: the same.
    # Row 3: in order 2 1 0, a b a: P@1 1, R-precision 1/2, MAP@R (1 + 0) / 2.
    # Row 1 is the only b: left out.
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 25.0, 45.0]))
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    metrics = embedding_metrics(embeddings, torch.tensor([0, 1, 0, 0]))
    assert metrics == pytest.approx(
        {"precision_at_1": 1 / 3, "r_precision": 1 / 2, "mean_average_precision_at_r": (1 / 4 + 1 / 4 + 1 / 2) / 3}
    )


@pytest.fixture
def similarities(monkeypatch) -> list[Tensor]:
    """Receives every matrix that neighbors are searched in."""
    found: list[Tensor] = []
    topk = torch.topk

    def watched(matrix, *arguments, **options):
        found.append(matrix)
        return topk(matrix, *arguments, **options)

    monkeypatch.setattr(torch, "topk", watched)
    return found


@st.composite
def labeled_rows(draw):
    num_rows = draw(st.integers(1, 11))
    return normal(num_rows, 3, seed=draw(seeds)), draw(label_vectors(num_rows, 3))


@brief
@given(labeled_rows(), st.sampled_from([1, 3, 256]))
def test_metrics_agree_with_their_definitions_whatever_the_block(rows, block_rows):
    embeddings, labels = rows
    assume_no_near_tie(embeddings, embeddings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK_ROWS", block_rows)
        metrics = embedding_metrics(embeddings, labels)
    assert metrics == pytest.approx(by_hand(embeddings, labels.tolist()), nan_ok=True)
    assert tuple(metrics) == METRICS


@brief
@given(labeled_rows(), labeled_rows(), st.sampled_from([1, 3, 256]))
def test_metrics_against_references_agree_with_their_definitions(rows, others, block_rows):
    (embeddings, labels), (ref_emb, ref_labels) = rows, others
    assume_no_near_tie(embeddings, ref_emb)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK_ROWS", block_rows)
        metrics = embedding_metrics(embeddings, labels, ref_emb=ref_emb, ref_labels=ref_labels)
    assert metrics == pytest.approx(by_hand(embeddings, labels.tolist(), ref_emb, ref_labels.tolist()), nan_ok=True)


def test_several_blocks_of_the_usual_size():
    num_rows = 2 * BLOCK_ROWS + 1
    labels = torch.arange(num_rows) % 7
    embeddings = normal(num_rows, 16, seed=3) + 2 * torch.nn.functional.one_hot(labels, 16)
    # Some near ties among so many pairs may come in either order.
    assert embedding_metrics(embeddings, labels) == pytest.approx(by_hand(embeddings, labels.tolist()), abs=1e-4)


@brief
@given(labeled_rows(), st.randoms(use_true_random=False))
def test_order_of_rows_names_of_classes_and_lengths_do_not_matter(rows, random):
    embeddings, labels = rows
    assume_no_near_tie(embeddings, embeddings)
    order = list(range(len(labels)))
    random.shuffle(order)
    lengths = torch.tensor([random.choice([0.01, 1.0, 100.0]) for _ in order])
    renamed = torch.tensor([-5, 2**40, 2**40 + 1])[labels]
    changed = embedding_metrics((embeddings * lengths[:, None])[order], renamed[order])
    assert changed == pytest.approx(embedding_metrics(embeddings, labels), nan_ok=True)


@brief
@given(st.lists(st.integers(2, 5), min_size=1, max_size=4))
def test_classes_that_lie_apart_are_perfect(sizes):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    metrics = embedding_metrics(torch.eye(len(sizes))[labels] + 0.01 * normal(len(labels), len(sizes)).float(), labels)
    assert metrics == dict.fromkeys(METRICS, 1.0)


def test_rows_that_never_meet_their_class_first_are_worst():
    # Each row's nearest is of the other class: pairs of opposite classes lie together.
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]])
    assert embedding_metrics(embeddings, torch.tensor([0, 1, 0, 1])) == dict.fromkeys(METRICS, 0.0)


def test_a_class_of_one_row_is_left_out_but_stands_in_the_way_of_others():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.9, 0.5]])
    assert embedding_metrics(embeddings, torch.tensor([0, 1, 0]))["precision_at_1"] == 0.0
    assert embedding_metrics(embeddings, torch.tensor([0, 0, 1])) == dict.fromkeys(METRICS, 1.0)


@pytest.mark.parametrize("references", [{}, {"ref_emb": torch.ones(2, 3), "ref_labels": torch.tensor([7, 8])}])
def test_where_no_query_has_a_counterpart_there_is_no_mean(references, caplog):
    metrics = embedding_metrics(torch.eye(3), torch.tensor([0, 1, 2]), **references)
    assert set(metrics) == set(METRICS)
    assert all(map(math.isnan, metrics.values()))
    assert not caplog.records


def test_repeated_rows_never_find_themselves():
    embeddings = torch.ones(6, 2)
    assert embedding_metrics(embeddings, torch.zeros(6, dtype=torch.int64)) == dict.fromkeys(METRICS, 1.0)
    metrics = embedding_metrics(embeddings, torch.tensor([0, 0, 0, 1, 1, 2]))
    assert all(0 <= value <= 1 for value in metrics.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_computed_in_float32(dtype):
    embeddings, labels = normal(40, 4, dtype=dtype), torch.arange(40) % 3
    expected = embedding_metrics(embeddings.float(), labels)
    assert embedding_metrics(embeddings, labels) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert embedding_metrics(embeddings, labels) == expected


def test_lengths_that_overflow_float32_when_squared():
    embeddings, labels = normal(12, 3).float(), torch.arange(12) % 2
    assert embedding_metrics(embeddings * 1e30, labels) == embedding_metrics(embeddings, labels)


def test_no_gradient_is_recorded(similarities):
    embedding_metrics(torch.eye(4, requires_grad=True), torch.tensor([0, 0, 1, 1]))
    assert [matrix.requires_grad for matrix in similarities] == [False]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16])
def test_labels_may_be_any_integers(dtype):
    embeddings, labels = normal(10, 3), torch.arange(10) % 3
    expected = embedding_metrics(embeddings, labels)
    assert embedding_metrics(embeddings, labels.to(dtype)) == expected
    for same in (labels.to(dtype).numpy(), labels.tolist()):
        assert embedding_metrics(embeddings, same) == expected
        assert embedding_metrics(embeddings, same, ref_emb=embeddings, ref_labels=same)["precision_at_1"] == 1


ROWS, LABELS = torch.ones(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "references", "error", "part"),
    [
        ((torch.ones(2), LABELS), {}, ValueError, "embeddings must have shape (B, D), got (2,)."),
        ((ROWS, LABELS[:1]), {}, ValueError, "labels must have shape (2,), got (1,)."),
        ((ROWS.long(), LABELS), {}, TypeError, "embeddings must be floating point, got torch.int64."),
        ((ROWS, LABELS.float()), {}, TypeError, "labels must be integers (class indices), got torch.float32."),
        ((ROWS[:0], LABELS[:0]), {}, ValueError, "embeddings must have at least one row, got none."),
        ((ROWS * math.nan, LABELS), {}, ValueError, "embeddings must be finite, got NaN or infinity."),
        ((ROWS, LABELS), {"ref_emb": ROWS}, ValueError, "ref_emb and ref_labels go together: pass both or neither."),
        (
            (ROWS, LABELS),
            {"ref_emb": torch.ones(2, 4), "ref_labels": LABELS},
            ValueError,
            "ref_emb must have shape (R, 3), got (2, 4).",
        ),
        (
            (ROWS, LABELS),
            {"ref_emb": ROWS, "ref_labels": LABELS[:1]},
            ValueError,
            "ref_labels must have shape (2,), got (1,).",
        ),
        (
            (ROWS, LABELS),
            {"ref_emb": ROWS[:0], "ref_labels": LABELS[:0]},
            ValueError,
            "ref_emb must have at least one row, got none.",
        ),
        (
            (ROWS, LABELS),
            {"ref_emb": ROWS / 0, "ref_labels": LABELS},
            ValueError,
            "ref_emb must be finite, got NaN or infinity.",
        ),
    ],
    ids=[
        "one axis", "fewer labels", "integer rows", "float labels", "no rows", "NaN", "references without labels",
        "references of another size", "fewer reference labels", "no references", "infinite references",
    ],
)  # fmt: skip
def test_bad_embeddings_are_answered_by_one_sentence(arguments, references, error, part):
    assert refusal_of(error, embedding_metrics, *arguments, **references).startswith(part)


def test_no_matrix_of_all_rows_by_all_rows_is_held(similarities):
    embedding_metrics(normal(1000, 4), torch.arange(1000) % 2)
    assert max(matrix.numel() for matrix in similarities) == BLOCK_ROWS * 1000
