"""What every label-distance matrix has: a `(C, C)` buffer, the classes' names, and the tables of its class pairs."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_metric_learning.utils.module_with_records import ModuleWithRecords
from torch import Tensor, nn

from labeldist import functional
from labeldist.checks import can_read_values
from labeldist.class_names import Class, class_index, resolve_names
from labeldist.options import Weighting
from labeldist.pairs import ClassPairTables
from labeldist.precision import at_least_float32

# Tables of more classes, 8 MiB and above, are made anew for each call.
MAX_CACHED_CLASSES = 1024
# Tables are cached for so many temperatures, weightings and dtypes: those of a loss and a miner, in two dtypes.
MAX_CACHED_TABLES = 4


class _TableCache:
    """Tables of one matrix in its present state, for each temperature, weighting and dtype that was asked for."""

    def __init__(self):
        self._state: tuple[Tensor | None, int, int] = (None, 0, 0)
        self._tables: dict[tuple[float, str, torch.dtype], ClassPairTables] = {}

    def tables(self, matrix: Tensor, dtype: torch.dtype, temperature: float, weighting: Weighting) -> ClassPairTables:
        # The matrix itself too: another one may come to lie at the address of one that is gone.
        state = (matrix, matrix.data_ptr(), matrix._version)
        if self._state[0] is not matrix or self._state[1:] != state[1:]:
            self._state, self._tables = state, {}
        key = (temperature, weighting, dtype)
        known = self._tables.get(key)
        if known is not None and len(matrix) <= MAX_CACHED_CLASSES:
            return known
        tables = functional.class_pair_tables(matrix.to(dtype), temperature=temperature, weighting=weighting)
        if known is not None:
            return tables._replace(is_symmetric=known.is_symmetric, span=known.span)
        tables = tables.inspect()
        # Of large tables only what is known of them is kept.
        is_small = len(matrix) <= MAX_CACHED_CLASSES
        kept = tables if is_small else tables._replace(scale=matrix.new_empty(0), bias=matrix.new_empty(0))
        self._tables = dict([*self._tables.items(), (key, kept)][-MAX_CACHED_TABLES:])
        return tables


class LabelDistanceMatrix(ModuleWithRecords):
    """A `(C, C)` matrix of label distances with the classes' names: the base of the static and the adaptive one.

    An entry is a weight, not a dissimilarity: the larger it is, the harder pairs of the two classes are pushed apart,
    so easily confused classes have large entries. Real dissimilarities go through `StaticLDM.from_distances`.

    Attributes:
        matrix: the distances, `(C, C)`, a buffer or a parameter; moves with `.to(device)`, stands in `state_dict`.
        class_names: one name per class, `"0"`, `"1"`, ... unless given.
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
        """The tables that make logits of similarities: see `labeldist.functional.class_pair_tables`.

        Cached with what is known of them until the matrix changes. Tables that need a gradient, or that are made while
        `torch.compile` or a CUDA graph only records, are neither cached nor read.

        Args:
            rows: the embeddings. The tables are in their dtype, at least float32, and the matrix moves to their device.
            temperature: softmax temperature, > 0.
            weighting: `"scale"` or `"log"`.

        Returns:
            Scale and bias, each `(C, C)`.

        Examples:
            >>> from labeldist import StaticLDM
            >>> tables = StaticLDM([[1.0, 5.0], [5.0, 1.0]]).tables(torch.randn(4, 8), temperature=0.5)
            >>> tables.scale[0], tables.is_symmetric, tables.span
            (tensor([ 2., 10.]), True, 10.0)
        """
        if self.matrix.device != rows.device:
            # In evaluations too the matrix must stay one that can be updated.
            with torch.inference_mode(False):
                self.to(rows.device)
        matrix, dtype = self.matrix, at_least_float32(rows).dtype
        needs_gradient = torch.is_grad_enabled() and matrix.requires_grad
        if not can_read_values(matrix) or needs_gradient or matrix.is_inference():
            return functional.class_pair_tables(matrix.to(dtype), temperature=temperature, weighting=weighting)
        # Tables that an evaluation makes must also serve a training step.
        with torch.inference_mode(False), torch.no_grad():
            return self._cache.tables(matrix, dtype, temperature, weighting)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the cache: a copy rebuilds it."""
        return {**self.__dict__, "_cache": _TableCache()}

    def agreement(self) -> dict[str, object]:
        """What all processes must agree on, by name: see `labeldist.distributed.check_agreement`."""
        entries = self.matrix.detach().cpu().contiguous().view(torch.uint8)  # numpy has no bfloat16
        checksum = zlib.crc32(entries.numpy().tobytes())
        return {
            "number of classes": self.num_classes,
            "label-distance matrix": f"one with checksum {checksum:08x}",
        }

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
