"""How a message is drawn: a repeatable source of choices, and the order in which the tables of a language are used."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")
_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")

# How often a message of each act is built in each way; `Language.templates` holds the sentences of each way.
_STYLES = {
    "praise": {"plain": 0.40, "turn": 0.13, "contrast": 0.12, "shared": 0.07, "event": 0.28},
    "complaint": {"plain": 0.40, "turn": 0.13, "contrast": 0.12, "shared": 0.07, "event": 0.28},
    "question": {"plain": 0.22, "turn": 0.20, "contrast": 0.17, "shared": 0.09, "event": 0.32},
    "status": {"event": 1.0},
}


class Draw:
    """Random choices from one seed, the same on every Python version.

    Only `random.Random.random` is used: the one method whose sequence Python promises to keep.

    Args:
        seed: any integer.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def pick(self, options: Sequence[_T]) -> _T:
        """One of the options, all equally likely."""
        return options[int(self._random.random() * len(options))]

    def weighted(self, weights: Mapping[_T, float]) -> _T:
        """One key, with probability proportional to its weight."""
        remaining = self._random.random() * sum(weights.values())
        for option, weight in weights.items():
            remaining -= weight
            if remaining < 0:
                return option
        # rounding can leave a remainder of one ulp
        return next(reversed(list(weights)))

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """The items in a random order."""
        keys = [self._random.random() for _ in items]
        return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


@dataclass(frozen=True)
class Pair:
    """A word of praise and its opposite.

    Attributes:
        good: the praising word.
        bad: the blaming word.
        good_form: its comparative (English) or its A-not-A question form (Chinese).
        bad_form: the same for the blaming word.
    """

    good: str
    bad: str
    good_form: str
    bad_form: str


@dataclass(frozen=True)
class Topic:
    """What a topic is called, what can be said of it and what can happen to it.

    Attributes:
        subjects: what is judged ("the delivery was slow").
        pairs: the words of judgement that suit these subjects.
        things: to what something happens ("my parcel has arrived").
        verbs: base form, past participle and past tense, in the order in which they happen; Chinese repeats one form.
    """

    subjects: tuple[str, ...]
    pairs: tuple[Pair, ...]
    things: tuple[str, ...]
    verbs: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Language:
    """The tables of one language.

    A template names fields in braces and writes free choices as `[one|other]`. Fields: `{S}` subject; `{A}` the word
    with the wanted polarity, `{O}` its opposite; `{gA}`, `{gO}` the same with a degree ("very slow"); `{fA}`, `{fO}`
    their second forms; `{S2}`, `{E2}` the same for another topic; `{C}` a whole judgement on the topic, `{C2}` an
    opposite one on another topic; `{E}` a thing, `{base}`, `{pp}`, `{past}` a verb, `{first_pp}` and `{last_base}`
    the first and the last step of its topic.

    Attributes:
        topics: by name.
        common_pairs: words of judgement that suit every topic.
        degrees: templates with `{A}` for the word.
        undegreed: words that take no degree.
        templates: sentences by way of building; keys as in the code below.
        events: sentences by topic and act.
    """

    topics: Mapping[str, Topic]
    common_pairs: tuple[Pair, ...]
    degrees: tuple[str, ...]
    undegreed: frozenset[str]
    templates: Mapping[str, tuple[str, ...]]
    events: Mapping[str, Mapping[str, tuple[str, ...]]]


def write(draw: Draw, language: Language, topic: str, act: str) -> str:
    """One sentence, without its final mark unless the mark alone decides the act.

    Args:
        draw: source of the choices.
        language: tables.
        topic: one of `language.topics`.
        act: "praise", "complaint", "question" or "status".

    Returns:
        The sentence, not capitalised.
    """
    style = draw.weighted(_STYLES[act])
    other = draw.pick([name for name in language.topics if name != topic])
    if style == "event":
        return _fill(draw, draw.pick(language.events[topic][act]), _event_fields(draw, language, topic, other))
    is_good = draw.chance(0.6) if act == "question" else act == "praise"
    if style == "plain" and act != "question":
        return _judgement(draw, language, topic, is_good=is_good)
    key = style if act != "question" else f"question_{style}"
    if style == "shared":
        pair = draw.pick(_shared_pairs(language, topic, other))
    else:
        pair = draw.pick(language.topics[topic].pairs + language.common_pairs)
    fields = _judgement_fields(draw, language, topic, pair, is_good=is_good)
    fields["S2"] = draw.pick(language.topics[other].subjects)
    fields["C"] = _judgement(draw, language, topic, is_good=is_good, is_short=True)
    fields["C2"] = _judgement(draw, language, other, is_good=not is_good, is_short=True)
    return _fill(draw, draw.pick(language.templates[key]), fields)


def _judgement(draw: Draw, language: Language, topic: str, *, is_good: bool, is_short: bool = False) -> str:
    """A clause that praises or blames a topic, directly or by denying the opposite; short inside a longer one."""
    way = draw.weighted({"affirm": 0.85, "deny": 0.15} if is_short else {"affirm": 0.62, "deny": 0.34, "rare": 0.04})
    rare = "rare_praise" if is_good else "rare_complaint"
    key = rare if way == "rare" else f"short_{way}" if is_short else way
    pair = draw.pick(language.topics[topic].pairs + language.common_pairs)
    fields = _judgement_fields(draw, language, topic, pair, is_good=is_good)
    return _fill(draw, draw.pick(language.templates[key]), fields)


def _judgement_fields(draw: Draw, language: Language, topic: str, pair: Pair, *, is_good: bool) -> dict[str, str]:
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
    """Words of judgement that suit both topics."""
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
    """Resolves `[one|other]`, then the fields: a field's own text is never searched for choices."""
    return _ALTERNATIVES.sub(lambda match: draw.pick(match[1].split("|")), template).format(**fields)
