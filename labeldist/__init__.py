"""Contrastive learning with label distance: metric-learning components for classes that are easily confused."""

from labeldist.confusion import ConfusedPair, confusion_counts, most_confused_pairs
from labeldist.functional import label_distance_contrastive
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix, StaticLDM, class_centroids
from labeldist.losses import JointLoss, LabelDistanceContrastiveLoss, ValidAnchorMeanReducer

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLDM",
    "ConfusedPair",
    "JointLoss",
    "LabelDistanceContrastiveLoss",
    "LabelDistanceMatrix",
    "StaticLDM",
    "ValidAnchorMeanReducer",
    "class_centroids",
    "confusion_counts",
    "label_distance_contrastive",
    "most_confused_pairs",
]
