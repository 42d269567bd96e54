"""A label-distance matrix that is learned from confusion counts during training."""

from collections import deque
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from labeldist.class_names import resolve_names
from labeldist.confusion import ArrayLike, as_counts
from labeldist.distributed import require_same, sum_over_processes
from labeldist.ldm.base import LabelDistanceMatrix
from labeldist.ldm.distances import check_max_distance, check_normalization, distances_from_confusion
from labeldist.options import Normalization

# Limits of the history: number of updates, and bytes of float32.
MAX_KEPT_UPDATES, MAX_KEPT_BYTES = 100, 64 << 20


class AdaptiveLDM(LabelDistanceMatrix):
    r"""A label-distance matrix that is learned from validation confusion counts during training.

    Algorithm 1: all entries start at 1. After a warm-up, every `update_every` evaluations,

    $$\varepsilon = 1 - \mathrm{progress}, \qquad
    \mathrm{LDM} \leftarrow \mathrm{LDM} + \varepsilon\,(\mathrm{LDM}' - \mathrm{LDM})$$

    where `LDM'` is computed from the confusion counts: see `distances_from_confusion`. `history` holds the latest
    updates. An entry is a weight, not a dissimilarity: the classes that are confused most get the largest entries.

    Choice: the paper updates every 10 evaluations, but does not say how often it evaluates. The default here is an
    update at each evaluation.

    Args:
        num_classes: `C`; pass this or `class_names`.
        class_names: one name per class.
        warmup_fraction: fraction of training without updates at the start, in [0, 1]; 0.2 in the paper.
        update_every: number of evaluations per update, >= 1; 10 in the paper.
        max_distance: entry of the most confused pair with `normalization="rate"`, > 0.
        normalization: `"rate"`, or `"count"` for the paper's literal form.
        symmetric: average both directions of confusion.
        use: `"near"` gives the classes that are confused most the largest entries: the paper's idea. `"far"` gives them
            the smallest, so that they may stay close: off the diagonal, $1 + m - \mathrm{LDM}'$ takes the place of
            `LDM'`, with $m$ = `max_distance`. See `labeldist.relation`.

    Raises:
        ValueError: if an argument lies outside its range, or `use="far"` is combined with `normalization="count"`,
            whose entries have no upper limit.

    Examples:
        >>> ldm = AdaptiveLDM(2, warmup_fraction=0.2)
        >>> counts = torch.tensor([[6, 4], [2, 8]])
        >>> ldm.update(counts, progress=0.1)  # still warming up
        False
        >>> ldm.update(counts, progress=0.5)
        True
        >>> ldm.matrix  # halfway from 1 to max_distance = 5
        tensor([[1., 3.],
                [3., 1.]])
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        class_names: Sequence[str] | None = None,
        warmup_fraction: float = 0.2,
        update_every: int = 1,
        max_distance: float = 5.0,
        normalization: Normalization = "rate",
        symmetric: bool = True,
        use: Literal["near", "far"] = "near",
    ):
        names = resolve_names(class_names, num_classes)
        super().__init__(torch.ones(len(names), len(names)), class_names=names)
        if not 0 <= warmup_fraction <= 1:
            raise ValueError(f"warmup_fraction must lie in [0, 1], got {warmup_fraction}.")
        if update_every < 1:
            raise ValueError(f"update_every must be at least 1, got {update_every}.")
        check_max_distance(max_distance)
        check_normalization(normalization)
        if use not in ("near", "far"):
            cure = " Graded targets that learn are labeldist.AdaptiveRelevance." if use == "graded" else ""
            raise ValueError(f"use must be 'near' or 'far', got {use!r}.{cure}")
        if use == "far" and normalization != "rate":
            raise ValueError(
                f"use='far' needs normalization='rate', whose entries end at max_distance, got {normalization!r}."
            )
        self.warmup_fraction = warmup_fraction
        self.update_every = update_every
        self.max_distance = max_distance
        self.normalization: Normalization = normalization
        self.symmetric = symmetric
        self.use: Literal["near", "far"] = use
        self.num_evaluations = 0
        self.num_updates = 0
        self._history: deque[tuple[float, Tensor]] = deque(maxlen=_num_kept(len(names)))
        self.epsilon = 0.0
        self.add_to_recordable_attributes(list_of_names=["epsilon"], is_stat=False)

    @torch.no_grad()
    def update(self, counts: ArrayLike, *, progress: float, is_local: bool = True) -> bool:
        """Process the confusion counts of one evaluation, and update the matrix if an update is due.

        Under `torch.distributed` every process must call this with the counts of its own rows. The counts are summed
        over the processes before normalization, so that all processes hold the same matrix.

        Args:
            counts: `(C, C)`, non-negative, row = true class, column = predicted class.
            progress: completed fraction of training, in [0, 1]: `step / total_steps`.
            is_local: whether `counts` covers only this process's rows. Pass `False` if every process holds the counts
                of all rows; then nothing is summed.

        Returns:
            Whether the matrix was updated.

        Raises:
            ValueError: if `counts` has the wrong shape or a negative entry, or `progress` lies outside [0, 1]; on all
                processes if their matrices have different numbers of classes.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in [0, 1] (step / total_steps), got {progress}.")
        counts = as_counts(counts)
        if counts.shape != self.matrix.shape:
            raise ValueError(f"counts must have shape {tuple(self.matrix.shape)}, got {tuple(counts.shape)}.")
        if is_local:
            require_same({"number of classes": self.num_classes})
            counts = sum_over_processes(counts.to(self.matrix.device))
        target = distances_from_confusion(
            counts, max_distance=self.max_distance, normalization=self.normalization, symmetric=self.symmetric
        ).to(self.matrix)
        if self.use == "far":
            target = (1 + self.max_distance - target).fill_diagonal_(1)
        self.num_evaluations += 1
        self.epsilon = 1 - progress
        # Algorithm 1, line 4: strictly after the warm-up.
        if progress <= self.warmup_fraction or self.num_evaluations % self.update_every:
            return False
        self.matrix += self.epsilon * (target - self.matrix)
        self.num_updates += 1
        self._history.append((round(progress, 6), self.matrix.detach().cpu().clone()))
        return True

    @property
    def history(self) -> list[tuple[float, Tensor]]:
        """`(progress, matrix)` after each of the latest updates, oldest first, on the CPU.

        At most 100 updates and 64 MiB are kept; `num_updates` counts all of them.
        """
        return list(self._history)

    def get_extra_state(self) -> Tensor:
        """The counters and the history as one tensor, for `state_dict`.

        They are not buffers, because tools that average or broadcast buffers need the same shapes in each copy and
        would average the counters. They are a tensor, because safetensors stores only tensors. Row 0 holds the two
        counters; each other row holds the progress and the entries of one update.
        """
        # Without a history, two numbers need no row of C**2 + 1 zeros.
        width = 1 + self.num_classes**2 if self._history else 2
        state = torch.zeros(1 + len(self._history), width, dtype=self.matrix.dtype)
        state[0, :2] = torch.tensor([self.num_evaluations, self.num_updates])
        for row, (progress, matrix) in zip(state[1:], self._history, strict=True):
            row[0], row[1:] = progress, matrix.flatten()
        return state

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the counters and the history from `state_dict`."""
        if len(state) > 1 and state.shape[1:] != (1 + self.num_classes**2,):
            return  # for a different number of classes, load_state_dict raises an error about the matrix
        state = state.detach().cpu()
        self.num_evaluations, self.num_updates = (int(number) for number in state[0, :2])
        self._history.clear()
        for row in state[1:]:
            # Keep six of the seven digits of float32.
            self._history.append((round(row[0].item(), 6), row[1:].reshape(self.matrix.shape).to(self.matrix.dtype)))


def _num_kept(num_classes: int) -> int:
    """Maximum number of updates in the history."""
    return min(MAX_KEPT_UPDATES, MAX_KEPT_BYTES // (4 * num_classes**2))
