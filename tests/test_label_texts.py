"""Label texts: class names as people would write them, and one row a class."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist import label_text_rows
from labeldist.label_texts import name_as_text, names_without_meaning

words = st.text(st.characters(categories=["Ll", "Lo"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card_arrival", "card arrival"),
        ("comp.sys.ibm.pc.hardware", "comp sys ibm pc hardware"),
        ("DESC:manner", "DESC manner"),
        ("orderStatus", "order status"),
        ("HTTPServerError", "HTTP server error"),
        ("very positive", "very positive"),
        ("/m/topics/Sports", "m topics Sports"),
        ("配送_速度", "配送 速度"),
        ("___", "___"),
    ],
)
def test_names_are_opened_at_separators_and_in_camel_case(name, text):
    assert name_as_text(name) == text


@given(parts=st.lists(words, min_size=1, max_size=5), separator=st.sampled_from("_-./:|>"))
def test_separators_become_spaces_and_nothing_else_changes(parts, separator):
    assert name_as_text(separator.join(parts)) == " ".join(parts)


@given(parts=st.lists(words, min_size=1, max_size=5))
def test_an_opened_name_stays_as_it_is(parts):
    text = name_as_text(" ".join(parts))
    assert name_as_text(text) == text


def test_codes_numbers_and_abbreviations_say_nothing():
    mute = ["NUM", "3", "x7", "-1", "class_2", "Label 10", "c", "DESC", "xzq", "__"]
    telling = ["earn", "card_arrival", "NUM:dist", "very positive", "正", "да", "مدح", "comp.graphics"]
    assert names_without_meaning([*mute, *telling]) == mute


@given(names=st.lists(words, min_size=1, max_size=6, unique_by=name_as_text))
def test_names_give_one_row_a_class(names):
    assert label_text_rows(names) == ([name_as_text(name) for name in names], list(range(len(names))))


@given(st.data())
def test_a_mapping_gives_each_class_its_sentences_in_order(data):
    names = data.draw(st.lists(words, min_size=1, max_size=4, unique=True))
    sentences = data.draw(st.lists(words, min_size=len(names), max_size=12, unique=True))
    given_texts = {name: sentences[index :: len(names)] for index, name in enumerate(names)}
    texts, labels = label_text_rows(names, given_texts)
    assert sorted(texts) == sorted(sentences)
    assert labels == sorted(labels)
    assert {name: [t for t, label in zip(texts, labels, strict=True) if names[label] == name] for name in names} == (
        given_texts
    )


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"fast": "a", "slw": "b"}, "label texts must be of the classes, got 'slw'. Did you mean 'slow'?"),
        ({"fast": "a"}, "label texts must have one for each class, and 1 of 2 has none (slow)."),
        ({"fast": "a", "slow": []}, "label texts must have one for each class, and 1 of 2 has none (slow)."),
        ({"fast": "a", "slow": " "}, "label texts must not be empty, got ' ' for 'slow'."),
        ({"fast": "a", "slow": [3]}, "label texts must not be empty, got 3 for 'slow'."),
        ({"fast": "a", "slow": ["b", "a"]}, "label texts must tell the classes apart, got 'a' for 'fast' and 'slow'."),
    ],
)
def test_texts_that_do_not_fit_the_classes_are_told(texts, sentence):
    with pytest.raises(ValueError, match="label texts") as caught:
        label_text_rows(["fast", "slow"], texts)
    assert str(caught.value) == sentence


def test_names_that_would_be_written_alike_stay_as_they_are():
    names = ["C", "C++", "-1", "1", "card_lost"]
    assert label_text_rows(names) == (["C", "C++", "-1", "1", "card lost"], [0, 1, 2, 3, 4])


@given(st.data())
def test_each_form_gives_each_text_a_row_of_its_class(data):
    names = data.draw(st.lists(words, min_size=1, max_size=4, unique_by=name_as_text))
    forms = data.draw(st.lists(st.sampled_from(["{}", "It is {}.", "{} {}"]), min_size=1, max_size=3, unique=True))
    plain, plain_labels = label_text_rows(names)
    texts, labels = label_text_rows(names, forms=forms)
    assert labels == [label for label in plain_labels for _ in forms]
    assert texts == [form.replace("{}", text) for text in plain for form in forms]


@pytest.mark.parametrize(
    ("forms", "sentence"),
    [
        (["It is"], "forms of label texts must contain {} in the place of the text, got 'It is'."),
        ([3], "forms of label texts must contain {} in the place of the text, got 3."),
        ([], "forms of label texts must be a list of at least one, got []."),
        ("{}", "forms of label texts must be a list of at least one, got '{}'."),
        (["{}", "not {}"], "label texts must tell the classes apart, got 'not fast' for 'fast' and 'not_fast'."),
    ],
)
def test_forms_that_do_not_fit_are_told(forms, sentence):
    with pytest.raises(ValueError, match="label texts") as caught:
        label_text_rows(["fast", "not_fast"], forms=forms)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("names", "texts", "sentence"),
    [
        (["0", "1"], {0: "a", 1: "b"}, "class names must be strings, got 0. Write '0'."),
        ([0, 1], None, "class names must be strings, got 0. Write '0'."),
        (["0", "1"], {"0": 3, "1": "b"}, "label texts must be one sentence or a list of them, got 3 for '0'."),
        (["0", "1"], {"0": None, "1": "b"}, "label texts must be one sentence or a list of them, got None for '0'."),
        (["0", "1"], {"0": {"a"}, "1": "b"}, "label texts must be one sentence or a list of them, got {'a'} for '0'."),
        (
            ["0", "1"],
            {"0": {"a": 1}, "1": "b"},
            "label texts must be one sentence or a list of them, got {'a': 1} for '0'.",
        ),
    ],
)
def test_what_is_no_text_or_no_name_is_told(names: Any, texts: Any, sentence):
    with pytest.raises(TypeError) as caught:
        label_text_rows(names, texts)
    assert str(caught.value) == sentence


def test_names_that_read_alike_are_told():
    with pytest.raises(ValueError, match="got 'a b' for 'a b' and 'A b' for 'A b'"):
        label_text_rows(["a b", "A b"])


@pytest.mark.parametrize("other", ["Card arrival", "card  arrival", " card arrival", "card\u00a0arrival"])
def test_texts_that_differ_in_case_or_spaces_alone_are_told(other):
    with pytest.raises(ValueError, match=r"got 'card arrival' for 'a' and .* for 'b'"):
        label_text_rows(["a", "b"], {"a": "card arrival", "b": ["lost", other]})
    # Within a class they do no harm.
    assert label_text_rows(["a"], {"a": ["card arrival", other]})[1] == [0, 0]
