"""A corpus of customer messages made by a grammar, in English and Chinese: for learning and tests, never for claims.

A negation, a question mark, a tense or the order of two clauses moves the label, as in Table I of Lan et al.,
"Contrastive Learning with Label Distance for Text Classification": 发货非常快 and 发货不慢 praise the delivery,
发货到底快不快 asks about it. The same words stand under every label, so a bag of words does badly.

The grammar draws a topic (delivery, refund, product), an act and a language, then a way to say it:

- praise, complaint: a judgement ("the refund was slow"), its denied opposite ("wasn't fast at all"), an expectation
  that was met or not, two clauses on two topics, a contrast of two topics, or something that happened or did not.
  The main clause decides, and after "but" the last one: "although the refund was slow, the delivery was fast" is
  `delivery_praise`.
- question: asks how things are in general or what will be: "is delivery fast?", "will my parcel arrive today?".
- status: asks what has already happened to one order: "has my parcel arrived?". Products have no status.

About half the messages carry a greeting, a thank-you, lower case, a missing final mark or a typing error.
A share `NOISE_RATE` of the labels, in the training and test rows alike, is wrong: 70 % of these carry another act on
the same topic, 20 % the same act on another topic, the rest any other class. So no honest model passes
`1 - NOISE_RATE` by much.
"""

from typing import Literal, NamedTuple

from labeldist.demo.chinese import CHINESE
from labeldist.demo.english import ENGLISH
from labeldist.demo.grammar import Draw, write

__all__ = ["CLASS_NAMES", "NOISE_RATE", "Message", "generate", "load"]

CLASS_NAMES = (
    "delivery_praise",
    "delivery_complaint",
    "delivery_question",
    "delivery_status",
    "refund_praise",
    "refund_complaint",
    "refund_question",
    "refund_status",
    "product_praise",
    "product_complaint",
    "product_question",
)
"""Every label, grouped by topic."""

NOISE_RATE = 0.04
"""The probability that a message carries a wrong label."""

_LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
_TOPIC_WEIGHTS = {"delivery": 0.42, "refund": 0.33, "product": 0.25}
_ACT_WEIGHTS = {"complaint": 0.32, "praise": 0.27, "question": 0.23, "status": 0.18}
_MAX_REPEATS = 1000
_FULL_WIDTH = {ord(mark): ord(mark) + 0xFEE0 for mark in ",?!"}


class Message(NamedTuple):
    """One message of the corpus.

    Attributes:
        text: what the customer wrote.
        label: the class it carries in the corpus, wrong with probability `NOISE_RATE`.
        clean_label: the class that the grammar meant.
        language: "en" or "zh".
        sentence: the text before greetings, thanks and typing errors were added.
    """

    text: str
    label: str
    clean_label: str
    language: Literal["en", "zh"]
    sentence: str


def generate(num_rows: int, *, seed: int) -> list[Message]:
    """Draws messages; no two say the same sentence under the same meaning.

    Letter case, punctuation, greetings and typing errors do not make a sentence another one.

    Args:
        num_rows: how many, >= 0.
        seed: any integer; equal seeds give equal messages on every Python version.

    Returns:
        The messages in random order, about half of each language.

    Raises:
        ValueError: if `num_rows` is negative or more than the grammar can say.

    Examples:
        >>> messages = generate(3, seed=0)
        >>> len(messages), messages == generate(3, seed=0)
        (3, True)
    """
    if num_rows < 0:
        raise ValueError(f"num_rows must be >= 0, got {num_rows}.")
    draw = Draw(seed)
    messages: list[Message] = []
    seen: set[tuple[str, str]] = set()
    repeats = 0
    while len(messages) < num_rows:
        message = _message(draw)
        key = (_letters(message.sentence), message.clean_label)
        if key not in seen:
            seen.add(key)
            messages.append(message)
            repeats = 0
        elif (repeats := repeats + 1) == _MAX_REPEATS:
            raise ValueError(
                f"num_rows must be at most what the grammar can say, about {len(messages)}, got {num_rows}."
            )
    # later draws are longer, since the short sentences run out first
    return draw.shuffled(messages)


def load(
    *, num_train: int = 4000, num_test: int = 1000, seed: int = 0
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The demo corpus: training and test rows that share no sentence.

    Args:
        num_train: number of training rows.
        num_test: number of test rows.
        seed: as in `generate`.

    Returns:
        The training rows and the test rows, each row `{"text": ..., "label": ...}`.

    Raises:
        ValueError: as in `generate`.

    Examples:
        >>> train, test = load()
        >>> len(train), len(test), sorted(train[0])
        (4000, 1000, ['label', 'text'])
    """
    if num_train < 0 or num_test < 0:
        raise ValueError(f"num_train and num_test must be >= 0, got {num_train} and {num_test}.")
    rows = [{"text": message.text, "label": message.label} for message in generate(num_train + num_test, seed=seed)]
    return rows[:num_train], rows[num_train:]


def _message(draw: Draw) -> Message:
    topic = draw.weighted(_TOPIC_WEIGHTS)
    act = draw.weighted({name: w for name, w in _ACT_WEIGHTS.items() if f"{topic}_{name}" in CLASS_NAMES})
    language = draw.pick(("en", "zh"))
    sentence = write(draw, _LANGUAGES[language], topic, act)
    # a question that is followed by its reason ends like a statement
    is_asked = act in ("question", "status") and "?" not in sentence
    text = (
        _dressed_english(draw, sentence, is_asked) if language == "en" else _dressed_chinese(draw, sentence, is_asked)
    )
    clean_label = f"{topic}_{act}"
    label = _other_label(draw, clean_label) if draw.chance(NOISE_RATE) else clean_label
    return Message(text, label, clean_label, language, sentence)


def _letters(sentence: str) -> str:
    """The sentence without case, spaces and punctuation."""
    return "".join(filter(str.isalnum, sentence.casefold()))


def _other_label(draw: Draw, label: str) -> str:
    """A wrong label: 70 % another act on the topic, 20 % the act on another topic, 10 % any class."""
    topic, act = label.split("_")
    others = [name for name in CLASS_NAMES if name != label]
    same_topic = [name for name in others if name.startswith(topic)]
    same_act = [name for name in others if name.endswith(act)]
    return draw.pick(draw.weighted({tuple(same_topic): 0.7, tuple(same_act): 0.2, tuple(others): 0.1}))


def _dressed_english(draw: Draw, sentence: str, is_asked: bool) -> str:
    """Adds a final mark, perhaps a greeting or thanks, perhaps all in lower case or with a typing error."""
    if not sentence.endswith("?"):
        sentence += draw.weighted({"?": 0.65, "": 0.35}) if is_asked else draw.weighted({".": 0.6, "!": 0.1, "": 0.3})
    first, mark, second = sentence.partition("? ")
    sentence = first + mark + second[:1].upper() + second[1:]
    text = sentence[0].upper() + sentence[1:]
    greeting = draw.weighted({"": 0.75, "Hi, ": 0.1, "Hello, ": 0.1, "Hi there, ": 0.05})
    # "I" keeps its capital after a greeting
    text = greeting + (sentence if greeting and not sentence.startswith("I ") else text)
    closing = draw.weighted({"": 0.85, " Thanks.": 0.1, " Thank you!": 0.05})
    text = text + closing if text[-1] in ".!?" else text
    if draw.chance(0.35):
        text = text.lower()
    if draw.chance(0.1):
        text = text.replace("'", "")
    return _with_typing_error(draw, text) if draw.chance(0.05) else text


def _with_typing_error(draw: Draw, text: str) -> str:
    """Swaps two neighbouring letters within one word."""
    starts = [i for i in range(1, len(text) - 2) if text[i - 1 : i + 2].isalpha() and text[i : i + 2].islower()]
    if not starts:
        return text
    i = draw.pick(starts)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def _dressed_chinese(draw: Draw, sentence: str, is_asked: bool) -> str:
    """Adds a final mark, perhaps a greeting or thanks, perhaps with half-width punctuation."""
    if not sentence.endswith("?"):
        sentence += draw.weighted({"?": 0.6, "": 0.4}) if is_asked else draw.weighted({"。": 0.45, "!": 0.1, "": 0.45})
    greeting = draw.weighted({"": 0.76, "你好,": 0.12, "亲,": 0.06, "客服你好,": 0.06})
    closing = draw.weighted({"": 0.88, "谢谢!": 0.06, "谢谢": 0.06})
    text = greeting + sentence + (closing if sentence[-1] in "?。!" else "")
    return text if draw.chance(0.2) else text.translate(_FULL_WIDTH)
