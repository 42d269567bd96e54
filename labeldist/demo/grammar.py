"""Generation of sentences: a reproducible random source, and the procedure that combines the tables of a language."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")
_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")

# Probability of each sentence style, for each act. `Language.templates` holds the sentences of each style.
_STYLES = {
    "praise": {"plain": 0.40, "turn": 0.13, "contrast": 0.12, "shared": 0.07, "event": 0.28},
    "complaint": {"plain": 0.40, "turn": 0.13, "contrast": 0.12, "shared": 0.07, "event": 0.28},
    "question": {"plain": 0.22, "turn": 0.20, "contrast": 0.17, "shared": 0.09, "event": 0.32},
    "status": {"event": 1.0},
}


class Draw:
    """Random choices from a seed, with the same results on every Python version.

    Uses only `random.Random.random`, the one method whose sequence Python guarantees.

    Args:
        seed: any integer.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        """Return `True` with the given probability."""
        return self._random.random() < probability

    def pick(self, options: Sequence[_T]) -> _T:
        """Return one of the options, all with equal probability."""
        return options[int(self._random.random() * len(options))]

    def weighted(self, weights: Mapping[_T, float]) -> _T:
        """Return one of the keys, with probability proportional to its weight."""
        remaining = self._random.random() * sum(weights.values())
        for option, weight in weights.items():
            remaining -= weight
            if remaining < 0:
                return option
        # Rounding can leave a remainder of one ulp.
        return next(reversed(list(weights)))

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """Return the items in random order."""
        keys = [self._random.random() for _ in items]
        return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


@dataclass(frozen=True)
class Pair:
    """A positive adjective and its opposite.

    Attributes:
        good: the positive word.
        bad: the negative word.
        good_form: comparative (English) or A-not-A question form (Chinese) of the positive word.
        bad_form: the same form of the negative word.
    """

    good: str
    bad: str
    good_form: str
    bad_form: str


@dataclass(frozen=True)
class Topic:
    """The words of a topic.

    Attributes:
        subjects: subjects of judgments ("the delivery" was slow).
        pairs: adjectives for these subjects.
        things: subjects of events ("my parcel" has arrived).
        verbs: events in chronological order, each as base form, past participle and past tense; Chinese repeats one
            form.
    """

    subjects: tuple[str, ...]
    pairs: tuple[Pair, ...]
    things: tuple[str, ...]
    verbs: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Language:
    """The tables of one language.

    A template has fields in braces and random choices written as `[one|other]`. The fields are: `{S}` a subject; `{A}`
    an adjective with the drawn polarity, `{O}` its opposite; `{gA}`, `{gO}` the same with a degree ("very slow");
    `{fA}`, `{fO}` their second forms; `{C}` a whole judgment on the topic; `{E}` a thing; `{base}`, `{pp}`, `{past}`
    the forms of a verb; `{first_pp}` and `{last_base}` the first and the last verb of the topic. `{S2}` and `{E2}` are
    a subject and a thing of another topic, `{C2}` is an opposite judgment on another topic.

    Attributes:
        topics: the topics, by name.
        common_pairs: adjectives for all topics.
        degrees: templates of degrees, with `{A}` for the adjective.
        undegreed: adjectives that take no degree.
        templates: sentences, by style; `write` and `_judgment` show the keys.
        events: sentences about events, by topic and act.
    """

    topics: Mapping[str, Topic]
    common_pairs: tuple[Pair, ...]
    degrees: tuple[str, ...]
    undegreed: frozenset[str]
    templates: Mapping[str, tuple[str, ...]]
    events: Mapping[str, Mapping[str, tuple[str, ...]]]


def write(draw: Draw, language: Language, topic: str, act: str) -> str:
    """Generate a sentence. It has a final punctuation mark only if the mark decides the act.

    Args:
        draw: source of randomness.
        language: tables of the language.
        topic: one of `language.topics`.
        act: "praise", "complaint", "question" or "status".

    Returns:
        The sentence, not capitalized.
    """
    style = draw.weighted(_STYLES[act])
    other = draw.pick([name for name in language.topics if name != topic])
    if style == "event":
        return _fill(draw, draw.pick(language.events[topic][act]), _event_fields(draw, language, topic, other))
    is_good = draw.chance(0.6) if act == "question" else act == "praise"
    if style == "plain" and act != "question":
        return _judgment(draw, language, topic, is_good=is_good)
    key = style if act != "question" else f"question_{style}"
    if style == "shared":
        pair = draw.pick(_shared_pairs(language, topic, other))
    else:
        pair = draw.pick(language.topics[topic].pairs + language.common_pairs)
    fields = _judgment_fields(draw, language, topic, pair, is_good=is_good)
    fields["S2"] = draw.pick(language.topics[other].subjects)
    fields["C"] = _judgment(draw, language, topic, is_good=is_good, is_short=True)
    fields["C2"] = _judgment(draw, language, other, is_good=not is_good, is_short=True)
    return _fill(draw, draw.pick(language.templates[key]), fields)


def _judgment(draw: Draw, language: Language, topic: str, *, is_good: bool, is_short: bool = False) -> str:
    """A positive or negative clause on a topic, stated directly or as a negated opposite; short within a longer one."""
    way = draw.weighted({"affirm": 0.85, "deny": 0.15} if is_short else {"affirm": 0.62, "deny": 0.34, "rare": 0.04})
    rare = "rare_praise" if is_good else "rare_complaint"
    key = rare if way == "rare" else f"short_{way}" if is_short else way
    pair = draw.pick(language.topics[topic].pairs + language.common_pairs)
    fields = _judgment_fields(draw, language, topic, pair, is_good=is_good)
    return _fill(draw, draw.pick(language.templates[key]), fields)


def _judgment_fields(draw: Draw, language: Language, topic: str, pair: Pair, *, is_good: bool) -> dict[str, str]:
    wanted, opposite = (pair.good, pair.good_form), (pair.bad, pair.bad_form)
    if not is_good:
        wanted, opposite = opposite, wanted
    return {
        "S": draw.pick(language.topics[topic].subjects),
        "A": wanted[0],
        "O": opposite[0],
        "fA": wanted[1],
        "fO": opposite[1],
        "gA": _with_degree(draw, language, wanted[0]),
        "gO": _with_degree(draw, language, opposite[0]),
    }


def _with_degree(draw: Draw, language: Language, word: str) -> str:
    degree = draw.pick(language.degrees)
    return word if word in language.undegreed else degree.format(A=word)


def _shared_pairs(language: Language, first: str, second: str) -> tuple[Pair, ...]:
    """Adjectives that fit both topics."""
    of_second = language.topics[second].pairs
    return language.common_pairs + tuple(pair for pair in language.topics[first].pairs if pair in of_second)


def _event_fields(draw: Draw, language: Language, topic: str, other: str) -> dict[str, str]:
    verbs = language.topics[topic].verbs
    base, participle, past = draw.pick(verbs)
    return {
        "E": draw.pick(language.topics[topic].things),
        "E2": draw.pick(language.topics[other].things),
        "base": base,
        "pp": participle,
        "past": past,
        "first_pp": verbs[0][1],
        "last_base": verbs[-1][0],
    }


def _fill(draw: Draw, template: str, fields: Mapping[str, str]) -> str:
    """Resolve choices such as `[one|other]`, then insert the fields. Brackets in the fields' text stay as they are."""
    return _ALTERNATIVES.sub(lambda match: draw.pick(match[1].split("|")), template).format(**fields)
