"""Sum the rows of each class, and gather the row of each class: two linear functions, each the other's backward."""

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["ClassRows", "ClassSums", "add_by_class", "class_sizes"]


class ClassSums(Function):
    """Sum of the rows of each class: `(R, K)` and `(R,)` to `(C, K)`. The transpose of `ClassRows`."""

    @staticmethod
    def forward(ctx, values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        ctx.save_for_backward(labels)
        sizes = class_sizes(labels, num_classes)[:, None]
        zeros = values.new_zeros(num_classes, values.shape[1])
        # A long sum of similar rows loses digits. Estimate the mean first, then sum the differences from the estimate.
        estimate = add_by_class(zeros.clone(), labels, values) / sizes.clamp_min(1)
        return estimate * sizes + add_by_class(zeros, labels, values - estimate.index_select(0, labels))

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] # torch declares *grads
        (labels,) = ctx.saved_tensors
        return ClassRows.apply(grad, labels), None, None


class ClassRows(Function):
    """The row of each label's class: `(C, K)` and `(B,)` to `(B, K)`. The transpose of `ClassSums`."""

    @staticmethod
    def forward(ctx, table: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(labels)
        ctx.num_classes = len(table)
        return table.index_select(0, labels)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] # torch declares *grads
        (labels,) = ctx.saved_tensors
        return ClassSums.apply(grad, labels, ctx.num_classes), None


def class_sizes(labels: Tensor, num_classes: int) -> Tensor:
    """Number of rows of each class, `(C,)`, int64."""
    # Not bincount, which reads the largest label and so synchronizes with a GPU.
    return labels.new_zeros(num_classes).index_add_(0, labels, torch.ones_like(labels))


def add_by_class(sums: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    """Add `values[i]` to `sums[labels[i]]` for every row, in a deterministic order."""
    if values.device.type == "cpu":
        return sums.index_add_(0, labels, values)
    # On a GPU index_add_ is not deterministic; index_put_ is, because it sorts the indices first.
    return sums.index_put_((labels,), values, accumulate=True)
