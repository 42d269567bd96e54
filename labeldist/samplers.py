"""A batch sampler that puts easily confused classes into the same batch."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

from labeldist.checks import check_labels, check_matrix
from labeldist.distributed import num_processes, process_index
from labeldist.ldm import LabelDistanceMatrix
from labeldist.relation import Relation
from labeldist.relation.description import matrix_of_candidates

__all__ = ["LabelDistanceBatchSampler"]


class LabelDistanceBatchSampler(BatchSampler):
    r"""Sample batches of `classes_per_batch` easily confused classes, with `rows_per_class` rows each.

    A contrastive loss compares only rows of the same batch. The rows of each class are shuffled and divided into groups
    of `rows_per_class`. Each batch draws its classes one after the other: the first with $P(c) \propto n_c$, the next
    with

    $$P(c) \propto n_c \sum_{s \in \mathrm{batch}} a_{sc}^{\gamma}, \qquad
    a_{sc} = \tfrac12 (\mathrm{LDM}[s, c] + \mathrm{LDM}[c, s])$$

    where $n_c$ is the number of remaining groups of class $c$ and $\gamma$ is `sharpness`. A class with so many
    remaining groups that every remaining batch needs one of them is drawn first, and more than once if necessary.

    An epoch contains every row exactly once, and the numbers of groups in two batches differ by at most one. The
    batches depend on `seed`, on the epoch, and on the LDM at the start of the epoch, so an adaptive matrix changes
    them. Under `torch.distributed` each process gets every `num_replicas`-th batch, and all processes get the same
    number of batches; all processes must hold the same LDM.

    Pass it to a `DataLoader` as `batch_sampler`, or to a trainer of pytorch-metric-learning as `sampler`. Each
    iteration is one epoch. Call `set_epoch` to repeat an epoch or to resume. If a framework distributes the batches
    itself, as accelerate's `prepare` does, pass `num_replicas=1, rank=0`; otherwise most rows are skipped.

    To resume within an epoch, that epoch's batches must be drawn again with the matrix of its start: see `epoch_state`
    and `restore_epoch`, which `TrainerObjective` and the callback for sentence-transformers call.

    Args:
        labels: class of each row of the data set, `(N,)`, integer.
        ldm: the label-distance matrix: a `LabelDistanceMatrix` (shared, not copied) or a `(C, C)` tensor. Easily
            confused classes have large entries. For a `Relation`, the sampler uses `near()`: related classes are drawn
            together, whatever the loss does with them.
        classes_per_batch: groups per batch, >= 1. The groups belong to different classes if the class sizes allow it.
        rows_per_class: rows per group, >= 1. If the size of a class is not a multiple of it, the groups of this class
            are smaller; their sizes differ by at most one row.
        sharpness: $\gamma \ge 0$. 0 ignores the LDM; with larger values, confusable classes share a batch more often.
        drop_last: drop incomplete groups and batches; each epoch drops different rows. All batches then have
            `classes_per_batch * rows_per_class` rows.
        seed: seed of the shuffling.
        num_replicas: number of processes that share an epoch; `None` uses the world size of `torch.distributed`.
        rank: index of this process, in [0, `num_replicas`); `None` uses the rank of `torch.distributed`.

    Raises:
        ValueError: if a number or a label is out of range, or there are too few rows for one batch per process. At the
            start of an epoch: if the LDM has a negative or non-finite entry.
        TypeError: if labels are not integers.

    Examples:
        >>> from labeldist import LabelDistanceBatchSampler, StaticLDM
        >>> labels = [0, 0, 1, 1, 2, 2, 3, 3]
        >>> ldm = StaticLDM.from_pairs([(0, 2, 1e6), (1, 3, 1e6)], num_classes=4)
        >>> sampler = LabelDistanceBatchSampler(labels, ldm, classes_per_batch=2, rows_per_class=2)
        >>> sorted(sorted(labels[row] for row in batch) for batch in sampler)
        [[0, 0, 2, 2], [1, 1, 3, 3]]
    """

    def __init__(
        self,
        labels: Sequence[int] | Tensor,
        ldm: LabelDistanceMatrix | Relation | Tensor,
        *,
        classes_per_batch: int = 8,
        rows_per_class: int = 4,
        sharpness: float = 2.0,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ):
        numbers = {"classes_per_batch": classes_per_batch, "rows_per_class": rows_per_class}
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        if not 0 <= sharpness < math.inf:
            raise ValueError(f"sharpness must be a finite number of at least 0, got {sharpness}.")
        self.ldm = matrix_of_candidates(ldm)
        try:
            self.labels = torch.as_tensor(labels).detach().cpu()
        except (TypeError, ValueError) as error:
            raise TypeError(
                "labels must be class indices, one integer for each row of the data set. Look names up in the LDM's "
                "class_names first."
            ) from error
        check_labels(self.labels, self.labels.numel(), self.ldm.num_classes, rows="the data set")
        self.labels = self.labels.long()
        # Frameworks read these attributes of a batch sampler. No rows are drawn from this SequentialSampler.
        super().__init__(SequentialSampler(range(len(self.labels))), classes_per_batch * rows_per_class, drop_last)
        if not drop_last:
            # Batch sizes vary. If a batch size is set, accelerate skips batches of other sizes.
            self.batch_size = None  # pyright: ignore[reportAttributeAccessIssue]
        self.classes_per_batch = classes_per_batch
        self.rows_per_class = rows_per_class
        self.sharpness = sharpness
        self.seed = seed
        self.epoch = 0
        # The epoch whose batches were drawn last, and the matrix they were drawn with.
        self._drawn: tuple[int, Tensor] | None = None
        self._restored: tuple[int, Tensor] | None = None
        self.num_replicas = num_processes() if num_replicas is None else num_replicas
        self.rank = process_index() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"rank must lie in [0, num_replicas) = [0, {self.num_replicas}), got {self.rank}.")
        self._num_rows = torch.bincount(self.labels, minlength=self.ldm.num_classes)
        missing = 0 if drop_last else rows_per_class - 1
        self._num_groups = (self._num_rows + missing) // rows_per_class
        self._num_batches = self._count_batches()

    def _count_batches(self) -> int:
        """Number of batches per epoch, over all processes."""
        num_groups = int(self._num_groups.sum())
        if self.drop_last:
            num_batches = num_groups // self.classes_per_batch // self.num_replicas * self.num_replicas
            needed, hint = self.num_replicas * self.classes_per_batch, ", or set drop_last=False"
        else:
            num_batches = -(-num_groups // (self.classes_per_batch * self.num_replicas)) * self.num_replicas
            # After rounding up to a multiple of the processes, there may be more batches than groups.
            needed, hint = max(num_batches, self.num_replicas), ""
        if num_groups < needed:
            raise ValueError(
                f"an epoch needs at least {needed} groups of {self.rows_per_class} rows of a class for a batch on each "
                f"of {self.num_replicas} processes, got {num_groups} from {len(self.labels)} rows. Make groups and "
                f"batches smaller{hint}."
            )
        return num_batches

    def __len__(self) -> int:
        """Number of batches per epoch on this process."""
        return self._num_batches // self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, >= 0. Without a call, each iteration advances the epoch by one."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}.")
        self.epoch = epoch

    def epoch_state(self) -> dict[str, int | Tensor]:
        """The epoch that started last and the matrix that its batches were drawn with; empty before the first epoch.

        Examples:
            >>> sampler = LabelDistanceBatchSampler([0, 0, 1, 1], torch.ones(2, 2), rows_per_class=2)
            >>> _ = next(iter(sampler))
            >>> sampler.epoch_state()["epoch"]
            0
        """
        return {} if self._drawn is None else {"epoch": self._drawn[0], "matrix": self._drawn[1]}

    def restore_epoch(self, state: Mapping[str, int | Tensor]) -> None:
        """Draw the batches of one epoch again with the matrix of its start, when that epoch is next: see `set_epoch`.

        The batches that were already used are drawn again; skip them. Other epochs use the current matrix.

        Args:
            state: what `epoch_state` returned within the epoch.
        """
        if state:
            self._restored = int(state["epoch"]), torch.as_tensor(state["matrix"])

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row indices of each batch."""
        # A generator function, so that an epoch starts when its first batch is read: a `DataLoader` with workers makes
        # two iterators for its first epoch, but reads only one.
        generator = torch.Generator().manual_seed(self.seed)
        # Draw one seed per epoch from the generator: seed 0 in epoch 1 must differ from seed 1 in epoch 0.
        epoch_seeds = torch.randint(2**62, (self.epoch + 1,), generator=generator)
        matrix = self.ldm.matrix
        if self._restored is not None and self._restored[0] == self.epoch:
            matrix, self._restored = self._restored[1], None
        self._drawn = self.epoch, matrix.detach().clone()
        self.epoch += 1
        batches = self._batches(generator.manual_seed(int(epoch_seeds[-1])), matrix)
        yield from batches[self.rank :: self.num_replicas]

    def _batches(self, generator: torch.Generator, matrix: Tensor) -> list[list[int]]:
        """All batches of an epoch, over all processes."""
        groups = self._groups(generator)
        remaining = torch.tensor([len(class_groups) for class_groups in groups], dtype=torch.float64)
        affinity = _affinity(matrix, self.sharpness)
        batches = []
        for num_batches in range(self._num_batches, 0, -1):
            classes = _draw_classes(remaining, num_batches, affinity, generator)
            remaining -= torch.bincount(torch.tensor(classes), minlength=len(remaining))
            batches.append([row for c in classes for row in groups[c].pop()])
        return batches

    def _groups(self, generator: torch.Generator) -> list[list[list[int]]]:
        """The groups of each class: its shuffled rows, split."""
        order = torch.randperm(len(self.labels), generator=generator)
        order = order[self.labels[order].argsort(stable=True)]
        groups = []
        for rows, number in zip(order.split(self._num_rows.tolist()), self._num_groups.tolist(), strict=True):
            kept = rows[: number * self.rows_per_class]
            groups.append([group.tolist() for group in kept.tensor_split(number)] if number else [])
        if self.drop_last:
            # Drop surplus groups before drawing batches: afterwards only groups of the largest classes remain.
            owners = torch.arange(len(groups)).repeat_interleave(self._num_groups)
            surplus = len(owners) - self._num_batches * self.classes_per_batch
            for c in owners[torch.randperm(len(owners), generator=generator)[:surplus]].tolist():
                groups[c].pop()
        return groups


def _affinity(matrix: Tensor, sharpness: float) -> Tensor:
    r"""$a^{\gamma}$ up to a factor, `(C, C)`, float64."""
    matrix = matrix.detach().to("cpu", torch.float64)
    check_matrix(matrix)
    matrix = matrix + matrix.T
    # Divide by the maximum first, because a large power overflows.
    affinity = (matrix / matrix.max().clamp_min(torch.finfo(matrix.dtype).tiny)) ** sharpness
    # Sums of denormal numbers are too inaccurate to draw from.
    return torch.threshold(affinity, 1e-200, 0.0)


def _draw_classes(remaining: Tensor, num_batches: int, affinity: Tensor, generator: torch.Generator) -> list[int]:
    """Draw the classes of the next of `num_batches` batches; `remaining` counts the unused groups of each class."""
    # Divide the remaining groups evenly among the remaining batches, so that the last batch is not smaller.
    size = math.ceil(remaining.sum().item() / num_batches)
    # A class with as many remaining groups as there are remaining batches must be in each of them.
    required = (remaining / num_batches).floor()
    classes = torch.arange(len(remaining)).repeat_interleave(required.long()).tolist()
    available = remaining - required
    unused = available.masked_fill(required > 0, 0)
    closeness = affinity[classes].sum(dim=0)
    # A float32 below 1 times a float64 sum is less than the sum, so the index of the drawn class is in range.
    for number in torch.rand(size - len(classes), generator=generator).tolist():
        ends = (unused * closeness).cumsum(0)
        if not ends[-1]:  # the batch is empty, or all remaining classes have affinity 0 to it
            ends = unused.cumsum(0)
        if not ends[-1]:  # fewer classes than groups in the batch
            ends = available.cumsum(0)
        drawn = int(torch.searchsorted(ends, number * ends[-1], right=True))
        available[drawn] -= 1
        unused[drawn] = 0
        closeness += affinity[drawn]
        classes.append(drawn)
    return classes
