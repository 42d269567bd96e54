"""What passes between the steps of a large batch: rows sorted by class, and what the backward needs of the forward."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_tables
from labeldist.backends.fused.launching import Slot, Workspace
from labeldist.backends.fused.tilings import is_wide, padded_rows, padded_width
from labeldist.distributed import ProcessGroup
from labeldist.pairs import Batch, ClassPairTables

__all__ = [
    "MAX_SPAN",
    "AnchorTerms",
    "ForwardState",
    "GradedState",
    "PairMode",
    "PartialSums",
    "Problem",
    "Shard",
    "SortedRows",
    "num_words",
    "problem_of",
]

# Nats that the logits may span under one shift: `_kernels_tables.MAX_SPAN` is in base 2.
MAX_SPAN = 118.0

# "mirrored": one exponential serves both orders of a pair (self-references, symmetric tables, one shift). "dense": one
# per order.
PairMode = Literal["mirrored", "dense"]


@dataclass(frozen=True)
class Shard:
    """Which of the pairs to compute: every `num_shards`-th, from number `index` on."""

    index: int
    num_shards: int


class SortedRows(NamedTuple):
    """Rows by class, as the kernels over pairs read them, and unit rows in the caller's order.

    Attributes:
        unit_rows: `(N, D)`, float32; float16 for wide rows, whose products are of no more digits.
        inverse_norms: `(N,)`, float32: 1 / norm; negative below the norm's floor, 0 for a zero row.
        rows: `(padded N, width)`, sorted, in the dtype of the products; `(padded N, 2 width)` for float32, which is two
            planes of float16.
        labels: `(padded N,)`, int32.
        order: `(N,)`, int64, the caller's index of each sorted row.
        starts: `(C,)`, int32, where each class starts.
        ends: `(C,)`, int32, where each class ends.
    """

    unit_rows: Slot
    inverse_norms: Slot
    rows: Slot
    labels: Slot
    order: Slot
    starts: Slot
    ends: Slot

    @property
    def num_rows(self) -> int:
        """Rows, without padding."""
        return self.order.shape[0]

    @property
    def num_padded(self) -> int:
        """Rows with padding."""
        return self.rows.shape[0]


class ForwardState(NamedTuple):
    """What the backward needs of the forward, besides the rows.

    Attributes:
        shifts: `(padded B,)`, sorted, base 2: what logits are taken relative to. One number for all anchors where pairs
            are mirrored, else the anchor's log-sum-exp; `inf` for an anchor without a loss.
        normalizers: `(padded B,)`, sorted: the softmax is `exp2(logit - shift)` times it; 0 without a loss.
        positives: `(padded B,)`, sorted: mean dot product with the positives; with graded targets the mean of
            `logit - log relevance` under them, in nats.
        class_sums: `(C, width)`, sums of the references.
        tables: `(C, C)`, int64: two float32, see `_kernels_tables.py`.
        summaries: see `_kernels_tables.table_summary`.
    """

    shifts: Slot
    normalizers: Slot
    positives: Slot
    class_sums: Slot
    tables: Slot
    summaries: Slot


class GradedState(NamedTuple):
    """What the backward needs of the forward for graded targets, see `_targets.py`; in nats.

    Attributes:
        pulls: `(C, width)`, `ClassTargets.pulls`.
        numbers: `(3, C)`, `ClassTargets.total`, `constant` and `own_scale`.
    """

    pulls: Slot
    numbers: Slot


class Problem(NamedTuple):
    """A large batch on its way through the kernels.

    Attributes:
        batch: the caller's rows and labels.
        tables: the caller's tables, functions of the similarity.
        anchors: the anchors by class.
        references: the references by class; the anchors where the batch is its own reference.
        state: what the forward finds.
        modes: the possible modes; with both, the device picks one.
        shard: which of the pairs to compute.
        group: the processes that hold the other shards.
        graded: what the forward finds for graded targets, if there are any.
    """

    batch: Batch
    tables: ClassPairTables
    anchors: SortedRows
    references: SortedRows
    state: ForwardState
    modes: tuple[PairMode, ...]
    shard: Shard
    group: ProcessGroup | None
    graded: GradedState | None

    @property
    def is_self(self) -> bool:
        """Whether the batch is its own reference."""
        return self.batch.is_self

    @property
    def num_classes(self) -> int:
        """C."""
        return self.tables.num_classes

    @property
    def dtype(self) -> torch.dtype:
        """Of the anchors as given: it decides on the digits of the products."""
        return self.batch.embeddings.dtype

    @property
    def width(self) -> int:
        """Columns of padded rows; of each plane, if there are two."""
        return self.state.class_sums.shape[1]

    @property
    def is_wide(self) -> bool:
        """Whether pair weights go through memory."""
        return is_wide(self.batch.embeddings.shape[1], self.dtype)

    @property
    def is_two_planes(self) -> bool:
        """Whether a row is two planes of float16, as of float32."""
        return self.anchors.rows.shape[1] > self.width


class PartialSums(NamedTuple):
    """Sums of exp2 over parts of the pairs of each row. The device knows which of the modes holds.

    Attributes:
        maxima: `(dense parts, padded B)`, what is subtracted from the logits in the dense parts.
        sums: `(most parts, padded B)`.
        num_dense: dense parts.
        num_mirrored: mirrored parts, with one shift for all.
    """

    maxima: Tensor
    sums: Tensor
    num_dense: int
    num_mirrored: int


class AnchorTerms(NamedTuple):
    """What the anchors contribute to the gradients.

    Attributes:
        gradients: `(padded B,)`, upstream gradient of each sorted anchor, 0 without a loss.
        coefficients: `(padded B,)`, what the exponentials of its pairs are multiplied by, times the loss scale.
        loss_scale: `(1,)`, what brings pair weights into the range of float16; `None` for 1.
    """

    gradients: Tensor
    coefficients: Tensor
    loss_scale: Tensor | None


def num_words(batch: Batch, tables: ClassPairTables) -> int:
    """Length of the workspace."""
    return _workspace(*_shapes(batch, tables)).num_words


def problem_of(batch: Batch, tables: ClassPairTables, workspace: Tensor, group: ProcessGroup | None) -> Problem:
    """A batch with the slots of its workspace by name."""
    slots = _cached_workspace(*_shapes(batch, tables)).slots(workspace)
    graded = None
    if tables.relevance is not None:
        num_graded = len(GradedState._fields)
        slots, graded = slots[:-num_graded], GradedState(*slots[-num_graded:])
    num_state, num_rows = len(ForwardState._fields), len(SortedRows._fields)
    anchors = SortedRows(*slots[num_state : num_state + num_rows])
    return Problem(
        batch=batch,
        tables=tables,
        anchors=anchors,
        references=anchors if batch.is_self else SortedRows(*slots[num_state + num_rows :]),
        state=ForwardState(*slots[:num_state]),
        modes=_possible_modes(batch, tables),
        shard=Shard(0, 1) if group is None else Shard(group.rank, group.size),
        group=group,
        graded=graded,
    )


def _shapes(
    batch: Batch, tables: ClassPairTables
) -> tuple[tuple[int, ...], tuple[int, ...] | None, int, torch.dtype, bool]:
    references = None if batch.ref_emb is None else batch.ref_emb.shape
    return batch.embeddings.shape, references, tables.num_classes, batch.embeddings.dtype, tables.relevance is not None


def _possible_modes(batch: Batch, tables: ClassPairTables) -> tuple[PairMode, ...]:
    fits_one_shift = None if tables.span is None else tables.span <= MAX_SPAN
    if not batch.is_self or tables.is_symmetric is False or fits_one_shift is False:
        return ("dense",)
    return ("mirrored",) if tables.is_symmetric and fits_one_shift else ("mirrored", "dense")


def _workspace(
    anchors: tuple[int, ...], references: tuple[int, ...] | None, num_classes: int, dtype: torch.dtype, is_graded: bool
) -> Workspace:
    wide = is_wide(anchors[1], dtype)
    width, padded = padded_width(anchors[1], is_wide=wide), padded_rows(anchors[0])
    # Rows of the wide kernels are float16, whatever the dtype given: see `wide.py`.
    num_planes = 2 if dtype == torch.float32 and wide else 1
    product_dtype = torch.float16 if wide else dtype

    def sorted_rows(prefix: str, shape: tuple[int, ...]) -> dict:
        return {
            f"{prefix}unit_rows": (shape, torch.float16 if wide and num_planes == 1 else torch.float32),
            f"{prefix}inverse_norms": ((shape[0],), torch.float32),
            f"{prefix}rows": ((padded_rows(shape[0]), num_planes * width), product_dtype),
            f"{prefix}labels": ((padded_rows(shape[0]),), torch.int32),
            f"{prefix}order": ((shape[0],), torch.int64),
            f"{prefix}starts": ((num_classes,), torch.int32),
            f"{prefix}ends": ((num_classes,), torch.int32),
        }

    graded = {"pulls": ((num_classes, width), torch.float32), "numbers": ((3, num_classes), torch.float32)}
    # In the order of `ForwardState`, `SortedRows` and `GradedState`.
    return Workspace(
        shifts=((padded,), torch.float32),
        normalizers=((padded,), torch.float32),
        positives=((padded,), torch.float32),
        class_sums=((num_classes, width), torch.float32),
        tables=((num_classes, num_classes), torch.int64),
        summaries=((4, int(_kernels_tables.NUM_SUMMARIES)), torch.float32),
        **sorted_rows("anchor_", anchors),
        **({} if references is None else sorted_rows("ref_", references)),
        **(graded if is_graded else {}),
    )


# For shapes that are numbers; those of a traced batch are symbols.
_cached_workspace = lru_cache(_workspace)
