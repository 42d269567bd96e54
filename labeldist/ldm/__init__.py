r"""Label-distance matrices (LDMs): set before training (`StaticLDM`) or learned from confusion counts (`AdaptiveLDM`).

An LDM has one row and one column per class. **Rows are the anchor's class, columns the reference's class**, as in
confusion counts (row = true class, column = predicted class). An entry is a weight, not a dissimilarity: a larger entry
pushes the pairs of its two classes apart harder, so easily confused classes have large entries. Entries are
non-negative and dimensionless; 1 is neutral. `LDM[a, a]` scales the positives of class `a`; leave it at 1 unless you
need a different scale.
"""

from labeldist.ldm.adaptive import AdaptiveLDM
from labeldist.ldm.base import LabelDistanceMatrix
from labeldist.ldm.distances import class_centroids, distances_from_confusion
from labeldist.ldm.static import StaticLDM
from labeldist.options import Normalization

__all__ = [
    "AdaptiveLDM",
    "LabelDistanceMatrix",
    "Normalization",
    "StaticLDM",
    "class_centroids",
    "distances_from_confusion",
]
