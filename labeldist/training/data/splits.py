"""Stratified draws: a validation split, a few labels per class, folds. They depend on labels, sizes and seed only."""

from collections.abc import Iterator

import numpy as np

__all__ = ["draw_shots", "stratified_folds", "stratified_split"]

# One stream of random numbers a kind of draw: shots do not repeat the validation split's order.
_SPLIT, _SHOTS, _FOLDS = 1, 2, 3


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a fraction of the rows so that classes keep their shares.

    `round(fraction * N)` rows are drawn, at least one, and no class gives its last row: classes of one row stay whole
    in the part that is kept. Each class gives the whole part of `fraction` times its rows, and the rest comes from
    those with the largest remainders, ties by lot.

    Args:
        labels: class index of each row, `(N,)`.
        fraction: share to draw, in (0, 1).
        seed: any integer >= 0.

    Returns:
        Positions kept and positions drawn, both ascending. Nothing is drawn where no class has two rows.

    Raises:
        ValueError: if `fraction` lies outside (0, 1) or `seed` is negative.

    Examples:
        >>> keep, drawn = stratified_split(np.array([0, 0, 0, 0, 1, 1, 2]), 0.4, seed=0)
        >>> len(keep), np.array([0, 0, 0, 0, 1, 1, 2])[drawn].tolist()
        (4, [0, 0, 1])
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}.")
    rng = _generator(_SPLIT, seed)
    members = list(_shuffled_classes(labels, rng))
    sizes = np.array([len(rows) for rows in members], dtype=np.int64)
    quotas = np.where(sizes > 1, fraction * sizes, 0.0)
    counts = np.minimum(np.floor(quotas).astype(np.int64), np.maximum(sizes - 1, 0))
    target = min(max(round(fraction * len(labels)), 1), int((sizes - 1).clip(0).sum()))
    # Largest remainder first; the shuffle beneath the stable sort settles ties.
    lot = rng.permutation(len(sizes))
    order = lot[np.argsort(-(quotas - counts)[lot], kind="stable")]
    missing = target - int(counts.sum())
    while missing > 0:
        able = order[counts[order] < sizes[order] - 1][:missing]
        counts[able] += 1
        missing -= len(able)
    drawn = _sorted_rows([rows[:count] for rows, count in zip(members, counts, strict=True)])
    return np.setdiff1d(np.arange(len(labels)), drawn), drawn


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Draw a few rows of each class; all of a class that has no more.

    With one seed, a smaller draw is part of a larger one.

    Args:
        labels: class index of each row, `(N,)`.
        shots: rows a class, >= 1.
        seed: any integer >= 0.

    Returns:
        Positions drawn, ascending.

    Raises:
        ValueError: if `shots` is below 1 or `seed` negative.

    Examples:
        >>> labels = np.array([0, 0, 0, 1])
        >>> labels[draw_shots(labels, 2, seed=0)].tolist()
        [0, 0, 1]
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}.")
    return _sorted_rows([rows[:shots] for rows in _shuffled_classes(labels, _generator(_SHOTS, seed))])


def stratified_folds(labels: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Deal the rows into folds so that classes keep their shares, for cross-validation.

    A row of a class of one is held out by no fold: without it, training would not know the class. So every class has a
    training row in every fold. Fold sizes differ by one at most.

    Args:
        labels: class index of each row, `(N,)`.
        num_folds: how many, >= 2 and no more than rows to deal.
        seed: any integer >= 0.

    Returns:
        The positions that each fold holds out, ascending.

    Raises:
        ValueError: if `num_folds` lies outside its range or `seed` is negative.

    Examples:
        >>> labels = np.array([0, 0, 1, 1, 2])
        >>> [labels[held_out].tolist() for held_out in stratified_folds(labels, 2, seed=0)]
        [[0, 1], [0, 1]]
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, got {num_folds}.")
    classes = [rows for rows in _shuffled_classes(labels, _generator(_FOLDS, seed)) if len(rows) > 1]
    dealt = np.concatenate(classes) if classes else np.zeros(0, dtype=np.int64)
    if len(dealt) < num_folds:
        raise ValueError(
            f"num_folds must not exceed the rows in classes of two or more rows, got {num_folds} folds of {len(dealt)}."
        )
    # Class after class, one card each in turn: rows of a class part as far as they go.
    return [np.sort(dealt[fold::num_folds]) for fold in range(num_folds)]


def _generator(stream: int, seed: int) -> np.random.Generator:
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    return np.random.default_rng([stream, seed])


def _shuffled_classes(labels: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The positions of each class, by class index, in random order."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    for rows in np.split(order, starts) if len(order) else ():
        yield rng.permutation(rows)


def _sorted_rows(parts: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
