"""The demo corpus has the documented properties, and words alone do not predict its labels."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from labeldist.demo import CLASS_NAMES, NOISE_RATE, Message, generate, load

NUM_TRAIN, NUM_TEST = 4000, 1000
ROWS_OF_SEED_0 = "c4448fdd9e68b52eb5612bd9233b04bc1dae3fb6ef79532e67d3adfc49e0973e"


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return generate(NUM_TRAIN + NUM_TEST, seed=0)


def _tokens(text: str) -> list[str]:
    """Words, single Chinese characters and punctuation marks."""
    return re.findall(r"[a-z']+|[\u4e00-\u9fff]|[^\sa-z]", text.lower())


def _plain(message: Message) -> str:
    return message.sentence.rstrip("?")


def _num_moved_labels(messages: list[Message], language: str, pattern: str, replacement: str) -> int:
    """Number of sentences with another sentence in the corpus that is one edit away and has another clean label."""
    of_language = [message for message in messages if message.language == language]
    label_of = {message.sentence: message.clean_label for message in of_language}
    moved = 0
    for message in of_language:
        twin = re.sub(pattern, replacement, message.sentence, count=1)
        moved += twin != message.sentence and label_of.get(twin, message.clean_label) != message.clean_label
    return moved


def test_equal_seeds_give_equal_messages():
    assert generate(300, seed=5) == generate(300, seed=5)
    assert generate(300, seed=5) != generate(300, seed=6)


def test_the_corpus_is_the_same_on_every_python_version():
    rows = "\n".join(f"{row['text']}\t{row['label']}" for split in load() for row in split)
    assert hashlib.sha256(rows.encode()).hexdigest() == ROWS_OF_SEED_0


def test_load_returns_the_requested_number_of_rows():
    train, test = load()
    assert (len(train), len(test)) == (NUM_TRAIN, NUM_TEST)
    train, test = load(num_train=7, num_test=0, seed=3)
    assert (len(train), len(test)) == (7, 0)
    assert all(row.keys() == {"text", "label"} for row in train)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 97])
def test_generate_returns_the_requested_number_of_messages(num_rows: int):
    assert len(generate(num_rows, seed=1)) == num_rows


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="num_rows must be >= 0, got -1"):
        generate(-1, seed=0)
    with pytest.raises(ValueError, match="num_train and num_test must be >= 0, got -1 and 5"):
        load(num_train=-1, num_test=5)


def test_every_class_occurs_in_both_languages_and_both_splits(messages: list[Message]):
    for split in (messages[:NUM_TRAIN], messages[NUM_TRAIN:]):
        for language in ("en", "zh"):
            of_language = [message for message in split if message.language == language]
            assert {message.label for message in of_language} == set(CLASS_NAMES)
            assert 0.45 < len(of_language) / len(split) < 0.55


def test_class_sizes_are_mildly_imbalanced(messages: list[Message]):
    sizes = Counter(message.label for message in messages).values()
    assert 1.5 < max(sizes) / min(sizes) < 4


def test_no_test_text_occurs_in_train(messages: list[Message]):
    train, test = load()
    assert {row["text"].casefold() for row in train}.isdisjoint(row["text"].casefold() for row in test)

    def keys(split: list[Message]) -> set[tuple[str, str]]:
        return {("".join(filter(str.isalnum, m.sentence.casefold())), m.clean_label) for m in split}

    assert keys(messages[:NUM_TRAIN]).isdisjoint(keys(messages[NUM_TRAIN:]))


def test_the_noise_is_as_documented(messages: list[Message]):
    for split in (messages[:NUM_TRAIN], messages[NUM_TRAIN:]):
        rate = np.mean([message.label != message.clean_label for message in split])
        # four standard errors
        assert abs(rate - NOISE_RATE) < 4 * (NOISE_RATE * (1 - NOISE_RATE) / len(split)) ** 0.5
    wrong = [message for message in messages if message.label != message.clean_label]
    same_topic = np.mean([m.label.split("_")[0] == m.clean_label.split("_")[0] for m in wrong])
    assert 0.6 < same_topic < 0.85


@pytest.mark.parametrize(
    ("language", "pattern", "replacement"),
    [
        pytest.param("en", r" not ", " ", id="en-negation"),
        pytest.param("en", r"\?$", "", id="en-question-mark"),
        pytest.param("en", r"\bwill (.*) (arrive|ship)\b", r"did \1 \2", id="en-tense"),
        pytest.param("zh", r"不", "很", id="zh-negation"),
        pytest.param("zh", r"\?$", "", id="zh-question-mark"),
        pytest.param("zh", r"吗$", "", id="zh-question-particle"),
        pytest.param("zh", r"就(.*)了$", r"才\1", id="zh-early-or-late"),
    ],
)
def test_one_edit_changes_the_label(messages: list[Message], language: str, pattern: str, replacement: str):
    assert _num_moved_labels(messages, language, pattern, replacement) >= 3


def test_the_same_words_in_another_order_have_another_label(messages: list[Message]):
    labels_of: dict[tuple[str, ...], set[str]] = {}
    for message in messages:
        labels_of.setdefault(tuple(sorted(_tokens(_plain(message)))), set()).add(message.clean_label)
    assert sum(len(labels) > 1 for labels in labels_of.values()) >= 50


def test_sentences_contain_no_template_syntax(messages: list[Message]):
    for message in messages:
        assert not re.search(r"[\[\]{}|]|  |\?\?|,,", message.text)
        assert message.text == message.text.strip()
        assert 2 <= len(message.text) <= 160


@pytest.mark.parametrize("model_name", ["logistic regression", "naive Bayes"])
def test_a_bag_of_words_stays_far_below_the_noise_ceiling(model_name: str):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB

    train, test = load()
    vectorizer = CountVectorizer(tokenizer=_tokens, token_pattern=None, lowercase=False)  # pyright: ignore[reportArgumentType]
    counts = vectorizer.fit_transform(row["text"] for row in train)
    model = LogisticRegression(max_iter=500) if model_name == "logistic regression" else MultinomialNB()
    model.fit(counts, [row["label"] for row in train])
    accuracy = model.score(vectorizer.transform(row["text"] for row in test), [row["label"] for row in test])
    assert 0.3 < accuracy < 0.75
