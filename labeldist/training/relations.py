"""How closely the classes of a run are related: an order, a hierarchy, or parts of class names; what mistakes cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from labeldist.class_names import class_indices
from labeldist.messages import escape_controls, listed, shown
from labeldist.relation import Relation
from labeldist.training.config import RunSettings
from labeldist.training.errors import UserError
from labeldist.training.matrix_file import cost_table, read_cost_file, read_hierarchy
from labeldist.training.objectives import OBJECTIVES, Objective, takes_relation

__all__ = ["Costs", "check_relation_is_given", "check_relation_is_used", "costs_of", "relation_in_words", "relation_of"]

Costs = Path | str | Mapping[str, Mapping[str, float]]
"""What mistakes cost: a file, or costs by true class and decided class."""


def relation_of(settings: RunSettings, class_names: Sequence[str]) -> Relation | None:
    """The relation that a run's settings describe; `None` if they describe none.

    An order takes precedence: the hierarchy then serves coarse labels alone.

    Args:
        settings: of the run.
        class_names: the corpus's classes, in its order.

    Raises:
        UserError: if the order or the hierarchy lacks a class, names one twice or an unknown one (the nearest name is
            offered), or no class name contains the separator.

    Examples:
        >>> from labeldist.training.config import MatrixSettings
        >>> settings = RunSettings(matrix=MatrixSettings(order=("bad", "fair", "good")))
        >>> relation_of(settings, ["bad", "good", "fair"]).between("bad", "fair")
        0.5
    """
    order, hierarchy, separator = settings.matrix.order, settings.data.hierarchy, settings.data.hierarchy_separator
    source = "--order"
    try:
        if order:
            return _ordered([name.strip() for name in order], class_names)
        if hierarchy is not None:
            source = str(settings.data.hierarchy_file or "--hierarchy")
            return Relation.from_hierarchy(read_hierarchy(hierarchy), class_names=class_names)
        if separator is not None:
            source = "--hierarchy-separator"
            return Relation.from_names(class_names, separator=separator)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    return None


def _ordered(order: Sequence[str], class_names: Sequence[str]) -> Relation:
    """Classes in an order, as a relation in the order of `class_names`."""
    rank = _ranks(order, class_names)
    closeness = Relation.from_order(num_classes=len(rank)).closeness
    return Relation(closeness[rank[:, None], rank], class_names=class_names)


def _ranks(order: Sequence[str], class_names: Sequence[str]) -> torch.Tensor:
    """The place of each class in the order, from 0, `(C,)`."""
    # Raises for an unknown class, with the nearest name.
    indices = class_indices(order, class_names)
    doubled = next((name for i, name in enumerate(order) if name in order[:i]), None)
    if doubled is not None:
        raise ValueError(f"The order must name each class once, {shown(doubled)} stands more than once.")
    if len(indices) < len(class_names):
        absent = min(set(range(len(class_names))) - set(indices))
        raise ValueError(
            f"The order must name every class, from one end to the other, and {shown(class_names[absent])} is missing."
        )
    return torch.tensor(indices).argsort()


def costs_of(costs: Costs | None, order: Sequence[Any], class_names: Sequence[str]) -> torch.Tensor | None:
    """What mistakes cost, `(C, C)`, row = true class, column = decided class; `None` if nothing says so.

    Args:
        costs: a file, see `read_cost_file`, or costs by true class and decided class.
        order: the classes from one end to the other: each step between them costs 1.
        class_names: the classes, in their order.

    Raises:
        UserError: if both are given, or either does not fit the classes.

    Examples:
        >>> costs_of(None, ["bad", "fair", "good"], ["bad", "good", "fair"])[0]
        tensor([0., 2., 1.])
    """
    if costs is not None and order:
        raise UserError("Give what mistakes cost either by --costs or by --order, not by both.")
    if isinstance(costs, str | Path):
        return read_cost_file(costs, class_names)
    source = "--order" if order else "--costs"
    try:
        if order:
            rank = _ranks([str(name).strip() for name in order], class_names).to(torch.get_default_dtype())
            return (rank[:, None] - rank).abs()
        return None if costs is None else cost_table(costs, class_names)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def relation_in_words(settings: RunSettings) -> str:
    """What describes the relation of the classes, for a sentence.

    Examples:
        >>> from labeldist.training.config import DataSettings
        >>> relation_in_words(RunSettings(data=DataSettings(hierarchy="taxonomies/tree.json")))
        'the hierarchy of tree.json'
    """
    file = settings.data.hierarchy_file
    if settings.matrix.order:
        return f"the order {listed(settings.matrix.order)}"
    if settings.data.hierarchy is not None:
        return "the hierarchy as given" if file is None else f"the hierarchy of {escape_controls(file.name)}"
    return f"the parts of class names between {shown(settings.data.hierarchy_separator)}"


def check_relation_is_given(objective: Objective, settings: RunSettings) -> None:
    """Raise `UserError` if the objective needs a relation of the classes and the settings describe none."""
    data = settings.data
    has_relation = bool(settings.matrix.order) or (data.hierarchy, data.hierarchy_separator) != (None, None)
    if takes_relation(objective) and not has_relation:
        raise UserError(
            f"--objective {objective} needs a relation of the classes. Give --order (the classes from one end to the "
            "other), --hierarchy or --hierarchy-separator."
        )


def check_relation_is_used(objectives: Sequence[Objective], settings: RunSettings) -> None:
    """Raise `UserError` for an order beside objectives that take none: in silence it did nothing.

    A hierarchy may stand beside any: it says what coarse labels mean, too.
    """
    if settings.matrix.order and not any(map(takes_relation, objectives)):
        takers = " or ".join(filter(takes_relation, OBJECTIVES))
        raise UserError(f"--order belongs to --objective {takers}, got --objective {' '.join(objectives)}.")
