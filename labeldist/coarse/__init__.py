r"""Coarse labels: rows of which only a group of classes is known, not the class itself.

A label in [0, C) is a class, a fine label. The label C + g is group g: the row's class is one of the group's. Such rows
train the classifier by the marginal cross-entropy and stay out of the contrast, where they would need a class:

```python
classification = MarginalCrossEntropy({"number": ["count", "date"]}, class_names=names)
contrastive = FineLabelsOnly(LabelDistanceContrastiveLoss(ldm))
objective = JointLoss(contrastive, classification)
```

A row without any label is the limit: its group holds all classes, and it has no gradient.
"""

from labeldist.coarse.classification import MarginalCrossEntropy, allowed_classes, marginal_cross_entropy
from labeldist.coarse.contrast import FineLabelsOnly, check_coarse_contrast, takes_coarse_labels
from labeldist.coarse.groups import Groups, group_masks, hierarchy_groups, prefix_groups

__all__ = [
    "FineLabelsOnly",
    "Groups",
    "MarginalCrossEntropy",
    "allowed_classes",
    "check_coarse_contrast",
    "group_masks",
    "hierarchy_groups",
    "marginal_cross_entropy",
    "prefix_groups",
    "takes_coarse_labels",
]
