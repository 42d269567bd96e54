"""Class pairs that one objective keeps apart better, or worse, than another."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from labeldist.training.records import Confusion
from labeldist.training.study.results import PairChange, PairChanges

__all__ = ["pair_changes"]

NUM_PAIRS = 5


def pair_changes(
    base: Sequence[Confusion], other: Sequence[Confusion], class_names: Sequence[str], *, top: int = NUM_PAIRS
) -> PairChanges:
    """Compare how often two objectives confuse each pair of classes.

    A pair counts both directions: rows of the first class taken for the second, and the reverse. Pairs without a change
    are in neither list. Memory grows with the confusions, not with the square of the classes.

    Args:
        base: confusion counts of the objective compared with, one for each seed.
        other: confusion counts of the objective in question, one for each seed.
        class_names: name of each class, C of them.
        top: at most so many pairs in each list.

    Returns:
        The pairs, largest change of the mean over seeds first, and in the order of the classes where changes are equal.

    Raises:
        ValueError: if a list is empty or names a class that does not exist.

    Examples:
        >>> pair_changes([Confusion((0, 1), (1, 0), (3, 1))], [Confusion((0, 1), (1, 0), (1, 1))], ["ask", "tell"])
        PairChanges(repaired=(PairChange(first='ask', second='tell', base=4.0, other=2.0, base_right=0.0,
        other_right=0.0),), broken=())
    """
    means = [_mean_pair_counts(confusions, len(class_names)) for confusions in (base, other)]
    change = (means[0] - means[1]).tocoo()
    # Rounded, so that equal changes tie whatever their last bits are.
    order = np.lexsort((change.col, change.row, -np.abs(change.data).round(9)))

    right = [_mean_right(confusions, len(class_names)) for confusions in (base, other)]

    def largest(sign: int) -> tuple[PairChange, ...]:
        cells = [(int(change.row[i]), int(change.col[i])) for i in order if sign * change.data[i] > 0][:top]
        return tuple(
            PairChange(
                class_names[first],
                class_names[second],
                *(float(mean[first, second]) for mean in means),
                *(float(rows[first] + rows[second]) for rows in right),
            )
            for first, second in cells
        )

    return PairChanges(repaired=largest(1), broken=largest(-1))


def _mean_right(confusions: Sequence[Confusion], num_classes: int) -> np.ndarray:
    """Rows of each class that are right, mean over seeds, `(C,)`."""
    total = np.zeros(num_classes)
    for one in confusions:
        true, predicted, num_rows = np.array((one.true, one.predicted, one.num_rows), dtype=np.int64)
        np.add.at(total, true[true == predicted], num_rows[true == predicted])
    return total / len(confusions)


def _mean_pair_counts(confusions: Sequence[Confusion], num_classes: int) -> sparse.csr_array:
    """Confused rows of each pair, either way, mean over seeds: `(C, C)`, above the diagonal."""
    if not confusions:
        raise ValueError("confusions must have an entry for each seed, got none.")
    total = sparse.csr_array((num_classes, num_classes), dtype=np.int64)
    for one in confusions:
        total = total + sparse.coo_array((one.num_rows, (one.true, one.predicted)), shape=total.shape, dtype=np.int64)
    pairs = sparse.triu(total + total.T, k=1)
    return sparse.csr_array(pairs) / len(confusions)
