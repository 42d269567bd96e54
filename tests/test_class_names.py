"""Classes by name or index."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.class_names import class_index, class_indices, look_alikes, nearest_name, resolve_names
from strategies import brief, refusal_of

NAMES = ("fast", "not slow", "发货快", "Question")


def test_a_class_is_found_by_name_and_by_index():
    assert [class_index(name, NAMES) for name in NAMES] == [0, 1, 2, 3]
    assert [class_index(index, NAMES) for index in range(4)] == [0, 1, 2, 3]


def test_an_index_may_come_from_numpy():
    assert class_index(np.int64(2), NAMES) == 2


@pytest.mark.parametrize(
    ("typed", "offered"), [("fsat", "fast"), ("Questoin", "Question"), ("not-slow", "not slow"), ("发货慢", "发货快")]
)
def test_an_unknown_name_is_answered_by_the_nearest_one(typed, offered):
    assert refusal_of(ValueError, class_index, typed, NAMES) == (
        f"There is no class {typed!r}; the classes are fast, not slow, 发货快, Question. Did you mean {offered!r}?"
    )


COMPOSED, DECOMPOSED = "r\u00e9clamation", "re\u0301clamation"


@pytest.mark.parametrize(
    ("typed", "known", "difference"),
    [
        ("question", "Question", "case"),
        ("STRASSE", "straße", "case"),
        (DECOMPOSED, COMPOSED, "Unicode form (decomposed and composed accents)"),
        (COMPOSED, DECOMPOSED, "Unicode form (composed and decomposed accents)"),
        ("late", "late\u200b", "invisible characters (U+200B)"),
        ("late\ufe0f", "late", "invisible characters (U+FE0F)"),
        ("\u202elate", "late", "invisible characters (U+202E)"),
        ("not slow", "not\u00a0slow", "spaces"),
        ("not  slow", "not slow", "spaces"),
        ("ＡＢ", "AB", "compatibility characters such as full-width letters"),
        (DECOMPOSED.upper() + "\u200b", COMPOSED,
         "case and Unicode form (decomposed and composed accents) and invisible characters (U+200B)"),
    ],
)  # fmt: skip
def test_a_name_that_looks_the_same_is_offered_with_what_it_differs_in(typed, known, difference):
    clause = nearest_name(typed, ["other", known])
    assert clause.endswith(f"They differ only in {difference}.")
    assert look_alikes(["other", known, typed]) == [(known, typed, difference.replace(*turned(typed, known)))]


def turned(typed: str, known: str) -> tuple[str, str]:
    """The forms are named in the order of the names."""
    forms = ["composed", "decomposed"]
    first, second = forms if unicodedata.is_normalized("NFC", known) else forms[::-1]
    return f"{second} and {first}", f"{first} and {second}"


def test_names_that_look_different_are_no_look_alikes():
    assert look_alikes(["a", "b", "not slow", "slow", "不慢", "慢", "Straße", "Strase", "a"]) == []


def test_a_message_shows_names_escaped_and_cut():
    message = refusal_of(ValueError, class_index, "\x1b[2J" + "b" * 100_000, ["a\x9b\u202e", "c" * 100_000])
    assert len(message) < 400
    assert message.isprintable()
    assert "There is no class '\\x1b[2Jbbb" in message
    assert "the classes are a\\x9b\\u202e, ccc" in message


def test_many_classes_are_looked_up_as_one_is():
    assert class_indices(["Question", 1, np.int64(2), "fast"], NAMES) == [3, 1, 2, 0]
    for wrong in ("fsat", -1, 4):
        assert refusal_of(ValueError, class_indices, [0, wrong], NAMES) == refusal_of(
            ValueError, class_index, wrong, NAMES
        )


def test_a_name_like_no_other_is_answered_without_an_offer():
    message = refusal_of(ValueError, class_index, "zzz", NAMES)
    assert message == "There is no class 'zzz'; the classes are fast, not slow, 发货快, Question."
    assert nearest_name("zzz", NAMES) == ""


def test_a_long_list_of_classes_is_cut():
    with pytest.raises(ValueError, match=r"the classes are c0, .*, c9, \.\.\.\. Did you mean"):
        class_index("c99", [f"c{i}" for i in range(50)])


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_out_of_range_is_refused(index):
    assert refusal_of(ValueError, class_index, index, NAMES) == f"A class index must lie in [0, 4), got {index}."


def test_names_are_kept_and_numbers_stand_in_for_them():
    assert resolve_names(["b", "a"], None) == ("b", "a")
    assert resolve_names(["b", "a"], 2) == ("b", "a")
    assert resolve_names(None, 3) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("class_names", "num_classes", "sentence"),
    [
        (None, None, "Give class_names, or num_classes of at least 1; got num_classes=None."),
        (None, 0, "Give class_names, or num_classes of at least 1; got num_classes=0."),
        (["a", "b"], 3, "class_names must have 3 entries, got 2."),
        ([], None, "class_names must have at least 1 entries, got 0."),
        (["a", "b", "a"], None, "Class names must be unique, 'a' stands more than once."),
    ],
)
def test_names_that_do_not_fit_are_answered_by_one_sentence(class_names, num_classes, sentence):
    assert refusal_of(ValueError, resolve_names, class_names, num_classes) == sentence


@brief
@given(st.lists(st.text(max_size=5), min_size=1, max_size=6, unique=True), st.text(max_size=5))
def test_any_text_is_found_or_refused_with_one_sentence(names, typed):
    if typed in names:
        assert names[class_index(typed, names)] == typed
    else:
        with pytest.raises(ValueError, match="There is no class"):
            class_index(typed, names)
