"""A batch sampler that lets confusable classes meet."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

from labeldist.checks import check_labels, check_matrix
from labeldist.distributed import num_processes, process_index
from labeldist.ldm import LabelDistanceMatrix, StaticLDM

__all__ = ["LabelDistanceBatchSampler"]


class LabelDistanceBatchSampler(BatchSampler):
    r"""Batches of `rows_per_class` rows from each of `classes_per_batch` classes that are easily confused.

    In-batch contrast separates only what meets in a batch. Each class's rows are shuffled and cut into groups; a batch
    takes its classes one after the other, the first with $P(c) \propto n_c$, class $c$ then with probability

    $$P(c) \propto n_c \sum_{s \in \mathrm{batch}} a_{sc}^{\gamma}, \qquad
    a_{sc} = \tfrac12 (\mathrm{LDM}[s, c] + \mathrm{LDM}[c, s])$$

    where $n_c$ is the number of its groups that are left and $\gamma$ the `sharpness`. A class that could not be used
    up otherwise comes first, more than once if it must.

    Every row is seen exactly once an epoch, and batches differ by at most one group. Batches depend on `seed`, the
    epoch and the LDM as it is when an epoch starts, so that an adaptive matrix moves them. Under `torch.distributed`
    each process gets every `num_replicas`-th batch, the same number of them; all processes must hold the same LDM.

    Give it to a `DataLoader` as `batch_sampler`, or to a trainer of pytorch-metric-learning as `sampler`. Each
    iteration is an epoch; call `set_epoch` to repeat one or to go on after a restart. Where a framework shares out the
    batches itself, as accelerate's `prepare` does, say `num_replicas=1, rank=0`, or most rows are left out. A training
    that is resumed within an epoch needs that epoch's batches again, whatever became of the matrix since:
    `epoch_state` and `restore_epoch`, which `TrainerObjective` and the callback for sentence-transformers call.

    Args:
        labels: class of each row of the data set, `(N,)`, integer.
        ldm: the label distances; a `LabelDistanceMatrix`, shared, or a `(C, C)` tensor.
        classes_per_batch: groups in a batch, >= 1; as many different classes, where the classes' sizes allow.
        rows_per_class: rows in a group, >= 1. Where it does not divide a class, the groups of the class are smaller,
            equal but for one row.
        sharpness: $\gamma \ge 0$: 0 draws classes regardless of the LDM, larger values bind confusable ones closer.
        drop_last: leave out what does not fill a group and a batch, other rows in each epoch. All batches then have
            `classes_per_batch * rows_per_class` rows.
        seed: of the shuffling.
        num_replicas: processes that share an epoch; those of `torch.distributed` if `None`.
        rank: this process among them; of `torch.distributed` if `None`.

    Raises:
        ValueError: if a number or a label is out of range, or there are too few rows for one batch a process. At the
            start of an epoch: if the LDM has a negative entry or one that is not finite.
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
        ldm: LabelDistanceMatrix | Tensor,
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
        self.ldm = ldm if isinstance(ldm, LabelDistanceMatrix) else StaticLDM(ldm)
        try:
            self.labels = torch.as_tensor(labels).detach().cpu()
        except (TypeError, ValueError) as error:
            raise TypeError(
                "labels must be class indices, one integer for each row of the data set. Look names up in the LDM's "
                "class_names first."
            ) from error
        check_labels(self.labels, self.labels.numel(), self.ldm.num_classes, rows="the data set")
        self.labels = self.labels.long()
        # What frameworks read from a batch sampler; rows are not drawn from this sampler.
        super().__init__(SequentialSampler(range(len(self.labels))), classes_per_batch * rows_per_class, drop_last)
        if not drop_last:
            # Batches are of several sizes: accelerate takes all where none is stated, and skips those of another.
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
        """Batches an epoch, of all processes."""
        num_groups = int(self._num_groups.sum())
        if self.drop_last:
            num_batches = num_groups // self.classes_per_batch // self.num_replicas * self.num_replicas
            needed, cure = self.num_replicas * self.classes_per_batch, ", or set drop_last=False"
        else:
            num_batches = -(-num_groups // (self.classes_per_batch * self.num_replicas)) * self.num_replicas
            # Rounded up to the processes, batches of one group may be more than there are groups.
            needed, cure = max(num_batches, self.num_replicas), ""
        if num_groups < needed:
            raise ValueError(
                f"an epoch needs at least {needed} groups of {self.rows_per_class} rows of a class for a batch on each "
                f"of {self.num_replicas} processes, got {num_groups} from {len(self.labels)} rows. Make groups and "
                f"batches smaller{cure}."
            )
        return num_batches

    def __len__(self) -> int:
        """Batches an epoch, on this process."""
        return self._num_batches // self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch, >= 0; without a call, each iteration is the one after the last."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}.")
        self.epoch = epoch

    def epoch_state(self) -> dict[str, int | Tensor]:
        """The epoch that began last and the matrix that its batches were drawn with; empty before the first.

        Examples:
            >>> sampler = LabelDistanceBatchSampler([0, 0, 1, 1], torch.ones(2, 2), rows_per_class=2)
            >>> _ = next(iter(sampler))
            >>> sampler.epoch_state()["epoch"]
            0
        """
        return {} if self._drawn is None else {"epoch": self._drawn[0], "matrix": self._drawn[1]}

    def restore_epoch(self, state: Mapping[str, int | Tensor]) -> None:
        """Draw the batches of an epoch as they were drawn before, when it is that epoch's turn: see `set_epoch`.

        The batches that were used already come again and are to be skipped. Other epochs are drawn with the matrix as
        it then is.

        Args:
            state: what `epoch_state` returned within the epoch.
        """
        if state:
            self._restored = int(state["epoch"]), torch.as_tensor(state["matrix"])

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch."""
        # A generator, so that an epoch begins with its first batch: a `DataLoader` with workers makes two iterators for
        # its first epoch and reads one.
        generator = torch.Generator().manual_seed(self.seed)
        # One number of the seed's own stream an epoch: seed 0, epoch 1 is not seed 1, epoch 0.
        epoch_seeds = torch.randint(2**62, (self.epoch + 1,), generator=generator)
        matrix = self.ldm.matrix
        if self._restored is not None and self._restored[0] == self.epoch:
            matrix, self._restored = self._restored[1], None
        self._drawn = self.epoch, matrix.detach().clone()
        self.epoch += 1
        batches = self._batches(generator.manual_seed(int(epoch_seeds[-1])), matrix)
        yield from batches[self.rank :: self.num_replicas]

    def _batches(self, generator: torch.Generator, matrix: Tensor) -> list[list[int]]:
        """The batches of an epoch, of all processes."""
        groups = self._groups(generator)
        left = torch.tensor([len(of_class) for of_class in groups], dtype=torch.float64)
        affinity = _affinity(matrix, self.sharpness)
        batches = []
        for num_left in range(self._num_batches, 0, -1):
            classes = _draw_classes(left, num_left, affinity, generator)
            left -= torch.bincount(torch.tensor(classes), minlength=len(left))
            batches.append([row for c in classes for row in groups[c].pop()])
        return batches

    def _groups(self, generator: torch.Generator) -> list[list[list[int]]]:
        """The groups of each class: its rows, shuffled and cut."""
        order = torch.randperm(len(self.labels), generator=generator)
        order = order[self.labels[order].argsort(stable=True)]
        groups = []
        for rows, number in zip(order.split(self._num_rows.tolist()), self._num_groups.tolist(), strict=True):
            kept = rows[: number * self.rows_per_class]
            groups.append([group.tolist() for group in kept.tensor_split(number)] if number else [])
        if self.drop_last:
            # Surplus groups go before any batch is drawn: by then it is the largest classes alone that are left.
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
    # Divide by the largest first: a large power overflows.
    affinity = (matrix / matrix.max().clamp_min(torch.finfo(matrix.dtype).tiny)) ** sharpness
    # Sums of denormal numbers have too few digits to draw from.
    return torch.threshold(affinity, 1e-200, 0.0)


def _draw_classes(left: Tensor, num_left: int, affinity: Tensor, generator: torch.Generator) -> list[int]:
    """The classes of the next of `num_left` batches, where `left` groups of each are left."""
    # As many groups as the rest of the epoch needs of each batch: no small batch at the end.
    size = math.ceil(left.sum().item() / num_left)
    # A class with as many groups as there are batches left must be in each of them.
    due = (left / num_left).floor()
    classes = torch.arange(len(left)).repeat_interleave(due.long()).tolist()
    available = left - due
    unused = available.masked_fill(due > 0, 0)
    closeness = affinity[classes].sum(dim=0)
    # A float32 below 1 times a float64 sum is below the sum: no class beyond the last is drawn.
    for number in torch.rand(size - len(classes), generator=generator).tolist():
        ends = (unused * closeness).cumsum(0)
        if not ends[-1]:  # the first class, or one that is far from all that are left
            ends = unused.cumsum(0)
        if not ends[-1]:  # fewer classes than places
            ends = available.cumsum(0)
        drawn = int(torch.searchsorted(ends, number * ends[-1], right=True))
        available[drawn] -= 1
        unused[drawn] = 0
        closeness += affinity[drawn]
        classes.append(drawn)
    return classes
