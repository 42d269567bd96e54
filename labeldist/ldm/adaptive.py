"""Label distances learnt from confusion counts while the classifier trains."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from labeldist.class_names import resolve_names
from labeldist.distributed import require_same, sum_over_processes
from labeldist.ldm.base import LabelDistanceMatrix
from labeldist.ldm.distances import Normalization, check_max_distance, check_normalization, distances_from_confusion


class AdaptiveLDM(LabelDistanceMatrix):
    r"""Label distances learnt from the validation set's confusion counts while the classifier trains.

    Algorithm 1: the matrix starts at 1. After a warm-up, every `update_every` evaluations,

    $$\varepsilon = 1 - \mathrm{progress}, \qquad
    \mathrm{LDM} \leftarrow \mathrm{LDM} + \varepsilon\,(\mathrm{LDM}' - \mathrm{LDM})$$

    with `LDM'` from the confusion counts: see `distances_from_confusion`. Every update is kept in `history`.

    Choice: the paper updates every 10 evaluations of unstated length; the default here is each one.

    Args:
        num_classes: `C`; this or `class_names`.
        class_names: one name a class.
        warmup_fraction: no update before this fraction of training is over, in [0, 1]; 0.2 in the paper.
        update_every: evaluations from one update to the next, >= 1; 10 in the paper.
        max_distance: distance of the most confused pair under `"rate"`, > 0.
        normalization: `"rate"` (default) or `"count"` (the letter of the paper).
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

    num_evaluations: Tensor
    history_table: Tensor

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
        # Buffers, not Python state: they follow state_dict into any checkpoint format. An update is a column, its
        # progress above its matrix: PML's record keeper takes a tensor of less than two rows for a number.
        self.register_buffer("num_evaluations", torch.zeros((), dtype=torch.int64))
        self.register_buffer("history_table", torch.zeros(1 + len(names) ** 2, 0))
        self.epsilon = 0.0
        self.add_to_recordable_attributes(list_of_names=["epsilon"], is_stat=False)

    @torch.no_grad()
    def update(self, counts: Tensor, *, progress: float, is_local: bool = True) -> bool:
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
        if progress <= self.warmup_fraction or self.num_evaluations.item() % self.update_every:
            return False
        self.matrix += self.epsilon * (target - self.matrix)
        column = torch.cat([self.history_table.new_tensor([progress]), self.matrix.flatten().to(self.history_table)])
        self.history_table = torch.cat([self.history_table, column[:, None]], dim=1)
        return True

    @property
    def history(self) -> list[tuple[float, Tensor]]:
        """`(progress, matrix)` after each update, oldest first."""
        matrices = self.history_table[1:].T.unflatten(1, self.matrix.shape).to(self.matrix.dtype)
        # float32 has seven digits, of which six are told.
        progress = [round(value, 6) for value in self.history_table[0].tolist()]
        return list(zip(progress, matrices, strict=True))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The history grows: take the stored length before PyTorch compares shapes.
        stored = state_dict.get(prefix + "history_table")
        if stored is not None and len(stored) == len(self.history_table):
            self.history_table = self.history_table.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # type: ignore[arg-type]
