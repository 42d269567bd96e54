"""Contrastive learning with label distance: metric-learning components for classes that are easily confused.

Importing the package imports none of its parts: each name is read from its module when it is first used.
"""

import importlib
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labeldist.backends import label_distance_contrastive
    from labeldist.cached import CachedGradients
    from labeldist.coarse import (
        FineLabelsOnly,
        MarginalCrossEntropy,
        hierarchy_groups,
        marginal_cross_entropy,
        prefix_groups,
    )
    from labeldist.confusion import ConfusedPair, confusion_counts, most_confused_pairs
    from labeldist.evaluation import MistakeSeverity, embedding_metrics, mistake_severity
    from labeldist.joint import JointLoss
    from labeldist.label_texts import label_text_rows
    from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix, StaticLDM, class_centroids
    from labeldist.losses import LabelDistanceContrastiveLoss
    from labeldist.memory import CrossBatchMemory
    from labeldist.miners import LabelDistanceMiner
    from labeldist.reducers import ValidAnchorMeanReducer
    from labeldist.relation import AdaptiveRelevance, RelatedCrossEntropy, Relation
    from labeldist.samplers import LabelDistanceBatchSampler
    from labeldist.wrappers import DistributedLossWrapper, DistributedMinerWrapper, TwoViewLoss

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLDM",
    "AdaptiveRelevance",
    "CachedGradients",
    "ConfusedPair",
    "CrossBatchMemory",
    "DistributedLossWrapper",
    "DistributedMinerWrapper",
    "FineLabelsOnly",
    "JointLoss",
    "LabelDistanceBatchSampler",
    "LabelDistanceContrastiveLoss",
    "LabelDistanceMatrix",
    "LabelDistanceMiner",
    "MarginalCrossEntropy",
    "MistakeSeverity",
    "RelatedCrossEntropy",
    "Relation",
    "StaticLDM",
    "TwoViewLoss",
    "ValidAnchorMeanReducer",
    "class_centroids",
    "confusion_counts",
    "embedding_metrics",
    "hierarchy_groups",
    "label_distance_contrastive",
    "label_text_rows",
    "marginal_cross_entropy",
    "mistake_severity",
    "most_confused_pairs",
    "prefix_groups",
]

# The imports above, as they happen: a test holds that both say the same.
_HOMES = {
    "AdaptiveLDM": "ldm",
    "AdaptiveRelevance": "relation",
    "CachedGradients": "cached",
    "ConfusedPair": "confusion",
    "CrossBatchMemory": "memory",
    "DistributedLossWrapper": "wrappers",
    "DistributedMinerWrapper": "wrappers",
    "FineLabelsOnly": "coarse",
    "JointLoss": "joint",
    "LabelDistanceBatchSampler": "samplers",
    "LabelDistanceContrastiveLoss": "losses",
    "LabelDistanceMatrix": "ldm",
    "LabelDistanceMiner": "miners",
    "MarginalCrossEntropy": "coarse",
    "MistakeSeverity": "evaluation",
    "RelatedCrossEntropy": "relation",
    "Relation": "relation",
    "StaticLDM": "ldm",
    "TwoViewLoss": "wrappers",
    "ValidAnchorMeanReducer": "reducers",
    "class_centroids": "ldm",
    "confusion_counts": "confusion",
    "embedding_metrics": "evaluation",
    "hierarchy_groups": "coarse",
    "label_distance_contrastive": "backends",
    "label_text_rows": "label_texts",
    "marginal_cross_entropy": "coarse",
    "mistake_severity": "evaluation",
    "most_confused_pairs": "confusion",
    "prefix_groups": "coarse",
}
# They need the extra `train` or `report`, and so `from labeldist import *` leaves them out.
_WITH_EXTRAS = {**dict.fromkeys(("compare", "load", "train"), "training.api"), "report": "reports.report"}
_MODULES = {
    "checks",
    "distributed",
    "functional",
    "integrations",
    "models",
    "pairs",
    "reports",
    "serving",
    "training",
    "wrappers",
    *_HOMES.values(),
}


def __getattr__(name: str) -> Any:
    home = {**_HOMES, **_WITH_EXTRAS}.get(name)
    if home is not None:
        value = getattr(_imported(home), name)
    elif name in _MODULES:
        value = _imported(name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _imported(name: str) -> Any:
    # Some packages draw random numbers on import; the caller's random state must not change.
    state = random.getstate()
    try:
        return importlib.import_module(f"labeldist.{name}")
    finally:
        random.setstate(state)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_WITH_EXTRAS})
