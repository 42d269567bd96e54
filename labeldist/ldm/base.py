"""What every label-distance matrix has: a `(C, C)` buffer and the classes' names."""

from collections.abc import Sequence

import torch
from pytorch_metric_learning.utils.module_with_records import ModuleWithRecords
from torch import Tensor, nn

from labeldist.class_names import Class, class_index, resolve_names


class LabelDistanceMatrix(ModuleWithRecords):
    """A `(C, C)` matrix of label distances with the classes' names: the base of the static and the adaptive one.

    Attributes:
        matrix: the distances, `(C, C)`, a buffer or a parameter; moves with `.to(device)`, stands in `state_dict`.
        class_names: one name a class, `"0"`, `"1"`, ... unless given.
        num_classes: `C`.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, *, class_names: Sequence[str] | None = None):
        super().__init__()
        self.class_names = resolve_names(class_names, len(matrix))
        if isinstance(matrix, nn.Parameter):
            self.matrix = matrix
        else:
            self.register_buffer("matrix", matrix)
        self.add_to_recordable_attributes(list_of_names=["mean_off_diagonal", "max_off_diagonal"], is_stat=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, `C`."""
        return len(self.matrix)

    def forward(self) -> Tensor:
        """The current matrix, `(C, C)`."""
        return self.matrix

    def distance(self, anchor: Class, other: Class) -> float:
        """The entry for two classes, by name or index: row `anchor`, column `other`.

        Examples:
            >>> from labeldist import StaticLDM
            >>> StaticLDM.from_pairs([("a", "b")], class_names=["a", "b", "c"]).distance("a", "b")
            5.0
        """
        return self.matrix[class_index(anchor, self.class_names), class_index(other, self.class_names)].item()

    @property
    def mean_off_diagonal(self) -> float:
        """Mean entry between two different classes; 1 where there is one class only. Recorded by PML's loggers."""
        if self.num_classes == 1:
            return 1.0
        off_diagonal = self.matrix.sum() - self.matrix.diagonal().sum()
        return off_diagonal.item() / (self.num_classes * (self.num_classes - 1))

    @property
    def max_off_diagonal(self) -> float:
        """Largest entry between two different classes; 1 where there is one class only. Recorded by PML's loggers."""
        if self.num_classes == 1:
            return 1.0
        same = torch.eye(self.num_classes, dtype=torch.bool, device=self.matrix.device)
        return self.matrix.masked_fill(same, 0).max().item()

    def extra_repr(self) -> str:
        """Classes and range, for `print`."""
        return f"num_classes={self.num_classes}, mean_off_diagonal={self.mean_off_diagonal:.3g}"


def check_matrix(matrix: Tensor, *, whole: str = "A label-distance matrix", entries: str = "Label distances") -> None:
    """Raise `ValueError` unless `matrix` is square, not empty, finite and non-negative."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"{whole} must have shape (C, C) with C >= 1, got {tuple(matrix.shape)}.")
    wrong = ~torch.isfinite(matrix) | (matrix < 0)
    if wrong.any():
        row, column = (int(i) for i in wrong.nonzero()[0])
        value = matrix[row, column].item()
        raise ValueError(f"{entries} must be finite and non-negative, got {value} at row {row}, column {column}.")
