r"""Relations: how closely classes are related, and four ways to use this in the contrastive loss.

A `Relation` holds `closeness[a, b]` in [0, 1], with 1 for a class and itself. It is built from a hierarchy, an order,
groups, pairs, costs, texts, vectors or confusions. Its methods make tables for the loss:

| method | where it enters | table | effect on the embeddings |
|---|---|---|---|
| `near` | logits (Eq. 8) | $1 + (m - 1)\, \mathrm{closeness}$ | push related classes apart harder: the paper's idea |
| `far` | logits (Eq. 8) | $1 + (m - 1)\, (1 - \mathrm{closeness})$ | push unrelated classes apart harder |
| `relevance` | targets (Eq. 13) | $w\, \mathrm{closeness}$, or 0 below `level` | related rows are weak positives |
| `levels` | targets (Eq. 13) | for each $c$: 1 if $\mathrm{closeness} \ge c$, else 0 | one contrast for each level |

with $m$ = `max_distance` and $w$ = `weight`. The diagonal of each table is 1. `RelatedCrossEntropy` uses the relation
in the classification loss: as soft labels, or as a margin. `AdaptiveRelevance` learns graded targets from confusions.
"""

from labeldist.relation.adaptive import AdaptiveRelevance
from labeldist.relation.cross_entropy import RelatedCrossEntropy
from labeldist.relation.description import Relation
from labeldist.relation.entries import cosine_gap, max_distance_for

__all__ = ["AdaptiveRelevance", "RelatedCrossEntropy", "Relation", "cosine_gap", "max_distance_for"]
