r"""The loss of each anchor, one square tile of pairs at a time, with its gradient by hand.

No `(B, R)` tensor exists at any time: memory is $O((B + R) D + C^2)$ and a workspace of a few tiles. Any device,
float32 or float64. `labeldist.functional` is the specification.

With $f = \mathrm{scale} / 2$ and $o = \mathrm{scale} / 2 + \mathrm{bias}$, $\mathrm{logit}_{ij} = f_{ab}\, u_i^\top
v_j + o_{ab}$ for an anchor of class $a$ and a reference of class $b$, and Eq. 11-13 fall into two parts:

- The positives of an anchor share one class, so the mean of their logits comes from sums over classes: $O((B + R) D)$.
- $\mathrm{lse}_i = \log \sum_j \exp \mathrm{logit}_{ij}$ needs every pair. Its gradient, for $g_i$ from above, is
  $\partial / \partial \mathrm{logit}_{ij} = g_i \exp(\mathrm{logit}_{ij} - \mathrm{lse}_i)$, computed again from the
  rows tile by tile.

Where the anchors are their own references a tile above the diagonal stands for its mirror image too: one product of
rows for an unordered pair.

A group whose members all have the rows shares the tiles. Sums over pairs are then sums over the group, $O(B + C^2)$
numbers; what needs no pairs, each member computes for itself. It is the group that knows of processes, not this module.
"""

import math

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import threshold

from labeldist.backends._class_sums import ClassRows, ClassSums, class_sizes
from labeldist.backends._tiles import LN_2, Pairs, RowGradients, Side, sides_of, tile_rows_for, tiles
from labeldist.distributed import ProcessGroup, SingleProcess
from labeldist.functional import AnchorLosses

__all__ = ["anchor_losses"]

# A workspace of four float32 tiles of 768 x 768 is 9 MiB: it stays in the last-level cache of most CPUs, and a tile is
# large enough that starting an operation costs little beside it.
TILE_ROWS = 768


def anchor_losses(
    anchors: Tensor,
    labels: Tensor,
    references: Tensor | None,
    ref_labels: Tensor | None,
    scale: Tensor,
    bias: Tensor,
    *,
    is_symmetric: bool | None = None,
    is_bounded: bool | None = None,
    tile_rows: int = TILE_ROWS,
    group: ProcessGroup | None = None,
) -> AnchorLosses:
    r"""Loss of each anchor, $\mathrm{lse}_i - \frac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i$.

    $\mathrm{logit}_{ij} = \mathrm{scale}[y_i, y_j]\,(u_i^\top v_j + 1) / 2 + \mathrm{bias}[y_i, y_j]$, the numbers of
    `functional.contrastive_loss`. Differentiable once, in `anchors`, `references`, `scale` and `bias`. Two runs on one
    machine with as many threads give the same bits.

    Args:
        anchors: unit (or zero) rows, `(B, D)`, float32 or float64; every other tensor but labels has this dtype.
        labels: class of each anchor, `(B,)`, int64, in [0, C).
        references: unit (or zero) rows, `(R, D)`. If `None`, the anchors, where no row is compared with itself.
        ref_labels: class of each reference, `(R,)`, int64; goes with `references`.
        scale: `(C, C)`, non-negative, row = anchor's class.
        bias: `(C, C)`; `-inf` leaves the pairs of two classes out.
        is_symmetric: whether both tables equal their transposes. `None` compares them, for which a GPU has to be
            waited for. Only read where the anchors are their own references; `False` is always right, and slower.
        is_bounded: whether the logits that the tables allow span at most 66 in float32, 532 in float64, so that no
            exponential overflows or vanishes. `None` derives it from the tables, likewise. `False` is always right, a
            wrong `True` in either gives wrong numbers.
        tile_rows: rows and columns of a tile, at least 1. A group takes smaller tiles where it would have too few.
        group: those who share the tiles; `None` for nobody else. Every member passes the same arguments and gets the
            same losses. In the backward pass the gradients from above of all members count together. The gradient of
            `anchors` and `references` is then each member's *part*, which the owner of a row adds up over the group, as
            `labeldist.distributed.gather_rows` does. That of the tables is whole: the mean over the group's losses.

    Returns:
        Losses in nats, `(B,)`, 0 for an anchor without a positive, and which anchors have one, boolean `(B,)`.

    Raises:
        ValueError: if `tile_rows` is below 1.
        RuntimeError: if the gradient is differentiated again.

    Examples:
        >>> rows = torch.eye(3)[[0, 0, 1, 2]]
        >>> tables = torch.ones(2, 2), torch.zeros(2, 2)
        >>> losses, is_valid = anchor_losses(rows, torch.tensor([0, 0, 0, 1]), None, None, *tables)
        >>> is_valid
        tensor([ True,  True,  True, False])
        >>> losses[0].isclose(torch.tensor([1.0, 0.5, 0.5]).logsumexp(0) - (1 + 0.5) / 2 - torch.tensor(2.0).log())
        tensor(True)
    """
    if tile_rows < 1:
        raise ValueError(f"tile_rows must be at least 1, got {tile_rows}.")
    group = group or SingleProcess()
    num_references = None if references is None else len(references)
    tile_rows = tile_rows_for(len(anchors), num_references, group.size, at_most=tile_rows)
    arguments = anchors, labels, references, ref_labels, scale, bias, is_symmetric, is_bounded, tile_rows, group
    if torch.compiler.is_compiling():
        # A graph of every tile would be huge, and of one size and kind of tables only: run as it stands instead.
        return torch.compiler.disable(_anchor_losses)(*arguments)  # pyright: ignore[reportCallIssue] # typed as a method
    return _anchor_losses(*arguments)


def _anchor_losses(
    anchors: Tensor,
    labels: Tensor,
    references: Tensor | None,
    ref_labels: Tensor | None,
    scale: Tensor,
    bias: Tensor,
    is_symmetric: bool | None,
    is_bounded: bool | None,
    tile_rows: int,
    group: ProcessGroup,
) -> AnchorLosses:
    if references is None or ref_labels is None:
        references, ref_labels, are_same = anchors, labels, True
    else:
        are_same = False
    with torch.autocast(anchors.device.type, enabled=False):
        factor = scale / 2
        offset = factor + bias
        shift = None
        if are_same and len(anchors):
            shift = _common_shift(factor.detach(), offset.detach(), is_symmetric, is_bounded)
        partition = _LogPartition.apply(
            anchors, None if are_same else references, factor, offset, labels, ref_labels, shift, tile_rows, group
        )
        num_positives, mean_positive = _positives(anchors, labels, references, ref_labels, factor, offset, are_same)
        is_valid = num_positives > 0
        losses = partition - mean_positive - num_positives.clamp_min(1).to(anchors.dtype).log()
        return AnchorLosses(losses.masked_fill(~is_valid, 0), is_valid)


def _common_shift(factor: Tensor, offset: Tensor, is_symmetric: bool | None, is_bounded: bool | None) -> Tensor | None:
    """One number to take off every logit, so that the exponential of a pair serves both its rows; `None` if none fits.

    That needs symmetric tables, and logits whose exponentials neither overflow nor vanish under one shift. Any product
    of unit rows lies in [-1, 1].
    """
    if is_symmetric is None:
        is_symmetric = torch.equal(factor, factor.T) and torch.equal(offset, offset.T)
    if not is_symmetric or is_bounded is False:
        return None
    offset = offset.masked_fill(offset == -torch.inf, 0)
    highest = (offset + factor.abs()).amax()
    if is_bounded is None:
        # A quarter of the exponent's range is for the sum over the references and for the gradient from above, which a
        # scaler of gradients may have multiplied by 2^16.
        largest_span = 0.75 * math.log(torch.finfo(factor.dtype).max)
        is_bounded = bool(highest - (offset - factor.abs()).amin() <= largest_span)
    return highest if is_bounded else None


# The positives: sums over classes


def _positives(
    anchors: Tensor,
    labels: Tensor,
    references: Tensor,
    ref_labels: Tensor,
    factor: Tensor,
    offset: Tensor,
    are_same: bool,
) -> tuple[Tensor, Tensor]:
    """How many positives each anchor has, `(B,)`, and the mean of their logits, `(B,)`, of no meaning where none."""
    own_factor, own_offset = ClassRows.apply(torch.stack([factor.diagonal(), offset.diagonal()], dim=1), labels).unbind(
        dim=1
    )
    sums = ClassRows.apply(ClassSums.apply(references, ref_labels, len(factor)), labels)  # (B, D)
    num_positives = class_sizes(ref_labels, len(factor))[labels]
    if are_same:
        sums = sums - anchors
        num_positives = num_positives - 1
    means = (anchors * sums).sum(dim=1) / num_positives.clamp_min(1)
    return num_positives.masked_fill(own_offset == -torch.inf, 0), own_factor * means + own_offset


# The partition function: every pair


class _LogPartition(Function):
    """`lse` of each anchor over all references, `(B,)`; over the other anchors where `references` is `None`."""

    @staticmethod
    def forward(
        ctx,
        anchors: Tensor,
        references: Tensor | None,
        factor: Tensor,
        offset: Tensor,
        labels: Tensor,
        ref_labels: Tensor,
        shift: Tensor | None,
        tile_rows: int,
        group: ProcessGroup,
    ) -> Tensor:
        # In base 2 inside: a CPU takes a third of exp's time for exp2, and not forty times as long below -87.
        factor, offset = factor / LN_2, offset / LN_2
        pairs = Pairs(anchors, references, labels, ref_labels, tile_rows, group)
        if shift is None:
            of_own_tiles, sums = _sums(pairs, factor, offset)
            maxima = group.max(of_own_tiles)
            sums = group.sum(sums * (of_own_tiles - maxima).exp2())
        else:
            shift = shift / LN_2
            sums = group.sum(_symmetric_sums(pairs, factor, offset, shift))
            maxima = shift.expand_as(sums)
        ctx.save_for_backward(anchors, references, factor, offset, labels, ref_labels, shift, maxima, sums)
        ctx.tile_rows, ctx.group = tile_rows, group
        return (maxima + sums.log2()) * LN_2

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] # torch leaves it open
        gradients = _LogPartitionGradient.apply(
            grad, *ctx.saved_tensors, ctx.needs_input_grad[:4], ctx.tile_rows, ctx.group
        )
        return *gradients, None, None, None, None, None


class _LogPartitionGradient(Function):
    """The backward of `_LogPartition`; a function of its own, so that a second derivative says what is wrong."""

    @staticmethod
    def forward(
        ctx,
        grad: Tensor,
        anchors: Tensor,
        references: Tensor | None,
        factor: Tensor,
        offset: Tensor,
        labels: Tensor,
        ref_labels: Tensor,
        shift: Tensor | None,
        maxima: Tensor,
        sums: Tensor,
        needs_gradient: tuple[bool, bool, bool, bool],
        tile_rows: int,
        group: ProcessGroup,
    ) -> tuple[Tensor | None, ...]:
        pairs = Pairs(anchors, references, labels, ref_labels, tile_rows, group)
        rows = RowGradients(pairs, *needs_gradient[:2])
        needs_tables = any(needs_gradient[2:])
        # Not exp(logit - lse): every weight would have the rounding of a large lse. An anchor that is compared with
        # nothing has no weights.
        shares = (group.sum(grad) / sums).masked_fill(sums == 0, 0)
        # autocast may be on where backward is called.
        with torch.autocast(anchors.device.type, enabled=False):
            if shift is None or needs_tables:
                of_tables = _gradient(pairs, factor, offset, maxima, shares, rows, needs_tables)
            else:
                of_tables = _symmetric_gradient(pairs, factor, offset - shift, shares, rows)
        tables = (None, None) if of_tables is None else group.sum(of_tables) / group.size
        return rows.of_anchors, rows.of_references, *tables

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "The blockwise loss can be differentiated once, got a second derivative. Take that from eager."
        )


def _symmetric_sums(pairs: Pairs, factor: Tensor, offset: Tensor, shift: Tensor) -> Tensor:
    """Each anchor's sum of `exp2(logit - shift)`, where one exponential serves both rows of a pair."""
    sums = pairs.anchors.new_zeros(len(pairs.anchors))
    side = Side(pairs, factor, offset - shift)
    for tile in tiles(pairs, [side]):
        exponentials = side.logits(tile).exp2_()
        sums[tile.rows] += exponentials.sum(dim=1)
        if not tile.is_diagonal:
            sums[tile.columns] += exponentials.sum(dim=0)
    return sums


def _symmetric_gradient(pairs: Pairs, factor: Tensor, offset: Tensor, shares: Tensor, rows: RowGradients) -> None:
    """Weights `factor * exp2(logit) * (share of the one row + share of the other)`, logits less the shift."""
    side = Side(pairs, factor, offset)
    for tile in tiles(pairs, [side]):
        weights = side.logits(tile).exp2_().mul_(tile.factors)
        weights.mul_(torch.add(shares[tile.rows, None], shares[None, tile.columns], out=tile.weights))
        # A tile on the diagonal holds both orders of its pairs.
        rows.add(tile, weights, both=not tile.is_diagonal)


def _sums(pairs: Pairs, factor: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """For any tables: each anchor's largest logit, and its sum of `exp2(logit - largest)`."""
    # Not -inf, which would give NaN where it meets itself.
    maxima = pairs.anchors.new_full((len(pairs.anchors),), torch.finfo(factor.dtype).min)
    sums = torch.zeros_like(maxima)
    sides = sides_of(pairs, factor, offset)
    for tile in tiles(pairs, sides):
        for side in sides[:1] if tile.is_diagonal else sides:
            anchors = side.anchors_of(tile)
            logits = side.logits(tile)
            largest = torch.maximum(maxima[anchors], logits.amax(dim=side.dim))
            sums[anchors] *= (maxima[anchors] - largest).exp2()
            sums[anchors] += _exp2_(logits.sub_(largest.unsqueeze(side.dim))).sum(dim=side.dim)
            maxima[anchors] = largest
    return maxima, sums


def _gradient(
    pairs: Pairs,
    factor: Tensor,
    offset: Tensor,
    maxima: Tensor,
    shares: Tensor,
    rows: RowGradients,
    needs_tables: bool,
) -> Tensor | None:
    """Weights `factor * exp2(logit - largest) * share` and those of the mirrored pairs; gradients of both tables."""
    sides = sides_of(pairs, factor, offset)
    of_factor, of_offset = of_tables = factor.new_zeros(2, *factor.shape)
    for tile in tiles(pairs, sides):
        tile.weights.zero_()
        for side in sides[:1] if tile.is_diagonal else sides:
            anchors = side.anchors_of(tile)
            softmax = _exp2_(side.logits(tile).sub_(maxima[anchors].unsqueeze(side.dim)))
            softmax.mul_(shares[anchors].unsqueeze(side.dim))
            tile.weights.addcmul_(softmax, tile.factors)
            if needs_tables:
                side.add_by_classes(of_offset, tile, softmax)
                side.add_by_classes(of_factor, tile, softmax.mul_(tile.products))
        rows.add(tile, tile.weights)
    return of_tables if needs_tables else None


def _exp2_(logits: Tensor) -> Tensor:
    """Power of two in place, of logits less their largest; 0 where it is nothing beside the rounding of their sum.

    Near the end of the dtype's range it would be a subnormal number, on which a CPU takes many times as long.
    """
    return threshold(logits, 4 * math.log2(torch.finfo(logits.dtype).eps), -torch.inf, inplace=True).exp2_()
