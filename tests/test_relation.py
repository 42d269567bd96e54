"""How closely classes are related: the builders, the four uses, and what is refused."""

import json
import math
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from labeldist import LabelDistanceContrastiveLoss, Relation, StaticLDM, label_distance_contrastive
from labeldist.checks import check_relevance
from labeldist.relation import cosine_gap, max_distance_for
from strategies import brief, confusion_matrices, gradient_of, matrices, normal, refusal_of, seeds

NAMES = ["guns", "politics", "baseball", "hockey"]
TREE = {"society": {"conflict": ["guns", "politics"]}, "sport": ["baseball", "hockey"]}
max_distances = st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0])


@st.composite
def relations(draw, *, max_classes=5):
    """Any table in [0, 1] with ones on the diagonal; asymmetric."""
    num_classes = draw(st.integers(1, max_classes))
    table = draw(matrices(num_classes, num_classes, st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    return Relation(table.fill_diagonal_(1))


# The builders


def test_pairs_have_their_closeness_and_others_none():
    relation = Relation.from_pairs([("guns", "politics"), (2, 3, 0.5)], closeness=0.8, class_names=NAMES)
    assert_close(
        relation.closeness,
        torch.tensor([[1, 0.8, 0, 0], [0.8, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0.5, 1]]),
    )
    one_way = Relation.from_pairs([(0, 1)], num_classes=2, symmetric=False)
    assert one_way.closeness.tolist() == [[1, 1], [0, 1]]


def test_groups_may_overlap_and_leave_classes_out():
    relation = Relation.from_groups([[0, 1], [1, 2]], num_classes=4, closeness=0.5)
    expected = [[1, 0.5, 0, 0], [0.5, 1, 0.5, 0], [0, 0.5, 1, 0], [0, 0, 0, 1]]
    assert relation.closeness.tolist() == expected


def test_a_hierarchy_gives_the_depth_of_the_common_ancestor_over_that_of_the_deepest_class():
    # Depths of the ancestors: 2 (guns, politics), 0 between the halves, 1 (baseball, hockey); the deepest class has 3.
    third = 1 / 3
    expected = [[1, 2 * third, 0, 0], [2 * third, 1, 0, 0], [0, 0, 1, third], [0, 0, third, 1]]
    assert_close(Relation.from_hierarchy(TREE, class_names=NAMES).closeness, torch.tensor(expected))
    assert Relation.from_hierarchy("only", class_names=["only"]).closeness.tolist() == [[1]]
    assert Relation.from_hierarchy(NAMES, class_names=NAMES).closeness.tolist() == torch.eye(4).tolist()


@brief
@given(st.permutations(range(6)))
def test_a_hierarchy_ignores_the_order_of_children_and_of_classes(order):
    names = [str(i) for i in range(6)]
    tree = [["0", ["1", "2"]], [["3"], "4"], "5"]
    relation = Relation.from_hierarchy(tree, class_names=[names[i] for i in order])
    mirrored = Relation.from_hierarchy([child[::-1] for child in tree[::-1]], class_names=[names[i] for i in order])
    assert torch.equal(relation.closeness, mirrored.closeness)
    plain = Relation.from_hierarchy(tree, class_names=names).closeness
    assert torch.equal(relation.closeness, plain[list(order)][:, list(order)])


def test_names_with_separators_are_a_hierarchy():
    names = ["loc:city", "loc:state", "num:date", "abbreviation"]
    tree = {"loc": ["loc:city", "loc:state"], "num": ["num:date"], "rest": "abbreviation"}
    expected = Relation.from_hierarchy(tree, class_names=names)
    assert torch.equal(Relation.from_names(names).closeness, expected.closeness)
    deep = Relation.from_names(["rec.sport.hockey", "rec.sport.baseball", "rec.autos", "sci.med"], separator=".")
    assert_close(deep.closeness[0], torch.tensor([1, 2 / 3, 1 / 3, 0]))


def test_an_order_is_a_line():
    assert Relation.from_order(num_classes=5).closeness[1].tolist() == [0.75, 1.0, 0.75, 0.5, 0.25]
    assert Relation.from_order(class_names=["only"]).closeness.tolist() == [[1.0]]


def test_vectors_are_stretched_from_the_least_similar_pair_to_parallel_ones():
    relation = Relation.from_vectors([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]], class_names=["a", "b", "c"])
    half = math.sqrt(0.5)  # cosines of 45 degrees; the least one is 0
    assert_close(relation.closeness, torch.tensor([[1, half, 0], [half, 1, half], [0, half, 1]]))
    assert Relation.from_vectors(torch.ones(3, 2)).closeness.tolist() == [[1.0] * 3] * 3


@brief
@given(matrices(5, 3, st.integers(-4, 4).map(float)))
def test_any_vectors_give_a_symmetric_relation(vectors):
    assume((vectors != 0).any(dim=1).all())
    closeness = Relation.from_vectors(vectors).closeness
    assert torch.equal(closeness, closeness.T)


def test_texts_of_the_classes_are_encoded_in_order():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return [[float(text.count("a")), float(text.count("e"))] for text in texts]

    relation = Relation.from_label_texts(encode, class_names=["a_b.a", "late tea", "e"], texts={"e": "nothing but e"})
    assert seen == ["a b a", "late tea", "nothing but e"]
    assert relation.between("a_b.a", "e") == 0


def test_a_confusion_has_closeness_one_for_the_most_confused_pair():
    relation = Relation.from_confusion([[8, 2, 0], [0, 9, 1], [0, 0, 10]], class_names=["a", "b", "c"])
    assert_close(relation.closeness, torch.tensor([[1, 1, 0], [1, 1, 0.5], [0, 0.5, 1]]))
    one_way = Relation.from_confusion([[8, 2], [0, 10]], symmetric=False)
    assert one_way.closeness.tolist() == [[1, 1], [0, 1]]


@brief
@given(confusion_matrices(max_classes=4), max_distances)
def test_near_a_confusion_is_the_matrix_of_confusions(counts, max_distance):
    expected = StaticLDM.from_confusion(counts, max_distance=max_distance).matrix
    assert_close(Relation.from_confusion(counts).near(max_distance).matrix, expected)


def test_costs_and_distances_are_turned_round():
    assert Relation.from_costs([[0, 1, 2], [4, 0, 0], [0, 0, 0]]).closeness.tolist() == [
        [1, 0.75, 0.5],
        [0, 1, 1],
        [1, 1, 1],
    ]
    assert Relation.from_distances([[0, 1, 4], [1, 0, 2], [4, 2, 0]]).closeness[0].tolist() == [1, 0.75, 0]


# The uses


def test_what_near_and_far_push():
    order = Relation.from_order(num_classes=3)
    assert order.near(5.0).matrix.tolist() == [[1, 3, 1], [3, 1, 3], [1, 3, 1]]
    assert order.far(5.0).matrix.tolist() == [[1, 3, 5], [3, 1, 3], [5, 3, 1]]


def test_near_scaled_gives_the_closest_classes_max_distance():
    # Differences 1, 2, 3, 4 map to 4, 3, 2, 1.
    order = Relation.from_order(num_classes=5).scaled().near(4.0).matrix
    assert_close(order[0], torch.tensor([1.0, 4.0, 3.0, 2.0, 1.0]))
    tree = Relation.from_hierarchy(TREE, class_names=NAMES).scaled().near(5.0)
    assert_close(tree.matrix, torch.tensor([[1.0, 5, 1, 1], [5, 1, 1, 1], [1, 1, 1, 3], [1, 1, 3, 1]]))
    assert Relation.from_hierarchy(NAMES, class_names=NAMES).scaled().near(5.0).matrix.tolist() == [[1.0] * 4] * 4


@brief
@given(relations(), max_distances)
def test_near_and_far_are_between_one_and_max_distance_and_add_up(relation, max_distance):
    near, far = relation.near(max_distance), relation.far(max_distance)
    assert near.class_names == relation.class_names
    off_diagonal = ~torch.eye(relation.num_classes, dtype=torch.bool)
    assert_close((near.matrix + far.matrix)[off_diagonal], torch.full_like(near.matrix, 1 + max_distance)[off_diagonal])
    for ldm in (near, far):
        assert torch.equal(ldm.matrix.diagonal(), torch.ones(relation.num_classes, dtype=ldm.matrix.dtype))
        assert (ldm.matrix >= min(1, max_distance)).all()
        assert (ldm.matrix <= max(1, max_distance)).all()


@brief
@given(relations(), st.sampled_from([0.0, 0.05, 1.0, 3.0]), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_relevance_is_the_weighted_closeness_from_the_level_on(relation, weight, level):
    table = relation.relevance(weight=weight, level=level)
    check_relevance(table, relation.num_classes)
    for a in range(relation.num_classes):
        for b in range(relation.num_classes):
            close = relation.closeness[a, b].item()
            expected = 1.0 if a == b else weight * close if close >= level - 5e-6 else 0.0
            assert table[a, b].item() == pytest.approx(expected)


@pytest.mark.parametrize("num_classes", [3, 6, 11, 21])
def test_a_level_of_an_order_includes_the_classes_at_it(num_classes):
    relation = Relation.from_order(num_classes=num_classes)
    for steps in range(1, num_classes):
        # As a user writes it: 0.4, where float32 holds 0.39999998.
        level = round(1 - steps / (num_classes - 1), 5)
        related = relation.relevance(weight=1.0, level=level)[0, 1:].nonzero().flatten() + 1
        # A closeness of 0 has a relevance of 0 at every level.
        assert related.tolist() == list(range(1, min(steps + 1, num_classes - 1)))


@brief
@given(relations(), seeds)
def test_a_permuted_relation_has_the_same_entries(relation, seed):
    permuted = relation.permuted(torch.Generator().manual_seed(seed))
    assert permuted.class_names == relation.class_names
    assert sorted(permuted.closeness.flatten().tolist()) == sorted(relation.closeness.flatten().tolist())


@brief
@given(relations())
def test_levels_are_nested_from_the_identity_up(relation):
    tables, closeness = relation.levels(), relation.closeness
    assert torch.equal(tables[0], torch.eye(relation.num_classes, dtype=closeness.dtype))
    closeness = closeness.double().round(decimals=5)
    between = sorted({value for i, row in enumerate(closeness.tolist()) for j, value in enumerate(row) if i != j})
    assert len(tables) == max(len(between), 1)
    for table, level in zip(tables[1:], reversed(between[1:]), strict=True):
        assert torch.equal(table, (closeness >= level).to(table))
        check_relevance(table, relation.num_classes)
    for lower, upper in pairwise(tables):
        assert bool((upper >= lower).all())
        assert not torch.equal(upper, lower)
        assert not bool(upper.all())


def test_a_hierarchy_has_the_level_of_its_classes_and_those_of_its_groups():
    classes, conflict, halves = Relation.from_hierarchy(TREE, class_names=NAMES).levels()
    assert torch.equal(classes, torch.eye(4))
    assert conflict.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert halves.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    # Classes of a group with closeness 1 are still told apart at the first level.
    assert [table[0].tolist() for table in Relation.from_groups([[0, 1]], num_classes=3).levels()] == [
        [1, 0, 0],
        [1, 1, 0],
    ]
    for relation in (
        Relation.from_order(num_classes=1),
        Relation.from_order(num_classes=2),
        Relation(torch.ones(3, 3)),
    ):
        assert [table.tolist() for table in relation.levels()] == [torch.eye(relation.num_classes).tolist()]


@pytest.mark.parametrize("num_classes", [4, 7, 8])
def test_rounding_makes_no_level(num_classes):
    # Differences of 0.1, 0.2, ... of which many are equal but for their last bits.
    places = 0.1 * torch.arange(num_classes, dtype=torch.float32)
    relation = Relation.from_distances((places[:, None] - places).abs())
    of_order = Relation.from_order(num_classes=num_classes).levels()
    assert [table.tolist() for table in relation.levels()] == [table.tolist() for table in of_order]


def test_the_number_of_levels_is_limited():
    with pytest.raises(ValueError, match="max_levels must be at least 1, got 0"):
        Relation.from_order(num_classes=3).levels(max_levels=0)
    assert len(Relation.from_order(num_classes=9).levels()) == 8
    assert len(Relation.from_order(num_classes=10).levels(max_levels=9)) == 9
    assert refusal_of(ValueError, Relation.from_order(num_classes=10).levels) == (
        "A relation must have at most 8 levels, with one contrastive loss for each, got 9. Round the closeness to "
        "fewer values, or use graded targets, which are one table."
    )


def test_a_relation_serves_the_loss():
    relation = Relation.from_names(["loc:city", "loc:state", "num:date", "num:size"])
    loss = LabelDistanceContrastiveLoss(relation.far(2.0), relevance=relation.relevance(weight=0.1))
    rows = normal(8, 5, dtype=torch.float32).requires_grad_()
    loss(rows, torch.arange(8) % 4).backward()
    assert gradient_of(rows).isfinite().all()


def test_it_says_what_it_is():
    assert repr(Relation.from_order(class_names=["a", "b"])) == "Relation(num_classes=2, class_names=(a, b))"


def test_the_table_is_copied():
    table = torch.eye(2)
    relation = Relation(table)
    table.fill_(0.5)
    relation.near()
    relation.relevance()
    assert relation.closeness.tolist() == [[1, 0], [0, 1]]


# What an entry means


def test_an_entry_and_a_gap_are_each_others_inverse():
    assert cosine_gap(max_distance_for(0.7, temperature=0.2), temperature=0.2) == pytest.approx(0.7)
    assert max_distance_for(0.0, temperature=0.1) == 1
    assert max_distance_for(-0.2, temperature=0.1) == pytest.approx(math.exp(-1))


def test_an_entry_shifts_the_stationary_cosine_by_the_gap():
    # Two classes of one point each, twice: LDM exp(S / T) of a pair is unchanged if its cosine falls by the gap.
    temperature, entry = 0.3, 2.0
    gap = cosine_gap(entry, temperature=temperature)
    losses = []
    for value, cosine in ((1.0, 0.9), (entry, 0.9 - gap)):
        rows = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64).repeat(2, 1)
        ldm = torch.tensor([[1.0, value], [value, 1.0]], dtype=torch.float64)
        losses.append(
            label_distance_contrastive(rows, torch.tensor([0, 1, 0, 1]), ldm, temperature=temperature, weighting="log")
        )
    assert_close(*losses)


# Files


@brief
@given(relations(), st.sampled_from([".json", ".csv", ".tsv"]))
def test_a_relation_is_read_as_it_was_written(relation, suffix):
    names = ["ask", 'an "order"', "x, y", "多云", "5"][: relation.num_classes]
    relation = Relation(relation.closeness, class_names=names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"relation{suffix}"
        relation.to_file(path)
        assert torch.equal(Relation.from_file(path).closeness, relation.closeness)
        backwards = Relation.from_file(path, class_names=names[::-1])
    assert backwards.class_names == tuple(names[::-1])
    assert torch.equal(backwards.closeness, relation.closeness.flip(0, 1))


SEMICOLONS = """
;guns;hockey;politics;baseball
hockey;0;1;0;0
guns;1;0;1;0
politics;1;0;1;0
baseball;0;0;0;1
"""


@pytest.mark.parametrize(
    ("name", "text", "relation"),
    [
        ("r.json", {"order": NAMES}, Relation.from_order(class_names=NAMES)),
        ("r.json", {"hierarchy": TREE}, Relation.from_hierarchy(TREE, class_names=NAMES)),
        ("r.json", TREE, Relation.from_hierarchy(TREE, class_names=NAMES)),
        ("r.json", list(TREE.values()), Relation.from_hierarchy(list(TREE.values()), class_names=NAMES)),
        ("r.json", {"groups": {"sport": NAMES[2:]}}, Relation.from_groups([NAMES[2:]], class_names=NAMES)),
        ("r.json", {"groups": [NAMES[2:]]}, Relation.from_groups([NAMES[2:]], class_names=NAMES)),
        (
            "r.json",
            {"pairs": [NAMES[:2], [*NAMES[2:], 0.5]], "class_names": NAMES},
            Relation.from_pairs([NAMES[:2], (*NAMES[2:], 0.5)], class_names=NAMES),
        ),
        (
            "r.json",
            {"costs": [[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [4, 2, 1, 0]], "class_names": NAMES},
            Relation.from_costs([[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [4, 2, 1, 0]], class_names=NAMES),
        ),
        ("r.csv", SEMICOLONS, Relation.from_groups([NAMES[:2]], class_names=NAMES)),
    ],
)
def test_every_form_of_a_file_is_what_its_builder_makes(name, text, relation, tmp_path):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    assert torch.equal(Relation.from_file(path, class_names=NAMES).closeness, relation.closeness)


def test_classes_that_are_numbers_are_named_by_them(tmp_path):
    path = tmp_path / "r.json"
    for stored in ({"order": [1, 2, 3]}, {"pairs": [[1, 2, 0.5], [2, 3, 0.5]]}, [[1, 2], [3]]):
        path.write_text(json.dumps(stored))
        assert Relation.from_file(path, class_names=["1", "2", "3"]).between("1", "2") == 0.5


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("r.txt", "", "a relation is read from a .json, .csv or .tsv file."),
        ("r.json", "{", "line 1: not valid JSON: "),
        ("r.json", "[" * 100_000, "the JSON is nested too deeply."),
        ("r.json", "3", "a relation is a JSON object with one of closeness, distances, costs, order,"),
        ("r.json", '{"order": ["a", "b"], "order": []}', "the key 'order' stands twice in one JSON object."),
        ("r.json", '{"order": ["a", "b"], "pairs": []}', "beside 'order' there may be \"class_names\" alone, got"),
        ("r.json", '{"order": ["a", "bb"]}', "There is no class 'bb'; the classes are a, b. Did you mean 'b'?"),
        ("r.json", '{"order": ["a"]}', "it must relate every class, and 'b' is missing."),
        ("r.json", '{"order": ["a", "b", "a"]}', "Class names must be unique, 'a' stands more than once."),
        ("r.json", '{"order": "ab"}', 'class names must be a list of names, got "ab".'),
        ("r.json", '{"groups": 3}', '"groups" must be {"name": ["a", "b"]} or [["a", "b"]], got 3.'),
        ("r.json", '{"pairs": ["ab"]}', '"pairs" must be [["a", "b"], ["a", "c", 0.5]], got ["ab"].'),
        ("r.json", '{"pairs": [["a"]]}', "A pair is (a, b) or (a, b, closeness), got 1 entries: ('a',)."),
        ("r.json", '{"closeness": [[1]]}', "'closeness' needs \"class_names\" beside it, "),
        ("r.json", '{"closeness": [[1]], "class_names": ["a", "b"]}', "the table must have a row for each of the 2"),
        ("r.json", '{"closeness": [[1, 0], [1]], "class_names": ["a", "b"]}', "row 'b' of the table must have 2 "),
        (
            "r.json",
            '{"closeness": [[1, null], [1, 1]], "class_names": ["a", "b"]}',
            "row 'a' of the table has null, which is no number.",
        ),
        ("r.json", '{"closeness": [[1, 2], [1, 1]], "class_names": ["a", "b"]}', "Entries of closeness must lie in"),
        ("r.json", '{"a": ["a", "c"]}', "There is no class 'c'; the classes are a, b."),
        ("r.json", '{"a": {"b": 3}, "b": {"a": 10}}', "this reads like costs, {true class: {chosen class: cost}}. A"),
        ("r.json", '{"a": ["a"]}', "The hierarchy must hold every class, 'b' is missing."),
        ("r.csv", ",a,b\n", "the table must have class names in its first row and a row for each class."),
        ("r.csv", ",a,b\na,1,0\n", "rows and columns must name the same classes, and 'b' has no row."),
        ("r.csv", ",a,b\na,1\n", "row 'a' has 1 entries where the header names 2 classes."),
        ("r.csv", ",a,b\na,1,x\n", "row 'a', column 'b': 'x' is no number."),
        ("r.csv", ",a,b\na,1,0\na,1,0\n", "the class 'a' has more than one row."),
    ],
)
def test_a_file_that_is_no_relation_of_these_classes_is_one_sentence(name, text, sentence, tmp_path):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    message = refusal_of(ValueError, lambda: Relation.from_file(path, class_names=["a", "b"]))
    assert message.startswith(f"{path}: ")
    assert sentence in message


def test_a_file_that_cannot_be_read_or_written_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json cannot be read: No such file"):
        Relation.from_file(tmp_path / "none.json")
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"r\.json: byte 1 is not UTF-8"):
        Relation.from_file(tmp_path / "r.json")
    with pytest.raises(ValueError, match=r"r\.txt: a relation is written to a \.json, \.csv or \.tsv file"):
        Relation.from_order(num_classes=2).to_file(tmp_path / "r.txt")
    (tmp_path / "g.json").write_text('{"groups": [["a", "b"]]}')
    with pytest.raises(ValueError, match="'groups' does not name every class: give \"class_names\" beside it"):
        Relation.from_file(tmp_path / "g.json")


# What is refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Relation(torch.ones(2, 3)), "closeness must have shape (C, C) with C >= 1, got (2, 3)."),
        (lambda: Relation([[1, 2], [2, 1]]), "Entries of closeness must lie in [0, 1], got 2.0 at row 0, column 1."),
        (lambda: Relation([[1, -1], [0, 1]]), "Entries of closeness must be finite and non-negative, got -1.0"),
        (lambda: Relation([[1, math.nan], [0, 1]]), "Entries of closeness must be finite and non-negative, got nan"),
        (lambda: Relation([[0, 1], [1, 0]]), "The closeness of a class to itself must be 1, got 0.0 for class 0."),
        (lambda: Relation([[1.0]], class_names=["a", "b"]), "class_names must have 1 entries, got 2."),
        (lambda: Relation.from_pairs([("guns", "hokey")], class_names=NAMES), "Did you mean 'hockey'?"),
        (lambda: Relation.from_pairs([(0, 0)], num_classes=2), "two different classes, got '0' twice."),
        (lambda: Relation.from_pairs([(0,)], num_classes=2), "A pair is (a, b) or (a, b, closeness), got 1 entries"),
        (lambda: Relation.from_pairs([(0, 1, 5)], num_classes=2), "closeness must lie in [0, 1], got 5."),
        (lambda: Relation.from_groups([["hokey"]], class_names=NAMES), "Did you mean 'hockey'?"),
        (lambda: Relation.from_groups([[1, 1]], num_classes=2), "must name different classes, got '1' twice."),
        (lambda: Relation.from_groups([[0, 1]], num_classes=2, closeness=2), "closeness must lie in [0, 1], got 2."),
        (lambda: Relation.from_hierarchy(["guns", "politic"], class_names=NAMES), "Did you mean 'politics'?"),
        (lambda: Relation.from_names(["a.b", "a.c"]), "contains the separator ':': a.b, a.c. They contain '.'."),
        (lambda: Relation.from_names(["a", "b"]), "No class name contains the separator ':': a, b."),
        (lambda: Relation.from_names(["a"], separator=""), "separator must not be empty."),
        (lambda: Relation.from_order(), "Give class_names, or num_classes of at least 1"),
        (
            lambda: Relation.from_vectors(torch.ones(3)),
            "vectors must be floating point, (C, D), got torch.float32 (3,)",
        ),
        (lambda: Relation.from_vectors([[1.0], [0.0]], class_names=["a", "b"]), "that of class 'b' is not."),
        (
            lambda: Relation.from_label_texts(len, class_names=["fast"], texts={"fst": "quick"}),
            "texts must name classes, got 'fst'; the classes are fast. Did you mean 'fast'?",
        ),
        (
            lambda: Relation.from_label_texts(lambda texts: [[1.0]], class_names=["a", "b"]),
            "encode must return one vector for each of the 2 texts, (2, D), got (1, 1).",
        ),
        (lambda: Relation.from_confusion([[0.5, 0.5], [0, 1]]), "must be whole numbers of rows"),
        (
            lambda: Relation.from_costs([[1, 0], [0, 1]]),
            "cost of a class to itself must be 0, got 1.0 for class 0.",
        ),
        (lambda: Relation.from_costs([[0, 0], [0, 0]]), "costs must have an entry above 0, all are 0."),
        (lambda: Relation.from_costs([[0, -1], [0, 0]]), "Entries of costs must be finite and non-negative, got -1"),
        (lambda: Relation.from_distances([[0, 1], [2, 0]]), "distances must be symmetric, row 0, column 1 differs"),
        (lambda: Relation.from_distances([[0, 1]]), "distances must have shape (C, C) with C >= 1, got (1, 2)."),
        (lambda: Relation.from_order(num_classes=2).near(0), "max_distance must be a finite number above 0, got 0."),
        (lambda: Relation.from_order(num_classes=2).far(math.inf), "max_distance must be a finite number above 0"),
        (
            lambda: Relation.from_order(num_classes=2).relevance(weight=-1),
            "weight must be a finite number of at least",
        ),
        (lambda: Relation.from_order(num_classes=2).relevance(level=2), "level must lie in [0, 1], got 2."),
        (lambda: max_distance_for(3, temperature=1), "gap must lie in [-2, 2]"),
        (lambda: max_distance_for(2, temperature=0.005), "is too large for float32."),
        (lambda: max_distance_for(1, temperature=0), "temperature must be a finite number above 0, got 0."),
        (lambda: cosine_gap(0, temperature=1), "must be a finite number above 0, got 0."),
    ],
)
def test_bad_input_gets_one_sentence(build, message):
    assert message in refusal_of(ValueError, build)


@pytest.mark.parametrize("kind", [Relation, StaticLDM])
def test_what_is_no_pair_or_group_gets_one_sentence(kind):
    word = "closeness" if kind is Relation else "distance"
    for pair in (1, "ab"):
        assert f"A pair is (a, b) or (a, b, {word}), got {pair!r}." in refusal_of(
            TypeError, lambda pair=pair: kind.from_pairs([pair], class_names=["a", "b"])
        )
    for group in (1, "ab"):
        assert f"A group is a list of classes, got {group!r}." in refusal_of(
            TypeError, lambda group=group: kind.from_groups([group], class_names=["a", "b"])
        )


@pytest.mark.parametrize("kind", [Relation, StaticLDM])
def test_groups_may_have_names(kind):
    named, listed = (
        kind.from_groups(groups, class_names=NAMES)
        for groups in ({"sport": ["baseball", "hockey"]}, [["baseball", "hockey"]])
    )
    table = "closeness" if kind is Relation else "matrix"
    assert torch.equal(getattr(named, table), getattr(listed, table))


def test_a_relation_in_place_of_a_table_is_told_with_the_cure():
    relation = Relation.from_order(num_classes=3)
    with pytest.raises(TypeError, match=r"must be a \(C, C\) table, got Relation\. Give the matrix that its near\(\)"):
        LabelDistanceContrastiveLoss(relation)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got Relation\. Give the table that its relevance\(\) returns\."):
        LabelDistanceContrastiveLoss(relation.near(), relevance=relation)  # type: ignore[arg-type]
