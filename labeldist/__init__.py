"""Contrastive learning with label distance: metric-learning components for classes that are easily confused."""

from labeldist.backends import label_distance_contrastive
from labeldist.cached import CachedGradients
from labeldist.confusion import ConfusedPair, confusion_counts, most_confused_pairs
from labeldist.evaluation import MistakeSeverity, embedding_metrics, mistake_severity
from labeldist.joint import JointLoss
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix, StaticLDM, class_centroids
from labeldist.losses import LabelDistanceContrastiveLoss
from labeldist.memory import CrossBatchMemory
from labeldist.miners import LabelDistanceMiner
from labeldist.reducers import ValidAnchorMeanReducer
from labeldist.samplers import LabelDistanceBatchSampler
from labeldist.wrappers import DistributedLossWrapper, DistributedMinerWrapper, TwoViewLoss

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLDM",
    "CachedGradients",
    "ConfusedPair",
    "CrossBatchMemory",
    "DistributedLossWrapper",
    "DistributedMinerWrapper",
    "JointLoss",
    "LabelDistanceBatchSampler",
    "LabelDistanceContrastiveLoss",
    "LabelDistanceMatrix",
    "LabelDistanceMiner",
    "MistakeSeverity",
    "StaticLDM",
    "TwoViewLoss",
    "ValidAnchorMeanReducer",
    "class_centroids",
    "confusion_counts",
    "embedding_metrics",
    "label_distance_contrastive",
    "mistake_severity",
    "most_confused_pairs",
]
