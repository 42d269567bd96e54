r"""The loss of each anchor in Triton kernels: one tile of pairs at a time, in registers.

For CUDA devices. No `(B, R)` tensor exists at any time: memory is $O((B + R) D + C^2)$ and a bounded workspace. Two
runs give the same bits, nothing waits for the device, and a CUDA graph can capture forward and backward.
`labeldist.functional` is the specification.

How it goes, with $f = \mathrm{scale} / 2$, $o = f + \mathrm{bias}$, $\mathrm{logit}_{ij} = f_{ab}\, u_i^\top v_j +
o_{ab}$:

1. Rows are sorted by class, padded, and cast to the dtype of the products.
2. The positives of an anchor share its class: their mean logit comes from class sums in float32.
3. $\mathrm{lse}_i$ comes from all pairs. Where the batch is its own reference, the tables are symmetric and the logits
   span little enough for one shift, each unordered pair is met once. Otherwise a running maximum keeps any span right.
4. The gradient is $A V$ with $A_{ij} = f_{ab} q_{ij} g_i + f_{ba} q_{ji} g_j$ for $g$ from above, $q$ the softmax: one
   product, since that $A$ is symmetric whatever the tables.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op, register_autograd, register_fake

from labeldist.backends import _kernels, _kernels_rows
from labeldist.functional import AnchorLosses

__all__ = ["PRECISIONS", "TILINGS", "Precision", "Tiling", "anchor_losses"]

Precision = Literal["bf16", "fp16", "tf32", "float32"]

# Dtype of the rows in the products, and how `tl.dot` multiplies float32 ones.
PRODUCTS = {
    "bf16": (torch.bfloat16, "tf32"),
    "fp16": (torch.float16, "tf32"),
    "tf32": (torch.float32, "tf32"),
    "float32": (torch.float32, _kernels.FLOAT32_PRODUCTS),
}

# The precision that loses nothing which the embeddings' dtype still has. float64 is refused further on.
PRECISIONS: dict[torch.dtype, Precision] = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "float32",
    torch.float64: "float32",
}


class Tiling(NamedTuple):
    """How a kernel cuts its pairs.

    Attributes:
        block_rows: rows of a tile, a power of two from 16 to `ROW_ALIGNMENT`.
        block_columns: columns of a tile, likewise.
        block_d: dimensions multiplied at a time; all of them, held in fast memory, where there are no more.
        num_warps: warps of a program.
        num_stages: depth of the loads' pipeline.
    """

    block_rows: int
    block_columns: int
    block_d: int
    num_warps: int
    num_stages: int


# By kernel, bytes of an element, and greatest width that the entry serves; WIDE is any width.
WIDE = 1 << 30
TILINGS: dict[tuple[str, int, int], Tiling] = {
    ("dense", 2, 128): Tiling(128, 128, 128, 8, 3),
    ("dense", 2, 256): Tiling(128, 128, 256, 8, 2),
    ("dense", 2, WIDE): Tiling(128, 256, 64, 8, 3),
    ("dense", 4, WIDE): Tiling(128, 128, 32, 8, 3),
    ("mirrored", 2, 128): Tiling(128, 64, 128, 4, 3),
    ("mirrored", 2, 256): Tiling(128, 128, 256, 8, 2),
    ("mirrored", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    ("mirrored", 4, WIDE): Tiling(128, 64, 32, 4, 3),
    ("gradient", 2, 64): Tiling(128, 64, 64, 8, 3),
    ("gradient", 2, 128): Tiling(128, 64, 128, 8, 3),
    ("gradient", 2, 256): Tiling(128, 64, 256, 8, 2),
    ("gradient", 4, 64): Tiling(64, 64, 64, 4, 2),
    ("gradient", 4, 128): Tiling(64, 32, 128, 4, 2),
    ("gradient", 4, 256): Tiling(64, 32, 256, 8, 2),
    ("weights", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    ("weights", 4, WIDE): Tiling(128, 128, 32, 8, 3),
    ("tables", 2, WIDE): Tiling(64, 64, 64, 4, 3),
    ("tables", 4, WIDE): Tiling(64, 64, 32, 4, 3),
}

# Rows are padded to a multiple of it, so that no tile of any tiling reads outside.
ROW_ALIGNMENT = 256
# Super-blocks of rows, and so partial sums of a row, of the mirrored kernel: 64 give 2080 programs of equal size.
MAX_SUPER_BLOCKS = 64
# Up to this width the gradient of a tile of rows fits the registers.
MAX_FUSED_WIDTH = 256
# Side of the workspace for A above that width: 128 MiB in 16 bits.
SUPER_TILE_ROWS = 8192
# Long loops are split until there are about so many programs: a few for each multiprocessor.
NUM_PROGRAMS = 512
# Up to so many columns one launch for all tiles takes less time than two.
MAX_UNSPLIT_COLUMNS = 2048
# Rows and dimensions at a time in the kernels over rows.
ROWS_AT_ONCE, DIMS_AT_ONCE = 16, 64
# Class pairs have 32-bit indices.
MAX_CLASSES = 32767


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
    precision: Precision = "float32",
) -> AnchorLosses:
    r"""Loss of each anchor, $\mathrm{lse}_i - \frac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i$.

    $\mathrm{logit}_{ij} = \mathrm{scale}[y_i, y_j]\,(u_i^\top v_j + 1) / 2 + \mathrm{bias}[y_i, y_j]$, the numbers of
    `functional.contrastive_loss`. Differentiable once, in `anchors`, `references`, `scale` and `bias`.

    Args:
        anchors: unit (or zero) rows, `(B, D)`, float32, bfloat16 or float16, on a CUDA device.
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        references: unit (or zero) rows, `(R, D)`. If `None`, the anchors, where no row is compared with itself.
        ref_labels: class of each reference, `(R,)`, integer; goes with `references`.
        scale: `(C, C)`, non-negative, row = anchor's class; C at most 32767.
        bias: `(C, C)`; `-inf` leaves the pairs of two classes out.
        is_symmetric: whether both tables equal their transposes. `None` lets the device find out, at the price of some
            launches. Only read where the anchors are their own references; `False` is always right, and slower.
        is_bounded: whether the logits that the tables allow span at most 118. `None` and `False` likewise.
        precision: how products of rows are made. `"bf16"` and `"fp16"` round rows and pair weights to 16 bits, `"tf32"`
            to 10 bits of mantissa; `"float32"` keeps float32's accuracy at a fraction of the speed. Sums,
            exponentials and results are float32 always. Above 256 dimensions the gradient's product of `"tf32"` and
            `"float32"` is torch's own, with the accuracy that `torch.set_float32_matmul_precision` gives it.

    Returns:
        Losses in nats, float32 `(B,)`, 0 for an anchor without a positive, and which anchors have one, boolean `(B,)`.

    Raises:
        TypeError: if rows are of another dtype.
        ValueError: if `precision` is unknown or there are more than 32767 classes.
        RuntimeError: if the rows are not on a CUDA device, or the gradient is differentiated again.

    Examples:
        >>> rows = torch.eye(3, device="cuda")[[0, 0, 1, 2]]  # doctest: +SKIP
        >>> tables = torch.ones(2, 2, device="cuda"), torch.zeros(2, 2, device="cuda")  # doctest: +SKIP
        >>> labels = torch.tensor([0, 0, 0, 1], device="cuda")  # doctest: +SKIP
        >>> anchor_losses(rows, labels, None, None, *tables).is_valid  # doctest: +SKIP
        tensor([ True,  True,  True, False], device='cuda:0')
    """
    _check(anchors, references, scale, precision)
    losses, is_valid, *_ = _losses(
        anchors, labels, references, ref_labels, scale, bias, is_symmetric, is_bounded, precision
    )
    return AnchorLosses(losses, is_valid)


def _check(anchors: Tensor, references: Tensor | None, scale: Tensor, precision: str) -> None:
    if precision not in PRODUCTS:
        raise ValueError(f"precision must be one of {', '.join(map(repr, PRODUCTS))}, got {precision!r}.")
    if scale.shape[0] > MAX_CLASSES:
        raise ValueError(
            f"the triton backend takes at most {MAX_CLASSES} classes, got {scale.shape[0]}. Use the blockwise backend."
        )
    for rows in (anchors, references):
        if rows is not None and rows.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"rows must be float32, bfloat16 or float16, got {rows.dtype}. Use the blockwise backend.")
    if anchors.device.type != "cuda" and not _kernels.IS_INTERPRETED:
        raise RuntimeError(
            f"the triton backend needs tensors on a CUDA device, got {anchors.device}. Use the blockwise backend."
        )


class _Sorted(NamedTuple):
    """Rows by class, as the kernels over pairs read them.

    Attributes:
        rows: `(padded N, width)`, in the dtype of the products.
        labels: `(padded N,)`, int32.
        order: `(N,)`, the caller's index of each sorted row.
        segments: `(2, C)`, where each class starts and ends, int32.
    """

    rows: Tensor
    labels: Tensor
    order: Tensor
    segments: Tensor


class _Saved(NamedTuple):
    """What the backward needs from the forward, besides the sorted rows.

    Attributes:
        lse: `(padded B,)`, sorted, base 2; `inf` for an anchor without a loss.
        positives: `(padded B,)`, sorted: mean dot product with the positives.
        class_sums: `(C, width)`, sums of the references.
        tables: `(C, C)`, int64: two float32, see `_kernels_rows.pack_tables`.
        summaries: see `_kernels_rows.table_summary`.
    """

    lse: Tensor
    positives: Tensor
    class_sums: Tensor
    tables: Tensor
    summaries: Tensor


def _width(dim: int) -> int:
    """Columns of the sorted rows: dimensions up to a power of two, or above `MAX_FUSED_WIDTH` to a multiple of 64."""
    for width in (16, 32, 64, 128, 256):
        if dim <= width <= MAX_FUSED_WIDTH:
            return width
    return _round_up(dim, DIMS_AT_ONCE)


def _divide_up(number: int, divisor: int) -> int:
    return (number + divisor - 1) // divisor


def _round_up(number: int, multiple: int) -> int:
    return _divide_up(number, multiple) * multiple


def _tiling(kernel: str, rows: Tensor) -> Tiling:
    width, size = rows.shape[1], rows.element_size()
    bound = min(bound for name, bytes_, bound in TILINGS if (name, bytes_) == (kernel, size) and width <= bound)
    return TILINGS[kernel, size, bound]


def _options(tiling: Tiling, rows: Tensor, precision: str, *, is_mixed: bool = False) -> dict:
    """Compile-time arguments that the kernels over pairs share."""
    return {
        "WIDTH": rows.shape[1],
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "BLOCK_D": min(tiling.block_d, rows.shape[1]),
        "PRECISION": PRODUCTS[precision][1],
        # A mixed tile holds the entries of its pairs besides: it needs the registers of twice the threads.
        "num_warps": max(tiling.num_warps, 8) if is_mixed else tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def _launch(kernel, grid: tuple[int, ...], *arguments, **options) -> None:
    if all(grid):
        kernel[grid](*arguments, **options)


def _possible_modes(is_self: bool, is_symmetric: bool | None, is_bounded: bool | None) -> list[bool]:
    """Whether pairs are mirrored. Where only the device knows, both kernels start, and one of them stops at once."""
    if not is_self or is_symmetric is False or is_bounded is False:
        return [False]
    return [True] if is_symmetric and is_bounded else [True, False]


class _Pass(NamedTuple):
    """One launch over pairs: tiles with columns of one class, or mixed ones, or, where not split, all as if mixed."""

    is_mixed: bool
    is_first: bool
    is_split: bool


def _passes(num_columns: int) -> list[_Pass]:
    if num_columns <= MAX_UNSPLIT_COLUMNS:
        return [_Pass(is_mixed=True, is_first=True, is_split=False)]
    return [_Pass(is_mixed=mixed, is_first=not mixed, is_split=True) for mixed in (False, True)]


def _list_tiles(columns: "_Sorted", side: int) -> tuple[Tensor, Tensor]:
    """Numbers of the tiles of `side` columns, those of one class first, and how many these are."""
    num_columns = len(columns.order)
    num_tiles = _divide_up(num_columns, side)
    tiles, num_uniform = columns.labels.new_empty(num_tiles), columns.labels.new_empty(1)
    _launch(
        _kernels_rows.list_tiles,
        (1,),
        columns.labels,
        tiles,
        num_uniform,
        num_tiles,
        IS_SPLIT=num_columns > MAX_UNSPLIT_COLUMNS,
        SIDE=side,
        BLOCK=1024,
    )
    return tiles, num_uniform


# Forward


@custom_op(
    "labeldist::fused_losses",
    mutates_args=(),
    schema="(Tensor anchors, Tensor labels, Tensor? references, Tensor? ref_labels, Tensor scale, Tensor bias, "
    f"bool? is_symmetric, bool? is_bounded, str precision) -> ({', '.join(['Tensor'] * 15)})",
)
def _losses(anchors, labels, references, ref_labels, scale, bias, is_symmetric, is_bounded, precision):
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        anchors, num_classes = anchors.contiguous(), len(scale)
        saved = _empty_saved(anchors, num_classes)
        is_self = references is None
        _pack_tables(scale, bias, is_symmetric if is_self else False, is_bounded, saved)
        own = _sort(anchors, labels, num_classes, precision)
        others, others_source = own, anchors
        if not is_self:
            others_source = references.contiguous()
            others = _sort(others_source, ref_labels, num_classes, precision)
        saved = saved._replace(class_sums=_sum_classes(others_source, others))
        modes = _possible_modes(is_self, is_symmetric, is_bounded)
        parts = _pair_sums(own, others, saved, modes, precision, is_self)
        losses, is_valid = _merge(anchors, own, others, saved, parts, is_self)
        return losses, is_valid, *saved, *own, *(_no_rows(anchors) if is_self else others)


@register_fake("labeldist::fused_losses")
def _(anchors, labels, references, ref_labels, scale, bias, is_symmetric, is_bounded, precision):
    num_classes = scale.shape[0]
    own = _empty_sorted(anchors, num_classes, precision)
    others = _no_rows(anchors) if references is None else _empty_sorted(references, num_classes, precision)
    losses, is_valid = _empty_losses(anchors)
    return losses, is_valid, *_empty_saved(anchors, num_classes), *own, *others


def _empty_losses(anchors: Tensor) -> tuple[Tensor, Tensor]:
    # `shape[0]`, here and below: `len` would fix the size of a traced tensor.
    num_rows = anchors.shape[0]
    return anchors.new_empty(num_rows, dtype=torch.float32), anchors.new_empty(num_rows, dtype=torch.bool)


def _empty_saved(anchors: Tensor, num_classes: int) -> _Saved:
    padded = _round_up(anchors.shape[0], ROW_ALIGNMENT)
    return _Saved(
        lse=anchors.new_empty(padded, dtype=torch.float32),
        positives=anchors.new_empty(padded, dtype=torch.float32),
        class_sums=anchors.new_empty(num_classes, _width(anchors.shape[1]), dtype=torch.float32),
        tables=anchors.new_empty(num_classes, num_classes, dtype=torch.int64),
        summaries=anchors.new_empty(3, int(_kernels_rows.NUM_SUMMARIES), dtype=torch.float32),
    )


def _empty_sorted(source: Tensor, num_classes: int, precision: str) -> _Sorted:
    padded = _round_up(source.shape[0], ROW_ALIGNMENT)
    return _Sorted(
        rows=source.new_empty(padded, _width(source.shape[1]), dtype=PRODUCTS[precision][0]),
        labels=source.new_empty(padded, dtype=torch.int32),
        order=source.new_empty(source.shape[0], dtype=torch.int64),
        segments=source.new_empty(2, num_classes, dtype=torch.int32),
    )


def _no_rows(anchors: Tensor) -> _Sorted:
    """What stands for the references where there are none."""
    return _Sorted(*(anchors.new_empty(0) for _ in _Sorted._fields))


def _pack_tables(
    scale: Tensor, bias: Tensor, is_symmetric: bool | None, is_bounded: bool | None, saved: _Saved
) -> None:
    known = {None: -1, False: 0, True: 1}
    _launch(
        _kernels_rows.pack_tables,
        (int(_kernels_rows.NUM_SUMMARIES),),
        scale.contiguous(),
        bias.contiguous(),
        saved.tables.view(torch.float32),
        saved.summaries,
        len(scale),
        known[is_symmetric],
        known[is_bounded],
        BLOCK=128,
    )


def _sort(source: Tensor, labels: Tensor, num_classes: int, precision: str) -> _Sorted:
    # 16 bits are enough for a class here, and a radix sort takes time by the bit.
    classes, order = labels.to(torch.int16).sort(stable=True)
    result = _empty_sorted(source, num_classes, precision)._replace(order=order)
    result.segments.zero_()
    width = result.rows.shape[1]
    block_d = min(width, DIMS_AT_ONCE)
    _launch(
        _kernels_rows.gather_rows,
        (len(result.rows) // ROWS_AT_ONCE, _divide_up(width, block_d)),
        source,
        order,
        classes,
        result.rows,
        result.labels,
        *result.segments,
        len(source),
        source.shape[1],
        WIDTH=width,
        BLOCK=ROWS_AT_ONCE,
        BLOCK_D=block_d,
    )
    return result


def _sum_classes(source: Tensor, rows: _Sorted, weights: Tensor | None = None) -> Tensor:
    """Sum of the rows of each class, `(C, width)`, float32, from the caller's rows."""
    num_classes, width = rows.segments.shape[1], rows.rows.shape[1]
    num_splits = _num_splits(num_classes, _divide_up(len(source), ROWS_AT_ONCE))
    sums = source.new_empty(num_splits, num_classes, width, dtype=torch.float32)
    block_d = min(width, DIMS_AT_ONCE)
    _launch(
        _kernels_rows.sum_classes,
        (num_classes, _divide_up(width, block_d), num_splits),
        source,
        rows.order,
        weights,
        *rows.segments,
        sums,
        num_classes,
        source.shape[1],
        num_splits,
        WIDTH=width,
        BLOCK=ROWS_AT_ONCE,
        BLOCK_D=block_d,
    )
    return _sum_parts(sums)


def _num_splits(num_programs: int, max_splits: int) -> int:
    """Parts to cut each of `num_programs` loops into, for a full device."""
    return max(1, min(NUM_PROGRAMS // max(num_programs, 1), max_splits, 64))


def _sum_parts(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(dim=0)


class _PartialSums(NamedTuple):
    """Sums of exp2 over parts of the pairs of each row. Which of the two kinds holds, the device knows.

    Attributes:
        maxima: `(num_splits, padded B)`, what is taken off the logits in the dense parts.
        sums: `(most parts, padded B)`.
        num_splits: dense parts.
        num_super_blocks: mirrored parts.
    """

    maxima: Tensor
    sums: Tensor
    num_splits: int
    num_super_blocks: int


def _pair_sums(
    own: _Sorted, others: _Sorted, saved: _Saved, modes: list[bool], precision: str, is_self: bool
) -> _PartialSums:
    num_rows, padded = len(own.order), len(own.rows)
    dense, mirrored = _tiling("dense", own.rows), _tiling("mirrored", own.rows)
    block_span = _round_up(
        _divide_up(max(num_rows, 1), MAX_SUPER_BLOCKS), max(mirrored.block_rows, mirrored.block_columns)
    )
    num_super_blocks = _divide_up(num_rows, block_span) if True in modes else 0
    num_tiles = _divide_up(len(others.order), dense.block_columns)
    num_splits = _num_splits(_divide_up(num_rows, dense.block_rows), num_tiles) if False in modes else 0
    parts = _PartialSums(
        maxima=saved.lse.new_empty(num_splits, padded),
        sums=saved.lse.new_empty(max(num_splits, num_super_blocks), padded),
        num_splits=num_splits,
        num_super_blocks=num_super_blocks,
    )
    if num_super_blocks:
        _sum_mirrored(own, saved, parts, block_span, precision)
    if num_splits:
        _sum_dense(own, others, saved, parts, precision, is_self)
    return parts


def _sum_mirrored(own: _Sorted, saved: _Saved, parts: _PartialSums, block_span: int, precision: str) -> None:
    tiling = _tiling("mirrored", own.rows)
    for part in _passes(len(own.order)):
        _launch(
            _kernels.sum_mirrored_pairs,
            (parts.num_super_blocks, parts.num_super_blocks),
            own.rows,
            own.labels,
            saved.tables,
            saved.summaries,
            parts.sums,
            len(own.order),
            len(own.rows),
            len(saved.tables),
            block_span,
            IS_MIXED=part.is_mixed,
            IS_FIRST=part.is_first,
            IS_SPLIT=part.is_split,
            IS_DEFERRED=own.rows.shape[1] <= MAX_FUSED_WIDTH,
            **_options(tiling, own.rows, precision, is_mixed=part.is_mixed),
        )


def _sum_dense(
    own: _Sorted, others: _Sorted, saved: _Saved, parts: _PartialSums, precision: str, is_self: bool
) -> None:
    tiling = _tiling("dense", own.rows)
    tiles, num_uniform = _list_tiles(others, tiling.block_columns)
    for part in _passes(len(others.order)):
        _launch(
            _kernels.sum_dense_pairs,
            (_divide_up(len(own.order), tiling.block_rows), parts.num_splits),
            own.rows,
            own.labels,
            others.rows,
            others.labels,
            saved.tables,
            saved.summaries,
            tiles,
            num_uniform,
            parts.maxima,
            parts.sums,
            len(others.order),
            len(own.rows),
            len(saved.tables),
            len(tiles),
            parts.num_splits,
            SELF=is_self,
            IS_MIXED=part.is_mixed,
            IS_FIRST=part.is_first,
            **_options(tiling, own.rows, precision, is_mixed=part.is_mixed),
        )


def _merge(
    anchors: Tensor, own: _Sorted, others: _Sorted, saved: _Saved, parts: _PartialSums, is_self: bool
) -> tuple[Tensor, Tensor]:
    """Losses and validity in the caller's order; fills `lse` and `positives`."""
    losses, is_valid = _empty_losses(anchors)
    width = own.rows.shape[1]
    _launch(
        _kernels_rows.finish_losses,
        (len(own.rows) // ROWS_AT_ONCE,),
        anchors,
        own.order,
        own.labels,
        *others.segments,
        saved.class_sums,
        saved.tables,
        saved.summaries,
        *parts,
        losses,
        is_valid,
        saved.lse,
        saved.positives,
        len(anchors),
        len(own.rows),
        len(saved.tables),
        anchors.shape[1],
        SELF=is_self,
        WIDTH=width,
        BLOCK=ROWS_AT_ONCE,
        BLOCK_D=min(width, DIMS_AT_ONCE),
    )
    return losses, is_valid


# Backward


@custom_op(
    "labeldist::fused_losses_backward",
    mutates_args=(),
    schema="(Tensor upstream, Tensor anchors, Tensor? references, Tensor scale, Tensor bias, Tensor[] saved, "
    "bool? is_symmetric, bool? is_bounded, str precision, bool[] needed) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _losses_backward(upstream, anchors, references, scale, bias, saved, is_symmetric, is_bounded, precision, needed):
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        problem = _Problem.of(anchors, references, saved, is_symmetric, is_bounded, precision)
        upstream = upstream.to(torch.float32).contiguous()
        weights = _weigh(upstream, problem, _unit(upstream, scale, precision))
        gradients = _empty_gradients(anchors, references, scale, bias, needed)
        if needed[0] or needed[1]:
            _row_gradients(problem, weights, gradients, needed)
        if needed[2] or needed[3]:
            slopes, levels = _table_gradient(problem, weights).unbind(dim=-1)
            # factor = scale / 2 and offset = scale / 2 + bias
            if needed[2]:
                torch.add(slopes, levels, out=gradients[2]).div_(2)
            if needed[3]:
                gradients[3].copy_(levels)
        return gradients


@register_fake("labeldist::fused_losses_backward")
def _(upstream, anchors, references, scale, bias, saved, is_symmetric, is_bounded, precision, needed):
    return _empty_gradients(anchors, references, scale, bias, needed)


def _setup_context(ctx, inputs, output):
    anchors, _, references, _, scale, bias, *ctx.options = inputs
    _, is_valid, *saved = output
    ctx.mark_non_differentiable(is_valid, *saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(anchors, references, scale, bias, *saved)


def _backward(ctx, upstream, *_):
    if upstream is None:
        return (None,) * 9
    anchors, references, scale, bias, *saved = ctx.saved_tensors
    needed = [ctx.needs_input_grad[place] for place in (0, 2, 4, 5)]
    gradients = _losses_backward(upstream, anchors, references, scale, bias, saved, *ctx.options, needed)
    rows, ref_rows, scales, biases = (
        gradient if is_needed else None for gradient, is_needed in zip(gradients, needed, strict=True)
    )
    return rows, None, ref_rows, None, scales, biases, None, None, None


register_autograd("labeldist::fused_losses", _backward, setup_context=_setup_context)


def _empty_gradients(anchors, references, scale, bias, needed) -> tuple[Tensor, ...]:
    """One tensor for each that wants a gradient, in its dtype; an empty one for the others."""
    wanted = (anchors, references, scale, bias)
    return tuple(
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if is_needed else anchors.new_empty(0)
        for tensor, is_needed in zip(wanted, needed, strict=True)
    )


class _Problem(NamedTuple):
    """The forward's rows and tables. Without references the anchors stand on both sides."""

    anchors: Tensor
    references: Tensor
    own: _Sorted
    others: _Sorted
    saved: _Saved
    modes: list[bool]
    is_self: bool
    precision: str

    @classmethod
    def of(cls, anchors, references, tensors, is_symmetric, is_bounded, precision) -> "_Problem":
        is_self = references is None
        saved, own = _Saved(*tensors[:5]), _Sorted(*tensors[5:9])
        return cls(
            anchors=anchors.contiguous(),
            references=anchors.contiguous() if is_self else references.contiguous(),
            own=own,
            others=own if is_self else _Sorted(*tensors[9:]),
            saved=saved,
            modes=_possible_modes(is_self, is_symmetric, is_bounded),
            is_self=is_self,
            precision=precision,
        )


class _Weights(NamedTuple):
    """What the anchors bring into the gradients.

    Attributes:
        gradients: `(padded B,)`, upstream gradient by sorted row, 0 without a loss.
        coefficients: `(padded B,)`, the factors of the pairs' weights, in units of `unit`.
        unit: `(1,)`, or `None` for 1.
    """

    gradients: Tensor
    coefficients: Tensor
    unit: Tensor | None


def _unit(upstream: Tensor, scale: Tensor, precision: str) -> Tensor | None:
    """Factor that puts the weights of pairs below 2^14: float16 overflows at 2^16, and goes 38 powers of two down."""
    if precision != "fp16" or not len(upstream):
        return None
    # A weight is at most scale / 2 * log2(e) * 2 g. At least 1, for the mirrored factors, which span 2^113.
    largest = upstream.abs().amax() * scale.amax().clamp_min(1) * 1.4426950408889634
    return torch.where(largest > 0, 2**14 / largest, 1.0).reshape(1)


def _weigh(upstream: Tensor, problem: _Problem, unit: Tensor | None) -> _Weights:
    own, saved = problem.own, problem.saved
    gradients, coefficients = torch.empty_like(saved.lse), torch.empty_like(saved.lse)
    _launch(
        _kernels_rows.weigh_rows,
        (len(own.rows) // ROW_ALIGNMENT,),
        upstream,
        own.order,
        saved.lse,
        saved.summaries,
        unit,
        gradients,
        coefficients,
        len(own.order),
        BLOCK=ROW_ALIGNMENT,
    )
    return _Weights(gradients, coefficients, unit)


def _row_gradients(problem: _Problem, weights: _Weights, gradients: tuple[Tensor, ...], needed: list[bool]) -> None:
    own, is_self = problem.own, problem.is_self
    anchor_sums = None
    if is_self or needed[1]:
        anchor_sums = _sum_classes(problem.anchors, own, weights.gradients)
    if own.rows.shape[1] <= MAX_FUSED_WIDTH:
        parts = [
            _fused_parts(problem, weights, is_anchor=is_anchor) if is_needed else None
            for is_anchor, is_needed in zip((True, False), needed[:2], strict=True)
        ]
    else:
        parts = _super_tile_parts(problem, weights, needed)
    sides = (problem.anchors, own, True, is_self), (problem.references, problem.others, False, True)
    for gradient, part, (source, rows, is_anchor, is_reference) in zip(gradients[:2], parts, sides, strict=True):
        if part is not None:
            _put_back(gradient, part, source, rows, problem, weights, anchor_sums, OWN=is_anchor, OTHER=is_reference)


def _fused_parts(problem: _Problem, weights: _Weights, *, is_anchor: bool) -> Tensor:
    """Parts of the gradient of the anchors, or else of the references: `(splits, padded N, width)`, sorted."""
    anchors = (problem.own.rows, problem.own.labels, problem.saved.lse, weights.coefficients)
    references = (problem.others.rows, problem.others.labels, problem.saved.lse, weights.coefficients)
    rows, columns = (problem.own, problem.others) if is_anchor else (problem.others, problem.own)
    tiling = _tiling("gradient", rows.rows)
    num_rows, num_columns, (padded, width) = len(rows.order), len(columns.order), rows.rows.shape
    tiles, num_uniform = _list_tiles(columns, tiling.block_columns)
    num_row_tiles = _divide_up(num_rows, tiling.block_rows)
    num_splits = _num_splits(num_row_tiles, len(tiles))
    parts = rows.rows.new_empty(num_splits, padded, width, dtype=torch.float32)
    for mode in problem.modes:
        for part in _passes(num_columns):
            options = _options(tiling, rows.rows, problem.precision, is_mixed=part.is_mixed)
            del options["BLOCK_D"]
            _launch(
                _kernels.accumulate_gradient,
                (num_row_tiles, num_splits),
                *(anchors if is_anchor else references),
                *(references if is_anchor else anchors),
                problem.saved.tables,
                problem.saved.summaries,
                tiles,
                num_uniform,
                parts,
                num_rows,
                num_columns,
                padded,
                len(problem.saved.tables),
                len(tiles),
                num_splits,
                OWN=is_anchor,
                OTHER=problem.is_self or not is_anchor,
                SELF=problem.is_self,
                MIRRORED=mode,
                IS_MIXED=part.is_mixed,
                IS_FIRST=part.is_first,
                **options,
            )
    return parts


def _super_tile_parts(problem: _Problem, weights: _Weights, needed: list[bool]) -> list[Tensor | None]:
    """Like `_fused_parts` for both: A for one pair of super-blocks at a time, multiplied by the library."""
    own, others, is_self = problem.own.rows, problem.others.rows, problem.is_self
    own_total = torch.zeros_like(own, dtype=torch.float32) if needed[0] else None
    others_total = torch.zeros_like(others, dtype=torch.float32) if needed[1] else None
    if is_self:
        others_total = own_total
    sides = [min(SUPER_TILE_ROWS, len(rows)) for rows in (own, others)]
    workspace = own.new_empty(sides)
    for row in range(0, len(own), SUPER_TILE_ROWS):
        row_part = own[row : row + SUPER_TILE_ROWS]
        for column in range(row if is_self else 0, len(others), SUPER_TILE_ROWS):
            column_part = others[column : column + SUPER_TILE_ROWS]
            pairs = workspace[: len(row_part), : len(column_part)]
            _write_weights(problem, weights, pairs, row, column)
            if own_total is not None:
                own_total[row : row + SUPER_TILE_ROWS] += _product(pairs, column_part)
            # A is symmetric where the batch is its own reference, so the transpose is the part below the diagonal.
            if others_total is not None and not (is_self and row == column):
                others_total[column : column + SUPER_TILE_ROWS] += _product(pairs.T, row_part)
    return [
        total[None] if is_needed and total is not None else None
        for total, is_needed in zip((own_total, others_total), needed[:2], strict=True)
    ]


def _write_weights(problem: _Problem, weights: _Weights, pairs: Tensor, row: int, column: int) -> None:
    own, others, saved = problem.own, problem.others, problem.saved
    tiling = _tiling("weights", own.rows)
    for mode in problem.modes:
        for part in _passes(len(others.order)):
            _launch(
                _kernels.write_weights,
                (pairs.shape[1] // tiling.block_columns, pairs.shape[0] // tiling.block_rows),
                own.rows,
                own.labels,
                saved.lse,
                weights.coefficients,
                others.rows,
                others.labels,
                saved.lse,
                weights.coefficients,
                saved.tables,
                saved.summaries,
                pairs,
                row,
                column,
                len(own.order),
                len(others.order),
                len(saved.tables),
                pairs.stride(0),
                OTHER=problem.is_self,
                SELF=problem.is_self,
                MIRRORED=mode,
                IS_MIXED=part.is_mixed,
                IS_SPLIT=part.is_split,
                **_options(tiling, own.rows, problem.precision, is_mixed=part.is_mixed),
            )


def _product(weights: Tensor, rows: Tensor) -> Tensor:
    """`weights @ rows` in float32."""
    if rows.dtype == torch.float32:
        return weights @ rows
    return torch.mm(weights, rows, out_dtype=torch.float32)


def _put_back(
    gradient: Tensor,
    parts: Tensor,
    source: Tensor,
    rows: _Sorted,
    problem: _Problem,
    weights: _Weights,
    anchor_sums: Tensor | None,
    **roles: bool,
) -> None:
    num_splits, padded, width = parts.shape
    block_d = min(width, DIMS_AT_ONCE)
    _launch(
        _kernels_rows.finish_gradient,
        (padded // ROWS_AT_ONCE, width // block_d),
        parts,
        source,
        rows.order,
        rows.labels,
        weights.gradients,
        *problem.others.segments,
        problem.saved.class_sums,
        anchor_sums,
        problem.saved.tables,
        weights.unit,
        gradient,
        num_splits,
        len(source),
        padded,
        len(problem.saved.tables),
        source.shape[1],
        SELF=problem.is_self,
        WIDTH=width,
        BLOCK=ROWS_AT_ONCE,
        BLOCK_D=block_d,
        **roles,
    )


def _table_gradient(problem: _Problem, weights: _Weights) -> Tensor:
    """Gradients of factor and offset, `(C, C, 2)`."""
    own, others, saved = problem.own, problem.others, problem.saved
    num_classes = len(saved.tables)
    tiling = _tiling("tables", own.rows)
    num_splits = _num_splits(num_classes**2, _divide_up(len(own.order), tiling.block_rows))
    # Many classes mean small ones: several to a program.
    classes_per_program = max(1, num_classes**2 >> 20)
    parts = saved.lse.new_empty(num_splits, num_classes, num_classes, 2)
    _launch(
        _kernels.sum_table_gradient,
        (num_classes, _divide_up(num_classes, classes_per_program), num_splits),
        own.rows,
        *own.segments,
        saved.lse,
        weights.gradients,
        saved.positives,
        others.rows,
        *others.segments,
        saved.tables,
        parts,
        num_classes,
        classes_per_program,
        num_splits,
        SELF=problem.is_self,
        **_options(tiling, own.rows, problem.precision),
    )
    return _sum_parts(parts)
