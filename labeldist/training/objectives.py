"""What can be trained: one entry for each objective.

To add an objective: extend `Objective` and `OBJECTIVES`. A new matrix kind also needs a branch in
`label_distances.choose_matrix`; a new loss, one in `run.make_objective`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "CONTROLS",
    "DEFAULT_COMPARED",
    "FROZEN",
    "HELP",
    "OBJECTIVES",
    "Objective",
    "ObjectiveSpec",
    "spec_of",
    "takes_given_matrix",
    "takes_relation",
]

Objective = Literal[
    "ce",
    "ce-two-views",
    "contrastive",
    "uniform",
    "static",
    "adaptive",
    "near",
    "far",
    "graded",
    "soft-labels",
    "margin",
    "far-permuted",
    "graded-permuted",
    "logistic",
    "logistic-label-texts",
    "centroid",
    "centroid-label-texts",
]

Matrix = Literal["none", "ones", "spread", "static", "adaptive", "near", "far", "graded"]
FrozenHead = Literal["logistic", "centroid"]
Related = Literal["soft-labels", "margin"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """How one objective trains.

    Attributes:
        name: as on the command line.
        views: dropout views of each text.
        matrix: the label distances: none (no contrastive loss), ones (plain contrast), the static ones spread evenly
            over all classes, the static ones themselves, adaptive ones, or those of the relation of the classes: large
            for related classes (near), large for unrelated ones (far), or ones beside graded targets (graded).
        is_control: whether it trains the encoder without label distance, or with one that says nothing, so that a
            claim about label distance is measured against it.
        is_required: whether "label distance helps" may only be said where this control was run.
        is_default: whether a comparison takes it unless told otherwise.
        summary: one line for people.
        frozen_head: what is fitted on the vectors of the frozen encoder, in place of any training; `None` where the
            encoder is trained.
        is_permuted: whether the relation is that between randomly exchanged classes.
        classification: what the relation of the classes does in the classification loss: soft labels, or a margin;
            `None` where it has no part there.
        label_texts: whether the class names, or the label texts given, join the rows of a frozen head. Training takes
            the label texts of the settings, whatever the objective.
    """

    name: Objective
    views: int
    matrix: Matrix
    is_control: bool
    is_required: bool
    summary: str
    is_default: bool = True
    frozen_head: FrozenHead | None = None
    is_permuted: bool = False
    classification: Related | None = None
    label_texts: bool = False


def _related(name: Objective, matrix: Matrix, summary: str, *, classification: Related | None = None) -> ObjectiveSpec:
    return ObjectiveSpec(name, 2, matrix, False, False, summary, is_default=False, classification=classification)


def _permuted(name: Objective, matrix: Matrix, of: str) -> ObjectiveSpec:
    summary = f"{of} by the same relation between randomly exchanged classes, others for each seed"
    return ObjectiveSpec(name, 2, matrix, True, False, summary, is_default=False, is_permuted=True)


def _frozen(name: Objective, head: FrozenHead, summary: str, *, label_texts: bool = False) -> ObjectiveSpec:
    return ObjectiveSpec(
        name, 1, "none", False, False, summary, is_default=False, frozen_head=head, label_texts=label_texts
    )


OBJECTIVES: dict[Objective, ObjectiveSpec] = {
    spec.name: spec
    for spec in (
        ObjectiveSpec(
            "ce", views=1, matrix="none", is_control=True, is_required=False, summary="cross-entropy", is_default=False
        ),
        ObjectiveSpec(
            "ce-two-views",
            views=2,
            matrix="none",
            is_control=True,
            is_required=True,
            summary="cross-entropy on two dropout views of each text",
        ),
        ObjectiveSpec(
            "contrastive",
            views=2,
            matrix="ones",
            is_control=True,
            is_required=True,
            summary="cross-entropy and contrast without label distances",
        ),
        ObjectiveSpec(
            "uniform",
            views=2,
            matrix="spread",
            is_control=True,
            is_required=True,
            summary="the static distances spread evenly over all classes",
        ),
        ObjectiveSpec(
            "static", views=2, matrix="static", is_control=False, is_required=False, summary="fixed label distances"
        ),
        ObjectiveSpec(
            "adaptive",
            views=2,
            matrix="adaptive",
            is_control=False,
            is_required=False,
            summary="label distances learned from validation confusions",
        ),
        _related("near", "near", "related classes are pushed apart harder, by --order, --relation-file or --hierarchy"),
        _related("far", "far", "unrelated classes are pushed apart harder, by --order, --relation-file or --hierarchy"),
        _related(
            "graded", "graded", "rows of related classes are weak positives, by --order, --relation-file or --hierarchy"
        ),
        _related(
            "soft-labels",
            "none",
            "cross-entropy on two views whose labels give related classes a part, no contrast",
            classification="soft-labels",
        ),
        _related(
            "margin",
            "ones",
            "contrast without label distances, and cross-entropy with a margin to unrelated classes",
            classification="margin",
        ),
        _permuted("far-permuted", "far", "far"),
        _permuted("graded-permuted", "graded", "graded"),
        _frozen("logistic", "logistic", "logistic regression on the frozen encoder, nothing trained"),
        _frozen("logistic-label-texts", "logistic", "the same with label texts among its rows", label_texts=True),
        _frozen("centroid", "centroid", "nearest class centroid of the frozen encoder, nothing trained"),
        _frozen("centroid-label-texts", "centroid", "the same with label texts among its rows", label_texts=True),
    )
}
assert tuple(OBJECTIVES) == get_args(Objective)

CONTROLS: tuple[Objective, ...] = tuple(name for name, spec in OBJECTIVES.items() if spec.is_control)
"""The objectives that train without label distance, or with one that says nothing."""

FROZEN: tuple[Objective, ...] = tuple(name for name, spec in OBJECTIVES.items() if spec.frozen_head is not None)
"""The objectives that train no encoder: what training has to beat."""

DEFAULT_COMPARED: tuple[Objective, ...] = tuple(name for name, spec in OBJECTIVES.items() if spec.is_default)
"""What a comparison compares unless told otherwise."""

HELP = "; ".join(f"{name}: {spec.summary}" for name, spec in OBJECTIVES.items())
"""Every objective in one line."""


def spec_of(name: str) -> ObjectiveSpec:
    """The entry of an objective.

    Raises:
        ValueError: if there is none of this name.

    Examples:
        >>> spec_of("uniform").matrix
        'spread'
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}.")
    return OBJECTIVES[name]


def takes_given_matrix(name: Objective) -> bool:
    """Whether the objective trains with pairs or a matrix file where the user gives them.

    Examples:
        >>> takes_given_matrix("uniform"), takes_given_matrix("adaptive")
        (True, False)
    """
    return OBJECTIVES[name].matrix in ("static", "spread")


def takes_relation(name: Objective) -> bool:
    """Whether the objective trains with the relation of the classes: their order or hierarchy.

    Examples:
        >>> takes_relation("far"), takes_relation("soft-labels"), takes_relation("static")
        (True, True, False)
    """
    return OBJECTIVES[name].matrix in ("near", "far", "graded") or OBJECTIVES[name].classification is not None
