r"""How closely the classes are related, described once, and the three things that a loss can do with it.

A `Relation` holds `closeness[a, b]` in [0, 1], 1 for a class itself. It comes from what is known about the classes: a
hierarchy, an order, groups, pairs, costs, texts, vectors or confusions. Then

| use | where it enters | table | what it asks of the embedding |
|---|---|---|---|
| `near` | logits (Eq. 8) | $1 + (m - 1)\, \mathrm{closeness}$ | push related classes apart harder: the paper's idea |
| `far` | logits (Eq. 8) | $1 + (m - 1)\, (1 - \mathrm{closeness})$ | push unrelated classes apart harder |
| `relevance` | targets (Eq. 13) | $w\, \mathrm{closeness}$ from a level on | related rows are weak positives |

with $m$ = `max_distance`; the diagonal is 1 in each. `RelatedCrossEntropy` takes the relation into the classification
loss: as soft labels, or as a margin.
"""

from labeldist.relation.cross_entropy import RelatedCrossEntropy
from labeldist.relation.description import Relation
from labeldist.relation.entries import cosine_gap, max_distance_for

__all__ = ["RelatedCrossEntropy", "Relation", "cosine_gap", "max_distance_for"]
