r"""The loss of each anchor, one square tile of pairs at a time, with an analytic gradient.

What it is for: large batches on a CPU, and any device without fused kernels. No `(B, R)` tensor exists at any time:
memory is $O((B + R) D + C^2)$ and the buffers of one tile. Measured on two cores (`benchmarks/results/loss`), forward
and backward of 8,192 rows take 0.8 to 0.9 of the time of three plain products of the rows, and 1/52 of the memory of
eager PyTorch. float32 or float64. `labeldist.functional` is the specification.

Tables here are those of dot products (`ClassPairTables.for_dot_products`): $\mathrm{logit}_{ij} = \mathrm{scale}_{ab}
\, u_i^\top v_j + \mathrm{bias}_{ab}$ for an anchor of class $a$ and a reference of class $b$. Eq. 11-13 fall into two
parts:

- All positives of an anchor share its class, so the mean of their logits comes from sums over classes: $O((B + R) D)$.
- $\mathrm{lse}_i = \log \sum_j \exp \mathrm{logit}_{ij}$ needs every pair. For an upstream gradient $g_i$ its gradient
  is $\partial / \partial \mathrm{logit}_{ij} = g_i \exp(\mathrm{logit}_{ij} - \mathrm{lse}_i)$, computed again from the
  rows, tile by tile.

Where the anchors are their own references, a tile above the diagonal also stands for its mirror image: one dot product
for each unordered pair.

A process group whose processes all hold the same rows shares the tiles. Sums over pairs are then summed over the group,
$O(B + C^2)$ numbers; what needs no pairs, each process computes itself.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import threshold

from labeldist.backends._class_sums import ClassRows, ClassSums, class_sizes
from labeldist.backends._tiles import LN_2, PairGrid, RowGradients, Softmax, softmaxes_of, tile_rows_for, tiles
from labeldist.distributed import ProcessGroup, SingleProcess
from labeldist.functional import AnchorLosses, unit_rows
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["anchor_losses"]

# Buffers of four float32 tiles of 768 x 768 take 9 MiB: they stay in the last-level cache of most CPUs, and a tile is
# large enough that the start of an operation costs little.
TILE_ROWS = 768


def anchor_losses(
    batch: Batch,
    tables: ClassPairTables,
    *,
    tile_rows: int = TILE_ROWS,
    group: ProcessGroup | None = None,
) -> AnchorLosses:
    r"""Loss of each anchor, $\mathrm{lse}_i - \frac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i$.

    The numbers of `functional.anchor_losses` for all pairs. Differentiable once, in rows and tables. Two runs on one
    machine with the same number of threads give the same bits.

    Args:
        batch: anchors and references, `(B, D)` and `(R, D)`, of any length (normalized here).
        tables: scale and bias of each class pair, `(C, C)`, in the dtype of the losses: float32, or float64 for float64
            rows. `is_symmetric` and `span` are only used where the anchors are their own references; unknown ones are
            read from the tables, which waits for a GPU.
        tile_rows: rows and columns of a tile, at least 1. A process group uses smaller tiles where there would be too
            few.
        group: the processes that share the tiles; `None` for this one alone. Every process passes the same arguments
            and gets the same losses. In the backward pass the upstream gradients of all processes are summed. The
            gradient of a row is then this process's *part*, which the owner of the row sums over the group, as
            `labeldist.distributed.gather_rows` does. That of the tables is whole: the mean over the processes' losses.

    Returns:
        Losses in nats, `(B,)`, 0 for an anchor without a positive, and which anchors have one, boolean `(B,)`.

    Raises:
        ValueError: if `tile_rows` is below 1.
        RuntimeError: if the gradient is differentiated again.

    Examples:
        >>> batch = Batch(torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 0, 0, 1]))
        >>> losses, is_valid = anchor_losses(batch, ClassPairTables(torch.ones(2, 2), torch.zeros(2, 2)))
        >>> is_valid
        tensor([ True,  True,  True, False])
        >>> losses[0].isclose(torch.tensor([1.0, 0.5, 0.5]).logsumexp(0) - (1 + 0.5) / 2 - torch.tensor(2.0).log())
        tensor(True)
    """
    if tile_rows < 1:
        raise ValueError(f"tile_rows must be at least 1, got {tile_rows}.")
    group = group or SingleProcess()
    num_references = None if batch.ref_emb is None else len(batch.ref_emb)
    tile_rows = tile_rows_for(len(batch.embeddings), num_references, group.size, at_most=tile_rows)
    work = Work(tile_rows, group)
    if torch.compiler.is_compiling():
        # A graph of every tile would be huge, and valid for one size and one kind of tables only: run it uncompiled.
        return torch.compiler.disable(_anchor_losses)(batch, tables, work)  # pyright: ignore[reportCallIssue] # typed as a method
    return _anchor_losses(batch, tables, work)


class Work(NamedTuple):
    """How the pairs are cut and shared."""

    tile_rows: int
    group: ProcessGroup


def _anchor_losses(batch: Batch, tables: ClassPairTables, work: Work) -> AnchorLosses:
    anchors = unit_rows(batch.embeddings)
    if batch.ref_emb is None or batch.ref_labels is None:
        return unit_row_losses(Batch(anchors, batch.labels.long()), tables, work)
    references = unit_rows(batch.ref_emb).to(anchors.dtype)
    return unit_row_losses(Batch(anchors, batch.labels.long(), references, batch.ref_labels.long()), tables, work)


def unit_row_losses(batch: Batch, tables: ClassPairTables, work: Work) -> AnchorLosses:
    """The losses of rows of length 1 (or 0), in the dtype of the tables, with int64 labels."""
    anchors = batch.embeddings
    with torch.autocast(anchors.device.type, enabled=False):
        shift = _common_shift(tables) if batch.is_self and len(anchors) else None
        tables = tables.for_dot_products()
        log_partition = _LogPartition.apply(
            work, anchors, batch.ref_emb, tables.scale, tables.bias, batch.labels, batch.ref_labels, shift
        )
        num_positives, mean_positive = _positives(batch, tables)
        is_valid = num_positives > 0
        losses = log_partition - mean_positive - num_positives.clamp_min(1).to(anchors.dtype).log()
        return AnchorLosses(losses.masked_fill(~is_valid, 0), is_valid)


def _common_shift(tables: ClassPairTables) -> Tensor | None:
    """One number to subtract from every logit, so that a pair's exponential serves both its rows; `None` if none fits.

    That needs symmetric tables, and logits whose exponentials neither overflow nor vanish under one shift.
    """
    if tables.is_symmetric is None or tables.span is None:
        tables = tables.inspect()
    # A quarter of the exponent's range is for the sum over the references and for the upstream gradient, which a
    # gradient scaler may have multiplied by 2^16.
    largest_span = 0.75 * math.log(torch.finfo(tables.scale.dtype).max)
    if not tables.is_symmetric or tables.span is None or not tables.span <= largest_span:
        return None
    highest = (tables.scale + tables.bias).detach().amax()
    return torch.where(highest == -torch.inf, torch.zeros_like(highest), highest)


# Positives: sums over classes


def _positives(batch: Batch, tables: ClassPairTables) -> tuple[Tensor, Tensor]:
    """How many positives each anchor has, `(B,)`, and the mean of their logits, `(B,)`, undefined where it has none."""
    references, ref_labels = batch.references
    diagonals = torch.stack([tables.scale.diagonal(), tables.bias.diagonal()], dim=1)  # (C, 2)
    scale, bias = ClassRows.apply(diagonals, batch.labels).unbind(dim=1)  # (B,) each
    sums = ClassRows.apply(ClassSums.apply(references, ref_labels, tables.num_classes), batch.labels)  # (B, D)
    num_positives = class_sizes(ref_labels, tables.num_classes)[batch.labels]
    if batch.is_self:
        sums = sums - batch.embeddings
        num_positives = num_positives - 1
    mean_products = (batch.embeddings * sums).sum(dim=1) / num_positives.clamp_min(1)
    return num_positives.masked_fill(bias == -torch.inf, 0), scale * mean_products + bias


# The partition function: every pair


class _ForwardState(NamedTuple):
    """The tensors that the backward pass reads. Tables, maxima and shift are in base 2."""

    anchors: Tensor
    ref_emb: Tensor | None
    scale: Tensor
    bias: Tensor
    labels: Tensor
    ref_labels: Tensor | None
    shift: Tensor | None
    maxima: Tensor
    sums: Tensor

    @property
    def batch(self) -> Batch:
        return Batch(self.anchors, self.labels, self.ref_emb, self.ref_labels)

    @property
    def tables(self) -> ClassPairTables:
        return ClassPairTables(self.scale, self.bias)


class _LogPartition(Function):
    """The log-sum-exp of each anchor over all references, `(B,)`; over the other anchors where there are none."""

    @staticmethod
    def forward(
        ctx,
        work: Work,
        anchors: Tensor,
        ref_emb: Tensor | None,
        scale: Tensor,
        bias: Tensor,
        labels: Tensor,
        ref_labels: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        # In base 2: a CPU takes a third of exp's time for exp2, and not forty times as long below -87.
        tables = ClassPairTables(scale / LN_2, bias / LN_2)
        grid = PairGrid(Batch(anchors, labels, ref_emb, ref_labels), work.tile_rows, work.group)
        if shift is None:
            own_maxima, sums = _sums(grid, tables)
            maxima = work.group.max(own_maxima)
            sums = work.group.sum(sums * (own_maxima - maxima).exp2())
        else:
            shift = shift / LN_2
            sums = work.group.sum(_symmetric_sums(grid, tables, shift))
            maxima = shift.expand_as(sums)
        ctx.save_for_backward(anchors, ref_emb, *tables[:2], labels, ref_labels, shift, maxima, sums)
        ctx.work = work
        return (maxima + sums.log2()) * LN_2

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] # torch leaves it open
        needed = ctx.needs_input_grad[1:5]
        gradients = _LogPartitionGradient.apply(grad, ctx.work, needed, *ctx.saved_tensors)
        return None, *gradients, None, None, None


class _LogPartitionGradient(Function):
    """The backward of `_LogPartition`; a function of its own, so that a second derivative says what is wrong."""

    @staticmethod
    def forward(
        ctx, grad: Tensor, work: Work, needed: tuple[bool, bool, bool, bool], *saved: Tensor
    ) -> tuple[Tensor | None, ...]:
        state = _ForwardState(*saved)
        grid = PairGrid(state.batch, work.tile_rows, work.group)
        rows = RowGradients(grid, *needed[:2])
        needs_tables = any(needed[2:])
        # Not exp(logit - lse): every weight would carry the rounding of a large lse. An anchor that is compared with
        # nothing has no weights.
        grad_over_sum = (work.group.sum(grad) / state.sums).masked_fill(state.sums == 0, 0)
        # autocast may be on where backward is called.
        with torch.autocast(grad.device.type, enabled=False):
            if state.shift is None or needs_tables:
                of_tables = _gradient(grid, state, grad_over_sum, rows, needs_tables)
            else:
                of_tables = _symmetric_gradient(grid, state, grad_over_sum, rows)
        grad_scale, grad_bias = (None, None) if of_tables is None else work.group.sum(of_tables) / work.group.size
        return rows.of_anchors, rows.of_references, grad_scale, grad_bias

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "The blockwise loss can be differentiated once, got a second derivative. Take that from eager."
        )


def _symmetric_sums(grid: PairGrid, tables: ClassPairTables, shift: Tensor) -> Tensor:
    """Each anchor's sum of `exp2(logit - shift)`, where one exponential serves both rows of a pair."""
    sums = grid.anchors.new_zeros(len(grid.anchors))
    softmax = Softmax(grid, tables._replace(bias=tables.bias - shift))
    for tile in tiles(grid, [softmax]):
        exponentials = softmax.logits(tile).exp2_()
        sums[tile.rows] += exponentials.sum(dim=1)
        if not tile.is_diagonal:
            sums[tile.columns] += exponentials.sum(dim=0)
    return sums


def _symmetric_gradient(grid: PairGrid, state: _ForwardState, grad_over_sum: Tensor, rows: RowGradients) -> None:
    """Add weights `scale * exp2(logit - shift) * (grad / sum of one row + grad / sum of the other)` times the rows."""
    assert state.shift is not None
    softmax = Softmax(grid, ClassPairTables(state.scale, state.bias - state.shift))
    for tile in tiles(grid, [softmax]):
        weights = softmax.logits(tile).exp2_().mul_(tile.scale)
        of_rows, of_columns = grad_over_sum[tile.rows, None], grad_over_sum[None, tile.columns]
        weights.mul_(torch.add(of_rows, of_columns, out=tile.weights))
        # A tile on the diagonal holds both orders of its pairs.
        rows.add(tile, weights, both=not tile.is_diagonal)


def _sums(grid: PairGrid, tables: ClassPairTables) -> tuple[Tensor, Tensor]:
    """For any tables: each anchor's largest logit, and its sum of `exp2(logit - largest)`."""
    # Not -inf, which would give NaN where it meets itself.
    maxima = grid.anchors.new_full((len(grid.anchors),), torch.finfo(tables.scale.dtype).min)
    sums = torch.zeros_like(maxima)
    softmaxes = softmaxes_of(grid, tables)
    for tile in tiles(grid, softmaxes):
        for softmax in softmaxes[:1] if tile.is_diagonal else softmaxes:
            anchors = softmax.anchors_of(tile)
            logits = softmax.logits(tile)
            largest = torch.maximum(maxima[anchors], logits.amax(dim=softmax.dim))
            sums[anchors] *= (maxima[anchors] - largest).exp2()
            sums[anchors] += _exp2_(logits.sub_(largest.unsqueeze(softmax.dim))).sum(dim=softmax.dim)
            maxima[anchors] = largest
    return maxima, sums


def _gradient(
    grid: PairGrid, state: _ForwardState, grad_over_sum: Tensor, rows: RowGradients, needs_tables: bool
) -> Tensor | None:
    """Add weights `scale * exp2(logit - largest) * grad / sum`, and those of the mirrored pairs, times the rows.

    Returns:
        Gradients of scale and bias, `(2, C, C)`, if needed.
    """
    softmaxes = softmaxes_of(grid, state.tables)
    grad_scale, grad_bias = of_tables = state.scale.new_zeros(2, *state.scale.shape)
    for tile in tiles(grid, softmaxes):
        tile.weights.zero_()
        for softmax in softmaxes[:1] if tile.is_diagonal else softmaxes:
            anchors = softmax.anchors_of(tile)
            weights = _exp2_(softmax.logits(tile).sub_(state.maxima[anchors].unsqueeze(softmax.dim)))
            weights.mul_(grad_over_sum[anchors].unsqueeze(softmax.dim))
            tile.weights.addcmul_(weights, tile.scale)
            if needs_tables:
                softmax.add_by_classes(grad_bias, tile, weights)
                softmax.add_by_classes(grad_scale, tile, weights.mul_(tile.products))
        rows.add(tile, tile.weights)
    return of_tables if needs_tables else None


def _exp2_(logits: Tensor) -> Tensor:
    """Power of two in place, of logits minus their largest; 0 where it is below the rounding of their sum.

    Near the end of the dtype's range it would be a subnormal number, on which a CPU takes many times as long.
    """
    return threshold(logits, 4 * math.log2(torch.finfo(logits.dtype).eps), -torch.inf, inplace=True).exp2_()
