"""What passes between the steps of the loss: sorted rows, what the backward needs of the forward, partial sums."""

from typing import NamedTuple

from torch import Tensor

from labeldist.backends.fused.launching import Precision

__all__ = ["WHOLE", "PartialSums", "Problem", "Saved", "Share", "Sorted", "Units", "Weights"]


class Share(NamedTuple):
    """Which of the pairs to go through: one of `num_parts` parts, in [0, num_parts)."""

    part: int
    num_parts: int


WHOLE = Share(0, 1)


class Units(NamedTuple):
    """Unit rows in the caller's order.

    Attributes:
        rows: `(N, D)`, float32; float16 for wide rows whose products are no more exact.
        inverse: `(N,)`, float32: 1 / length; negative below the norm's floor, 0 for a zero row.
    """

    rows: Tensor
    inverse: Tensor


class Sorted(NamedTuple):
    """Rows by class, as the kernels over pairs read them.

    Attributes:
        rows: `(padded N, width)`, in the dtype of the products; two planes of it for float32, `(padded N, 2 width)`.
        labels: `(padded N,)`, int32.
        order: `(N,)`, the caller's index of each sorted row.
        segments: `(2, C)`, where each class starts and ends, int32.
    """

    rows: Tensor
    labels: Tensor
    order: Tensor
    segments: Tensor

    # Not `len`: of a tensor it takes ten times as long, and a batch of some thousand rows waits for the host.

    def is_split(self, width: int) -> bool:
        """Whether a row is two planes of `width` numbers, as of float32."""
        return self.rows.shape[1] > width

    @property
    def num_rows(self) -> int:
        """Rows, without padding."""
        return self.order.shape[0]

    @property
    def num_padded(self) -> int:
        """Rows with padding."""
        return self.rows.shape[0]


class Saved(NamedTuple):
    """What the backward needs from the forward, besides the rows.

    Attributes:
        bases: `(padded B,)`, sorted, base 2: what logits are taken relative to, which is one shift for all where pairs
            are mirrored, else the anchor's log-sum-exp; `inf` for an anchor without a loss.
        normalisers: `(padded B,)`, sorted: the softmax is this times `exp2(logit - base)`; 0 without a loss.
        positives: `(padded B,)`, sorted: mean dot product with the positives.
        class_sums: `(C, width)`, sums of the references.
        tables: `(C, C)`, int64: two float32, see `_kernels_tables.pack_tables`.
        summaries: see `_kernels_tables.table_summary`.
    """

    bases: Tensor
    normalisers: Tensor
    positives: Tensor
    class_sums: Tensor
    tables: Tensor
    summaries: Tensor

    @property
    def num_classes(self) -> int:
        """C."""
        return self.tables.shape[0]


class PartialSums(NamedTuple):
    """Sums of exp2 over parts of the pairs of each row. Which of the two kinds holds, the device knows.

    Attributes:
        maxima: `(dense parts, padded B)`, what is taken off the logits in the dense parts.
        sums: `(most parts, padded B)`.
        num_dense: dense parts.
        num_mirrored: parts with one shift for all.
    """

    maxima: Tensor
    sums: Tensor
    num_dense: int
    num_mirrored: int


class Problem(NamedTuple):
    """The forward's rows and tables. Without references the anchors stand on both sides.

    Attributes:
        anchors: unit rows of the anchors.
        references: of the references.
        own: the anchors by class.
        others: the references by class.
        saved: what the forward found.
        modes: whether pairs may be mirrored, or must be dense, or the device knows.
        is_self: whether the batch is its own reference.
        precision: of the products.
        share: which of the pairs are to be gone through.
    """

    anchors: Units
    references: Units
    own: Sorted
    others: Sorted
    saved: Saved
    modes: list[bool]
    is_self: bool
    precision: Precision
    share: Share = WHOLE


class Weights(NamedTuple):
    """What the anchors bring into the gradients.

    Attributes:
        gradients: `(padded B,)`, upstream gradient by sorted row, 0 without a loss.
        coefficients: `(padded B,)`, the factors of the pairs' weights, in units of `unit`.
        unit: `(1,)`, or `None` for 1.
    """

    gradients: Tensor
    coefficients: Tensor
    unit: Tensor | None
