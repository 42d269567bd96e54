r"""Label-distance matrices: set by hand (`StaticLDM`) or learned from confusion counts (`AdaptiveLDM`).

A matrix has one row and one column a class. **Row = the anchor's class, column = the other's**, the orientation of
confusion counts (row = true, column = predicted). Entries are non-negative and dimensionless; 1 is neutral. A larger
entry between two classes pushes their pairs apart harder. `LDM[a, a]` scales the positives of class `a` and is best
left at 1.
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
