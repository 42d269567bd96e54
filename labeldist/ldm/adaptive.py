"""Label distances learned from confusion counts while the classifier trains."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from labeldist.class_names import resolve_names
from labeldist.confusion import ArrayLike, as_counts
from labeldist.distributed import require_same, sum_over_processes
from labeldist.ldm.base import LabelDistanceMatrix
from labeldist.ldm.distances import check_max_distance, check_normalization, distances_from_confusion
from labeldist.options import Normalization

# The history's bound, in updates and in bytes of float32.
MAX_KEPT_UPDATES, MAX_KEPT_BYTES = 100, 64 << 20


class AdaptiveLDM(LabelDistanceMatrix):
    r"""Label distances learned from the validation set's confusion counts while the classifier trains.

    Algorithm 1: the matrix starts at 1. After a warm-up, every `update_every` evaluations,

    $$\varepsilon = 1 - \mathrm{progress}, \qquad
    \mathrm{LDM} \leftarrow \mathrm{LDM} + \varepsilon\,(\mathrm{LDM}' - \mathrm{LDM})$$

    with `LDM'` from the confusion counts: see `distances_from_confusion`. The latest updates are kept in `history`.

    Choice: the paper updates every 10 evaluations of unstated length; the default here is each one.

    Args:
        num_classes: `C`; this or `class_names`.
        class_names: one name per class.
        warmup_fraction: no update before this fraction of training is over, in [0, 1]; 0.2 in the paper.
        update_every: evaluations from one update to the next, >= 1; 10 in the paper.
        max_distance: distance of the most confused pair under `"rate"`, > 0.
        normalization: `"rate"` (default) or `"count"` (literally as in the paper).
        symmetric: average both directions of confusion.

    Raises:
        ValueError: if an argument lies outside its range.

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
    ):
        names = resolve_names(class_names, num_classes)
        super().__init__(torch.ones(len(names), len(names)), class_names=names)
        if not 0 <= warmup_fraction <= 1:
            raise ValueError(f"warmup_fraction must lie in [0, 1], got {warmup_fraction}.")
        if update_every < 1:
            raise ValueError(f"update_every must be at least 1, got {update_every}.")
        check_max_distance(max_distance)
        check_normalization(normalization)
        self.warmup_fraction = warmup_fraction
        self.update_every = update_every
        self.max_distance = max_distance
        self.normalization: Normalization = normalization
        self.symmetric = symmetric
        self.num_evaluations = 0
        self.num_updates = 0
        self._history: deque[tuple[float, Tensor]] = deque(maxlen=_num_kept(len(names)))
        self.epsilon = 0.0
        self.add_to_recordable_attributes(list_of_names=["epsilon"], is_stat=False)

    @torch.no_grad()
    def update(self, counts: ArrayLike, *, progress: float, is_local: bool = True) -> bool:
        """Take in the confusion counts of one evaluation; move the matrix if one is due.

        Under `torch.distributed` every process calls this, with the counts of its own rows. They are summed before
        they are normalised, so that all processes hold the same matrix.

        Args:
            counts: `(C, C)`, non-negative, row = true class, column = predicted.
            progress: fraction of training done, in [0, 1]: `step / total_steps`.
            is_local: whether the counts are of this process's rows. `False` where every process holds the counts of all
                rows: nothing is summed.

        Returns:
            Whether the matrix moved.

        Raises:
            ValueError: if `counts` has another shape or a negative entry, or `progress` lies outside [0, 1]; on all
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
        self.num_evaluations += 1
        self.epsilon = 1 - progress
        # Algorithm 1, line 4: strictly after the warm-up.
        if progress <= self.warmup_fraction or self.num_evaluations % self.update_every:
            return False
        self.matrix += self.epsilon * (target - self.matrix)
        self.num_updates += 1
        self._history.append((progress, self.matrix.detach().cpu().clone()))
        return True

    @property
    def history(self) -> list[tuple[float, Tensor]]:
        """`(progress, matrix)` after each of the latest updates, oldest first, on the CPU.

        At most 100 updates and 64 MiB are kept; `num_updates` counts all of them.
        """
        return list(self._history)

    def get_extra_state(self) -> Tensor:
        """The counters and the history as one tensor, for `state_dict`.

        Not buffers: what averages or broadcasts a module's buffers must find the same shapes in each copy, and must not
        average counters. A tensor, because safetensors stores nothing else. Row 0 holds both counters, each other row
        the progress and the entries of one update.
        """
        width = 1 + self.num_classes**2
        state = torch.zeros(1 + len(self._history), width, dtype=self.matrix.dtype)
        state[0, :2] = torch.tensor([self.num_evaluations, self.num_updates])
        for row, (progress, matrix) in zip(state[1:], self._history, strict=True):
            row[0], row[1:] = progress, matrix.flatten()
        return state

    def set_extra_state(self, state: Tensor) -> None:
        """Take up counters and history from `state_dict`."""
        if state.shape[1:] != (1 + self.num_classes**2,):
            return  # of another number of classes: PyTorch says so of the matrix
        state = state.detach().cpu()
        self.num_evaluations, self.num_updates = (int(number) for number in state[0, :2])
        self._history.clear()
        for row in state[1:]:
            # float32 has seven digits, of which six are kept.
            self._history.append((round(row[0].item(), 6), row[1:].reshape(self.matrix.shape).to(self.matrix.dtype)))


def _num_kept(num_classes: int) -> int:
    """How many updates the history keeps."""
    return min(MAX_KEPT_UPDATES, MAX_KEPT_BYTES // (4 * num_classes**2))
