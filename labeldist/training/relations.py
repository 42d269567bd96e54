"""How closely the classes of a run are related: an order, a hierarchy, or parts of class names; what mistakes cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeldist.class_names import class_indices
from labeldist.messages import escape_controls, listed, shown
from labeldist.relation import Relation
from labeldist.training.config import RunSettings
from labeldist.training.data.lines import check_file
from labeldist.training.errors import UserError
from labeldist.training.matrix_file import cost_table, read_cost_file, read_costs, read_hierarchy
from labeldist.training.measures import MEASURES, Measure
from labeldist.training.objectives import OBJECTIVES, Objective, takes_relation

__all__ = [
    "Costs",
    "MeasureTables",
    "check_measure_is_given",
    "check_relation_is_given",
    "costs_of",
    "groups_of",
    "measure_tables",
    "needed_relation",
    "relation_in_words",
    "relation_of",
]

Costs = Path | str | Mapping[str, Mapping[str, float]]
"""What mistakes cost: a file, or costs by true class and decided class."""


@dataclass(frozen=True, eq=False)
class MeasureTables:
    r"""What is known of the classes as measures take it; each is None where the settings do not say it.

    Attributes:
        rank: place of each class in the order, from 0, `(C,)`, int64.
        costs: of mistakes, `(C, C)`, row = true class, column = decided class.
        gains: $2^{2\,\mathrm{closeness}} - 1$, `(C, C)`: with two levels of a hierarchy 3 for the class and 1 for its
            siblings.
        groups: the group of each class, `(C,)`, int64.
    """

    rank: Tensor | None = None
    costs: Tensor | None = None
    gains: Tensor | None = None
    groups: Tensor | None = None


def relation_of(settings: RunSettings, class_names: Sequence[str]) -> Relation | None:
    """The relation that a run's settings describe; `None` if they describe none.

    An order or a relation file takes precedence: the hierarchy then serves coarse labels alone.

    Args:
        settings: of the run.
        class_names: the corpus's classes, in its order.

    Raises:
        UserError: if the order, the file or the hierarchy lacks a class, names one twice or an unknown one (the nearest
            name is offered), or no class name contains the separator.

    Examples:
        >>> from labeldist.training.config import MatrixSettings
        >>> settings = RunSettings(matrix=MatrixSettings(order=("bad", "fair", "good")))
        >>> relation_of(settings, ["bad", "good", "fair"]).between("bad", "fair")
        0.5
    """
    order, hierarchy, separator = settings.matrix.order, settings.data.hierarchy, settings.data.hierarchy_separator
    source = "--order"
    if settings.matrix.relation_file is not None:
        try:
            # Raises for what is no ordinary file.
            check_file(settings.matrix.relation_file, "relation file")
            return Relation.from_file(settings.matrix.relation_file, class_names=class_names)
        except ValueError as error:
            raise UserError(str(error)) from error
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


def measure_tables(settings: RunSettings, class_names: Sequence[str]) -> MeasureTables | None:
    """What a run's settings say of its classes, as measures take it; `None` if they say nothing.

    A hierarchy that serves coarse labels may leave classes out. Then it is no relation, and nothing is measured by it.

    Args:
        settings: of the run.
        class_names: the corpus's classes, in its order.

    Raises:
        UserError: if the order or the costs do not fit the classes.

    Examples:
        >>> from labeldist.training.config import DataSettings
        >>> settings = RunSettings(data=DataSettings(hierarchy_separator=":"))
        >>> tables = measure_tables(settings, ["NUM:date", "NUM:size", "LOC:city"])
        >>> tables.gains[0], tables.groups
        (tensor([3., 1., 0.]), tensor([0, 0, 1]))
    """
    order, costs = settings.matrix.order, settings.data.costs
    try:
        relation = relation_of(settings, class_names)
    except UserError:
        if order or settings.matrix.relation_file is not None:
            raise
        relation = None
    if relation is None and costs is None:
        return None
    return MeasureTables(
        rank=_ranks([name.strip() for name in order], class_names) if order else None,
        costs=None if costs is None else read_costs(costs, class_names),
        gains=None if relation is None else 4**relation.closeness - 1,
        groups=None if relation is None else groups_of(relation),
    )


def groups_of(relation: Relation) -> Tensor | None:
    """The groups that a relation divides the classes into, `(C,)`, int64, numbered from 0; `None` if it does not.

    Two classes are in a group if their closeness is above 0, as below the root of a hierarchy. That makes groups only
    where each class is as close to the others of its group: an order has none.

    Examples:
        >>> groups_of(Relation.from_names(["NUM:date", "LOC:city", "NUM:size"]))
        tensor([0, 1, 0])
        >>> groups_of(Relation.from_order(num_classes=3)) is None
        True
    """
    is_related = relation.closeness > 0
    first = is_related.to(torch.uint8).argmax(dim=1)
    numbers = torch.unique(first, return_inverse=True)[1]
    if not torch.equal(is_related, numbers[:, None] == numbers) or not 1 < numbers.max() + 1 < len(numbers):
        return None
    return numbers


def check_measure_is_given(measure: Measure, settings: RunSettings, class_names: Sequence[str] | None = None) -> None:
    """Raise `UserError` if the settings do not say what a measure takes.

    Args:
        measure: to judge by.
        settings: of the runs.
        class_names: the classes; only what shows without them is checked if `None`.
    """
    spec = MEASURES[measure]
    if spec.needs is None:
        return
    data, order = settings.data, settings.matrix.order
    has_tree = (data.hierarchy, data.hierarchy_separator) != (None, None)
    has_file = settings.matrix.relation_file is not None
    is_given = {
        "mean-absolute-error": bool(order),
        "expected-cost": data.costs is not None,
        "graded-ndcg": bool(order) or has_tree or has_file,
        "group-map": (has_tree or has_file) and not order,
    }[measure]
    if is_given and class_names is not None and measure in ("graded-ndcg", "group-map"):
        # Raises where the relation cannot be built, with the reason.
        relation = relation_of(settings, class_names)
        is_given = measure != "group-map" or (relation is not None and groups_of(relation) is not None)
    if not is_given:
        raise UserError(f"--measure {measure} needs {spec.needs}.")


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
    if isinstance(order, str):
        raise UserError(f"--order must be a list of all classes, got {shown(order)}.")
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
    if settings.matrix.relation_file is not None:
        return f"the relation of {escape_controls(settings.matrix.relation_file.name)}"
    if settings.data.hierarchy is not None:
        return "the hierarchy as given" if file is None else f"the hierarchy of {escape_controls(file.name)}"
    return f"the parts of class names between {shown(settings.data.hierarchy_separator)}"


def needed_relation(objective: Objective, settings: RunSettings, class_names: Sequence[str]) -> Relation:
    """The relation that an objective trains with.

    Args:
        objective: of the run.
        settings: of the run.
        class_names: the corpus's classes, in its order.

    Raises:
        UserError: if the settings describe none, or one that does not fit the classes.

    Examples:
        >>> from labeldist.training.config import DataSettings
        >>> settings = RunSettings(data=DataSettings(hierarchy_separator=":"))
        >>> needed_relation("far", settings, ["NUM:date", "NUM:size", "LOC:city"]).between("NUM:date", "LOC:city")
        0.0
    """
    check_relation_is_given(objective, settings)
    relation = relation_of(settings, class_names)
    assert relation is not None
    return relation


def check_relation_is_given(objective: Objective, settings: RunSettings) -> None:
    """Find an objective that needs a relation of the classes, and settings that describe none or rule its loss out.

    Raises:
        UserError: for such an objective.
    """
    data = settings.data
    is_given = bool(settings.matrix.order) or settings.matrix.relation_file is not None
    has_relation = is_given or (data.hierarchy, data.hierarchy_separator) != (None, None)
    if OBJECTIVES[objective].classification is not None and settings.loss.focal_gamma:
        raise UserError(f"Give either --objective {objective} or --focal-gamma: each replaces the cross-entropy.")
    if takes_relation(objective) and not has_relation:
        raise UserError(
            f"--objective {objective} needs a relation of the classes. Give --order (the classes from one end to the "
            "other), --relation-file, --hierarchy or --hierarchy-separator."
        )
