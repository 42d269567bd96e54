"""The base class of label-distance matrices: a `(C, C)` buffer, the class names, and the class-pair tables."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_metric_learning.utils.module_with_records import ModuleWithRecords
from torch import Tensor, nn

from labeldist import functional
from labeldist.checks import can_read_values
from labeldist.class_names import Class, class_index, resolve_names
from labeldist.distributed import checksum
from labeldist.options import Weighting
from labeldist.pairs import ClassPairTables
from labeldist.precision import at_least_float32

# With more classes, the tables take over 8 MiB. They are rebuilt in each call instead of cached.
MAX_CACHED_CLASSES = 1024
# Number of cached tables: enough for the temperature and weighting of a loss and of a miner, in two dtypes.
MAX_CACHED_TABLES = 4


class _TableCache:
    """The class-pair tables of the current matrix, for each requested temperature, weighting and dtype."""

    def __init__(self):
        self._state: tuple[Tensor | None, int, int] = (None, 0, 0)
        self._tables: dict[tuple[float, str, torch.dtype], ClassPairTables] = {}

    def tables(self, matrix: Tensor, dtype: torch.dtype, temperature: float, weighting: Weighting) -> ClassPairTables:
        # Compare the tensor object as well: a new tensor may reuse the address of a deleted one.
        state = (matrix, matrix.data_ptr(), matrix._version)
        if self._state[0] is not matrix or self._state[1:] != state[1:]:
            self._state, self._tables = state, {}
        key = (temperature, weighting, dtype)
        cached = self._tables.get(key)
        if cached is not None and len(matrix) <= MAX_CACHED_CLASSES:
            return cached
        tables = functional.class_pair_tables(matrix.to(dtype), temperature=temperature, weighting=weighting)
        if cached is not None:
            return tables._replace(is_symmetric=cached.is_symmetric, span=cached.span)
        tables = tables.inspect()
        # For large tables, cache only is_symmetric and span.
        is_small = len(matrix) <= MAX_CACHED_CLASSES
        kept = tables if is_small else tables._replace(scale=matrix.new_empty(0), bias=matrix.new_empty(0))
        self._tables = dict([*self._tables.items(), (key, kept)][-MAX_CACHED_TABLES:])
        return tables


class LabelDistanceMatrix(ModuleWithRecords):
    """A `(C, C)` label-distance matrix with class names: the base class of `StaticLDM` and `AdaptiveLDM`.

    An entry is a weight, not a dissimilarity: a larger entry pushes the pairs of its two classes apart harder, so
    easily confused classes have large entries. Use `StaticLDM.from_distances` to convert real dissimilarities.

    Attributes:
        matrix: the entries, `(C, C)`, non-negative, row = anchor's class. A buffer or a parameter: it moves with
            `.to(device)` and is part of `state_dict`.
        class_names: one name per class; `"0"`, `"1"`, ... by default.
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
        self._cache = _TableCache()
        self.add_to_recordable_attributes(list_of_names=["mean_off_diagonal", "max_off_diagonal"], is_stat=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, `C`."""
        return len(self.matrix)

    def forward(self) -> Tensor:
        """The current matrix, `(C, C)`."""
        return self.matrix

    def tables(self, rows: Tensor, *, temperature: float = 1.0, weighting: Weighting = "scale") -> ClassPairTables:
        """The class-pair tables of this matrix: see `labeldist.functional.class_pair_tables`.

        The tables are cached, together with `is_symmetric` and `span`, until the matrix changes. If the matrix needs a
        gradient, inside `torch.compile`, and during CUDA graph capture, the tables are rebuilt in each call, and
        `is_symmetric` and `span` are `None`.

        Args:
            rows: the embeddings. The tables have their dtype, but at least float32. The matrix moves to their device.
            temperature: softmax temperature, > 0.
            weighting: `"scale"` or `"log"`.

        Returns:
            `scale` and `bias`, each `(C, C)`, with `is_symmetric` and `span`.

        Examples:
            >>> from labeldist import StaticLDM
            >>> tables = StaticLDM([[1.0, 5.0], [5.0, 1.0]]).tables(torch.randn(4, 8), temperature=0.5)
            >>> tables.scale[0], tables.is_symmetric, tables.span
            (tensor([ 2., 10.]), True, 10.0)
        """
        if self.matrix.device != rows.device:
            # Outside inference mode: a tensor that is created in it could not be updated later.
            with torch.inference_mode(False):
                self.to(rows.device)
        matrix, dtype = self.matrix, at_least_float32(rows).dtype
        needs_gradient = torch.is_grad_enabled() and matrix.requires_grad
        if not can_read_values(matrix) or needs_gradient or matrix.is_inference():
            return functional.class_pair_tables(matrix.to(dtype), temperature=temperature, weighting=weighting)
        # Outside inference mode, so that tables built during evaluation can be used in training.
        with torch.inference_mode(False), torch.no_grad():
            return self._cache.tables(matrix, dtype, temperature, weighting)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the cache: a copy rebuilds it."""
        return {**self.__dict__, "_cache": _TableCache()}

    def agreement(self) -> dict[str, object]:
        """Values that must be equal on all processes, by name: see `labeldist.distributed.check_agreement`."""
        return {
            "number of classes": self.num_classes,
            "label-distance matrix": f"one with checksum {checksum(self.matrix)}",
        }

    def distance(self, anchor: Class, other: Class) -> float:
        """The entry of two classes, given by name or index: row `anchor`, column `other`. Large = easily confused.

        Examples:
            >>> from labeldist import StaticLDM
            >>> StaticLDM.from_pairs([("a", "b")], class_names=["a", "b", "c"]).distance("a", "b")
            5.0
        """
        return self.matrix[class_index(anchor, self.class_names), class_index(other, self.class_names)].item()

    @property
    def mean_off_diagonal(self) -> float:
        """Mean entry between two different classes; 1 if there is only one class. Recorded by PML's loggers."""
        if self.num_classes == 1:
            return 1.0
        off_diagonal = self.matrix.sum() - self.matrix.diagonal().sum()
        return off_diagonal.item() / (self.num_classes * (self.num_classes - 1))

    @property
    def max_off_diagonal(self) -> float:
        """Largest entry between two different classes; 1 if there is only one class. Recorded by PML's loggers."""
        if self.num_classes == 1:
            return 1.0
        same = torch.eye(self.num_classes, dtype=torch.bool, device=self.matrix.device)
        return self.matrix.masked_fill(same, 0).max().item()

    def extra_repr(self) -> str:
        """Number of classes and mean off-diagonal entry, for `print`."""
        return f"num_classes={self.num_classes}, mean_off_diagonal={self.mean_off_diagonal:.3g}"
