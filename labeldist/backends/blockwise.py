r"""The loss of each anchor, computed one square tile of pairs at a time, with an analytic gradient.

Use it for large batches on a CPU, and on devices without fused kernels. It never allocates a `(B, R)` tensor: memory is
$O((B + R) D + C^2)$ plus the buffers of one tile. On two CPU cores (`benchmarks/results/loss`), forward and backward of
8,192 rows take 0.8 to 0.9 of the time of three matrix products of the rows, and 1/52 of the memory of eager PyTorch. It
computes in float32 or float64. `labeldist.functional` is the specification.

The tables in this module are those of dot products (`ClassPairTables.for_dot_products`):
$\mathrm{logit}_{ij} = \mathrm{scale}_{ab} \, u_i^\top v_j + \mathrm{bias}_{ab}$ for an anchor of class $a$ and a
reference of class $b$. The loss (Eq. 11-13) has two parts:

- The mean logit of the positives. All positives of an anchor share its class, so this mean follows from sums over
  classes in $O((B + R) D)$ time. With graded targets (`tables.relevance`) it follows from the sums over all classes and
  takes $O(P D)$ time more, for $P$ class pairs that are relevant: see `_targets.py`.
- $\mathrm{lse}_i = \log \sum_j \exp \mathrm{logit}_{ij}$, which needs every pair. For an upstream gradient $g_i$, the
  gradient of $\mathrm{logit}_{ij}$ is $g_i \exp(\mathrm{logit}_{ij} - \mathrm{lse}_i)$. The backward pass recomputes it
  from the rows, tile by tile.

If the anchors are their own references, a tile above the diagonal also covers its mirror image, so each unordered pair
needs only one dot product.

On a CPU it uses one thread for each core that other processes leave free, see `_threads`: beside a process that keeps
one of two cores busy, forward and backward of 4,096 x 128 rows take 0.12 s instead of 3.7 s.

The processes of a group, which all hold the same rows, divide the tiles among themselves. Sums over pairs are summed
over the group, $O(B + C^2)$ numbers. Each process computes the parts without pairs itself.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import threshold

from labeldist.backends._by_load import SECOND_DERIVATIVE, losses_by_load
from labeldist.backends._class_sums import ClassRows, ClassSums, class_sizes
from labeldist.backends._targets import class_targets, few_class_targets, target_tables
from labeldist.backends._tiles import LN_2, PairGrid, RowGradients, Softmax, softmaxes_of, tile_rows_for, tiles
from labeldist.distributed import ProcessGroup, SingleProcess
from labeldist.functional import AnchorLosses, unit_rows
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["anchor_losses"]

# Four float32 buffers of 768 x 768 take 9 MiB. They fit into the last-level cache of most CPUs, and a tile is large
# enough that the overhead per operation is small.
TILE_ROWS = 768
# With fewer pairs, by "auto" not computed here, one pass takes 1 ms, and choosing the number of threads 0.1 ms of it.
MIN_PAIRS_BY_LOAD = 2**18
# Graded targets of more classes use only the entries above 0, if these are few, or else the classes that occur in the
# batch. Finding either synchronizes with a GPU, where the product over all classes takes little time: so on a CPU only.
MAX_CLASSES_UNSELECTED = 64
# An entry takes the time of about so many entries of a dense product.
ENTRY_COST = 32


def anchor_losses(
    batch: Batch,
    tables: ClassPairTables,
    *,
    tile_rows: int = TILE_ROWS,
    group: ProcessGroup | None = None,
) -> AnchorLosses:
    r"""Loss of each anchor, $\mathrm{lse}_i - \frac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i$.

    Equal to `functional.anchor_losses` for all pairs, up to rounding. Differentiable once, with respect to rows and
    tables. Results are bitwise reproducible on one machine with the same number of threads. On a CPU, from 512 x 512
    pairs on, this number follows the load (see `_threads`), unless `torch.use_deterministic_algorithms` is set.

    Args:
        batch: anchors and references, `(B, D)` and `(R, D)`; rows are normalized here.
        tables: scale, bias and, for graded targets, relevance of each class pair, `(C, C)`, in the dtype of the losses:
            float32, or float64 for float64 rows. `is_symmetric` and `span` are used only if the anchors are their own
            references; if one is `None`, it is computed from the tables, which synchronizes with a GPU.
        tile_rows: rows and columns of a tile, at least 1. A process group uses smaller tiles if there are too few
            tiles.
        group: processes that divide the tiles among themselves; `None` for a single process. Every process passes the
            same arguments and gets the same losses. The backward pass sums the upstream gradients of all processes. The
            gradient of a row covers only this process's tiles: the process that owns the row must sum it over the
            group, as `labeldist.distributed.gather_rows` does. The gradient of the tables is complete, and averaged
            over the losses of the processes.

    Returns:
        Losses in nats, `(B,)`, 0 for an anchor without a positive, and the boolean mask of valid anchors, `(B,)`.

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
    options = TileOptions(tile_rows, group)
    if torch.compiler.is_compiling():
        # Run uncompiled: a graph of all tiles would be huge, and valid for one batch size and one kind of tables only.
        return torch.compiler.disable(_run)(batch, tables, options)  # pyright: ignore[reportCallIssue] # typed as a method
    return _run(batch, tables, options)


class TileOptions(NamedTuple):
    """The tile size, and the process group that divides the tiles."""

    tile_rows: int
    group: ProcessGroup


def _run(batch: Batch, tables: ClassPairTables, options: TileOptions) -> AnchorLosses:
    """The losses, on a CPU with one thread for each free CPU."""
    num_pairs = len(batch.embeddings) * len(batch.references[0])
    # Only what no load changes decides: under checkpointing, the second forward pass must save the same tensors.
    # The processes of a group must round alike.
    if batch.embeddings.device.type != "cpu" or num_pairs < MIN_PAIRS_BY_LOAD or options.group.size > 1:
        return _anchor_losses(batch, tables, options)
    return losses_by_load(partial(_anchor_losses, options=options), batch, tables)


def _anchor_losses(batch: Batch, tables: ClassPairTables, options: TileOptions) -> AnchorLosses:
    anchors = unit_rows(batch.embeddings)
    if batch.ref_emb is None or batch.ref_labels is None:
        return unit_row_losses(Batch(anchors, batch.labels.long()), tables, options)
    references = unit_rows(batch.ref_emb).to(anchors.dtype)
    return unit_row_losses(Batch(anchors, batch.labels.long(), references, batch.ref_labels.long()), tables, options)


def unit_row_losses(batch: Batch, tables: ClassPairTables, options: TileOptions) -> AnchorLosses:
    """The losses of normalized rows, in the dtype of the tables, with int64 labels."""
    anchors = batch.embeddings
    with torch.autocast(anchors.device.type, enabled=False):
        shift = _common_shift(tables) if batch.is_self and len(anchors) else None
        tables = tables.for_dot_products()
        log_partition = _LogPartition.apply(
            options, anchors, batch.ref_emb, tables.scale, tables.bias, batch.labels, batch.ref_labels, shift
        )
        if tables.relevance is not None:
            total, mean_logit = _graded_targets(batch, tables)
            is_valid = total != 0
            losses = log_partition - mean_logit - total.masked_fill(~is_valid, 1).log()
            return AnchorLosses(losses.masked_fill(~is_valid, 0), is_valid)
        num_positives, mean_positive = _positives(batch, tables)
        is_valid = num_positives > 0
        losses = log_partition - mean_positive - num_positives.clamp_min(1).to(anchors.dtype).log()
        return AnchorLosses(losses.masked_fill(~is_valid, 0), is_valid)


def _common_shift(tables: ClassPairTables) -> Tensor | None:
    """One shift for all logits, so that one exponential per pair serves both of its rows; `None` if not possible.

    It is possible if the tables are symmetric and, with one shift for all logits, no exponential overflows or vanishes.
    """
    if tables.is_symmetric is None or tables.span is None:
        tables = tables.inspect()
    # Reserve a quarter of the exponent's range for the sum over the references and for the upstream gradient, which a
    # gradient scaler may multiply by 2^16.
    largest_span = 0.75 * math.log(torch.finfo(tables.scale.dtype).max)
    if not tables.is_symmetric or tables.span is None or not tables.span <= largest_span:
        return None
    highest = (tables.scale + tables.bias).detach().amax()
    return torch.where(highest == -torch.inf, torch.zeros_like(highest), highest)


# The mean logit of the positives, from sums over classes


def _positives(batch: Batch, tables: ClassPairTables) -> tuple[Tensor, Tensor]:
    """Number of positives of each anchor, `(B,)`, and their mean logit, `(B,)`, undefined for an anchor with none."""
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


def _graded_targets(batch: Batch, tables: ClassPairTables) -> tuple[Tensor, Tensor]:
    """Sum of the relevances of each anchor's references, `(B,)`, and the mean of `logit - log relevance` under them."""
    is_selective = tables.num_classes > MAX_CLASSES_UNSELECTED and batch.labels.device.type == "cpu"
    entries = _few_entries(tables) if is_selective else None
    if is_selective and entries is None:
        batch, tables = _classes_that_occur(batch, tables)
    references, ref_labels = batch.references
    sums = ClassSums.apply(references, ref_labels, tables.num_classes)  # (C, D)
    sizes = class_sizes(ref_labels, tables.num_classes).to(sums.dtype)
    if entries is None:
        by_class = class_targets(target_tables(tables), sums, sizes, is_self=batch.is_self)
    else:
        by_class = few_class_targets(tables, *entries, sums, sizes, is_self=batch.is_self)
    numbers = torch.stack([by_class.total, by_class.constant, by_class.own_scale], dim=1)  # (C, 3)
    total, constant, own_scale = ClassRows.apply(numbers, batch.labels).unbind(dim=1)  # (B,) each
    own_sums = ClassRows.apply(sums, batch.labels)  # (B, D)
    if batch.is_self:
        own_sums = own_sums - batch.embeddings
    pulls = ClassRows.apply(by_class.pulls, batch.labels)  # (B, D)
    pulls = torch.addcmul(pulls, own_scale[:, None], own_sums)
    products = (batch.embeddings * pulls).sum(dim=1)
    return total, (products + constant) / total.masked_fill(total == 0, 1)


def _few_entries(tables: ClassPairTables) -> tuple[Tensor, Tensor] | None:
    """Row and column of each entry of the relevance that is not 0; `None` unless they are few."""
    assert tables.relevance is not None
    is_relevant = tables.relevance.detach() != 0
    if ENTRY_COST * int(is_relevant.count_nonzero()) > is_relevant.numel():
        return None
    rows, columns = is_relevant.nonzero(as_tuple=True)
    return rows, columns


def _classes_that_occur(batch: Batch, tables: ClassPairTables) -> tuple[Batch, ClassPairTables]:
    """The batch and the tables of its classes only, numbered anew; unchanged if most classes occur."""
    num_rows = len(batch.labels)
    labels = batch.labels if batch.ref_labels is None else torch.cat([batch.labels, batch.ref_labels])
    classes, positions = labels.unique(return_inverse=True)
    if 4 * len(classes) > 3 * tables.num_classes:
        return batch, tables
    assert tables.relevance is not None
    scale, bias, relevance = (
        table.index_select(0, classes).index_select(1, classes)
        for table in (tables.scale, tables.bias, tables.relevance)
    )
    ref_labels = None if batch.is_self else positions[num_rows:]
    return batch._replace(labels=positions[:num_rows], ref_labels=ref_labels), ClassPairTables(
        scale, bias, relevance=relevance
    )


# The log-partition function, from all pairs


class _ForwardState(NamedTuple):
    """The tensors that the forward pass saves for the backward pass. Tables, maxima and shift are in base 2."""

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
    """Log-sum-exp of each anchor's logits, `(B,)`: over the references, or over the other anchors if there are none."""

    @staticmethod
    def forward(
        ctx,
        options: TileOptions,
        anchors: Tensor,
        ref_emb: Tensor | None,
        scale: Tensor,
        bias: Tensor,
        labels: Tensor,
        ref_labels: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        # In base 2, because on a CPU exp2 takes a third of the time of exp, which is forty times slower below -87.
        tables = ClassPairTables(scale / LN_2, bias / LN_2)
        grid = PairGrid(Batch(anchors, labels, ref_emb, ref_labels), options.tile_rows, options.group)
        if shift is None:
            own_maxima, sums = _sums(grid, tables)
            maxima = options.group.max(own_maxima)
            sums = options.group.sum(sums * (own_maxima - maxima).exp2())
        else:
            shift = shift / LN_2
            sums = options.group.sum(_mirrored_sums(grid, tables, shift))
            maxima = shift.expand_as(sums)
        ctx.save_for_backward(anchors, ref_emb, *tables[:2], labels, ref_labels, shift, maxima, sums)
        ctx.options = options
        return (maxima + sums.log2()) * LN_2

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] # torch declares *grads
        needed = ctx.needs_input_grad[1:5]
        gradients = _LogPartitionGradient.apply(grad, ctx.options, needed, *ctx.saved_tensors)
        return None, *gradients, None, None, None


class _LogPartitionGradient(Function):
    """The backward pass of `_LogPartition`, as a function whose own backward pass raises a clear error."""

    @staticmethod
    def forward(
        ctx, grad: Tensor, options: TileOptions, needed: tuple[bool, bool, bool, bool], *saved: Tensor
    ) -> tuple[Tensor | None, ...]:
        state = _ForwardState(*saved)
        grid = PairGrid(state.batch, options.tile_rows, options.group)
        rows = RowGradients(grid, *needed[:2])
        needs_tables = any(needed[2:])
        # Divide by the sum instead of using exp(logit - lse), where the rounding error of a large lse would affect
        # every weight. The sum is 0 for an anchor that is compared with nothing.
        grad_over_sum = (options.group.sum(grad) / state.sums).masked_fill(state.sums == 0, 0)
        # autocast may be enabled where backward is called.
        with torch.autocast(grad.device.type, enabled=False):
            if state.shift is None or needs_tables:
                grad_tables = _gradient(grid, state, grad_over_sum, rows, needs_tables)
            else:
                grad_tables = _mirrored_gradient(grid, state, grad_over_sum, rows)
        grad_scale, grad_bias = (
            (None, None) if grad_tables is None else options.group.sum(grad_tables) / options.group.size
        )
        return rows.grad_anchors, rows.grad_references, grad_scale, grad_bias

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(SECOND_DERIVATIVE)


def _mirrored_sums(grid: PairGrid, tables: ClassPairTables, shift: Tensor) -> Tensor:
    """Sum of `exp2(logit - shift)` for each anchor, with one exponential for both rows of a pair."""
    sums = grid.anchors.new_zeros(len(grid.anchors))
    softmax = Softmax(grid, tables._replace(bias=tables.bias - shift))
    for tile in tiles(grid, [softmax]):
        exponentials = softmax.logits(tile).exp2_()
        sums[tile.rows] += exponentials.sum(dim=1)
        if not tile.is_diagonal:
            sums[tile.columns] += exponentials.sum(dim=0)
    return sums


def _mirrored_gradient(grid: PairGrid, state: _ForwardState, grad_over_sum: Tensor, rows: RowGradients) -> None:
    """Add the row gradients, with weights `scale * exp2(logit - shift) * (grad_i / sum_i + grad_j / sum_j)`."""
    assert state.shift is not None
    softmax = Softmax(grid, ClassPairTables(state.scale, state.bias - state.shift))
    for tile in tiles(grid, [softmax]):
        weights = softmax.logits(tile).exp2_().mul_(tile.scale)
        row_factors, column_factors = grad_over_sum[tile.rows, None], grad_over_sum[None, tile.columns]
        weights.mul_(torch.add(row_factors, column_factors, out=tile.weights))
        # A diagonal tile contains both orders of its pairs.
        rows.add(tile, weights, both=not tile.is_diagonal)


def _sums(grid: PairGrid, tables: ClassPairTables) -> tuple[Tensor, Tensor]:
    """The largest logit of each anchor and its sum of `exp2(logit - largest)`, for any tables."""
    # Not -inf, because -inf - -inf is NaN.
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
    """Add the row gradients, with weights `scale * exp2(logit - largest) * grad / sum` plus those of mirrored pairs.

    Returns:
        Gradients of scale and bias, `(2, C, C)`, or `None` if not needed.
    """
    softmaxes = softmaxes_of(grid, state.tables)
    grad_scale, grad_bias = grad_tables = state.scale.new_zeros(2, *state.scale.shape)
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
    return grad_tables if needs_tables else None


def _exp2_(logits: Tensor) -> Tensor:
    """In-place `exp2` of logits minus their maximum; results below the rounding error of the sum become 0.

    This avoids subnormal numbers, which are many times slower on a CPU.
    """
    return threshold(logits, 4 * math.log2(torch.finfo(logits.dtype).eps), -torch.inf, inplace=True).exp2_()
