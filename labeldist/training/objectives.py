"""What can be trained: one entry for each objective.

To add an objective: extend `Objective` and `OBJECTIVES`. A new matrix kind also needs a branch in
`label_distances.choose_matrix`; a new loss, one in `run_model.make_objective`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "CONTROLS",
    "DEFAULT_COMPARED",
    "FROZEN",
    "HELP",
    "IN_CROSS_ENTROPY",
    "OBJECTIVES",
    "Objective",
    "ObjectiveSpec",
    "is_label_distance",
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
    "levels",
    "soft-labels",
    "margin",
    "far-permuted",
    "graded-permuted",
    "logistic",
    "logistic-label-texts",
    "centroid",
    "centroid-label-texts",
]

Matrix = Literal["none", "ones", "spread", "static", "adaptive", "near", "far", "graded", "levels"]
FrozenHead = Literal["logistic", "centroid"]
Related = Literal["soft-labels", "margin"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """How one objective trains.

    Attributes:
        name: as on the command line.
        views: dropout views of each text.
        matrix: the label distances: `"none"` without a contrastive loss, `"ones"`, `"spread"` for the mean of the
            static distances, `"static"`, `"adaptive"`, or those of the relation of the classes: large for related
            classes (`"near"`), large for unrelated classes (`"far"`), ones with graded targets (`"graded"`), or ones in
            a contrastive loss for each level (`"levels"`).
        is_control: whether it trains the encoder without label distance, or with a relation of exchanged classes.
            Claims about label distance are compared with the controls.
        is_required: whether the verdict "label distance helps" needs this control.
        is_default: whether a comparison includes it by default.
        summary: its description in the help.
        frozen_head: the classifier that is fitted on the embeddings of the frozen encoder; `None` if the encoder is
            trained.
        is_permuted: whether the classes of the relation are exchanged at random.
        classification: how the classification loss uses the relation of the classes: soft labels or a margin; `None`
            if it does not.
        label_texts: whether class names or label texts are additional rows of a frozen head. For objectives that train,
            the settings decide this.
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


def _permuted(name: Objective, matrix: Matrix) -> ObjectiveSpec:
    summary = f"{matrix}, with the classes of the relation exchanged at random, differently for each seed: a control"
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
            summary="cross-entropy and a contrastive loss without label distances",
        ),
        ObjectiveSpec(
            "uniform",
            views=2,
            matrix="spread",
            is_control=True,
            is_required=True,
            summary="a control: the mean of the static distances for every pair of classes",
        ),
        ObjectiveSpec(
            "static",
            views=2,
            matrix="static",
            is_control=False,
            is_required=False,
            summary="label distances that are set before training",
        ),
        ObjectiveSpec(
            "adaptive",
            views=2,
            matrix="adaptive",
            is_control=False,
            is_required=False,
            summary="label distances learned from validation confusions",
        ),
        _related("near", "near", "related classes are pushed apart harder (--order, --relation-file or --hierarchy)"),
        _related("far", "far", "unrelated classes are pushed apart harder (with the same flags)"),
        _related("graded", "graded", "rows of related classes are weak positives (with the same flags)"),
        _related(
            "levels", "levels", "the mean of one contrastive loss for each level of closeness (with the same flags)"
        ),
        _related(
            "soft-labels",
            "none",
            "cross-entropy on two views, with soft labels: related classes get a part (with the same flags)",
            classification="soft-labels",
        ),
        _related(
            "margin",
            "ones",
            "contrastive, with a margin to unrelated classes in the cross-entropy (with the same flags)",
            classification="margin",
        ),
        _permuted("far-permuted", "far"),
        _permuted("graded-permuted", "graded"),
        _frozen("logistic", "logistic", "logistic regression on the embeddings of the frozen encoder"),
        _frozen("logistic-label-texts", "logistic", "the same, with label texts as additional rows", label_texts=True),
        _frozen("centroid", "centroid", "nearest class centroid of the embeddings of the frozen encoder"),
        _frozen("centroid-label-texts", "centroid", "the same, with label texts as additional rows", label_texts=True),
    )
}
assert tuple(OBJECTIVES) == get_args(Objective)

CONTROLS: tuple[Objective, ...] = tuple(name for name, spec in OBJECTIVES.items() if spec.is_control)
"""The objectives that train without label distance, or with a relation of exchanged classes."""

FROZEN: tuple[Objective, ...] = tuple(name for name, spec in OBJECTIVES.items() if spec.frozen_head is not None)
"""The objectives that train no encoder: what training has to beat."""

IN_CROSS_ENTROPY: tuple[Objective, ...] = tuple(name for name, spec in OBJECTIVES.items() if spec.classification)
"""The objectives whose cross-entropy uses the relation of the classes."""

DEFAULT_COMPARED: tuple[Objective, ...] = tuple(name for name, spec in OBJECTIVES.items() if spec.is_default)
"""What a comparison compares unless told otherwise."""

HELP = "\n".join(f"- {name}: {spec.summary}" for name, spec in OBJECTIVES.items())
"""A line for each objective."""


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


def is_label_distance(name: str) -> bool:
    """Whether the objective trains with label distances that differ between pairs of classes; not one of another name.

    Examples:
        >>> [is_label_distance(name) for name in ("static", "far", "graded", "levels")]
        [True, True, False, False]
    """
    return name in OBJECTIVES and OBJECTIVES[name].matrix in ("static", "adaptive", "near", "far")


def takes_relation(name: Objective) -> bool:
    """Whether the objective trains with the relation of the classes: their order or hierarchy.

    Examples:
        >>> takes_relation("far"), takes_relation("soft-labels"), takes_relation("static")
        (True, True, False)
    """
    spec = OBJECTIVES[name]
    return spec.matrix in ("near", "far", "graded", "levels") or spec.classification is not None
