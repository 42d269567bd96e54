r"""Coarse labels: rows of which only a group of classes is known, not the class itself.

A label in [0, C) is a class, also called a fine label. The label C + g stands for group g: the class of the row is one
of the classes of the group. Such rows train the classifier with the marginal cross-entropy. The contrastive loss leaves
them out, because it needs their class:

```python
classification = MarginalCrossEntropy({"number": ["count", "date"]}, class_names=names)
contrastive = FineLabelsOnly(LabelDistanceContrastiveLoss(ldm))
objective = JointLoss(contrastive, classification)
```

A row without any label is a special case: its group contains all classes, and it has no gradient.
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
