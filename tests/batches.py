"""Batches of unit rows with class-pair tables, shared by the tests of the backends."""

import math
from typing import Any

import torch

from labeldist import functional
from strategies import Problem, normal

INFINITY = math.inf


def arguments_of(problem: Problem) -> tuple[Any, ...]:
    options = problem.options
    references = functional.unit_rows(options["ref_emb"]) if "ref_emb" in options else None
    tables = functional.class_pair_tables(
        problem.ldm, temperature=options["temperature"], weighting=options["weighting"]
    )
    return functional.unit_rows(problem.embeddings), problem.labels, references, options.get("ref_labels"), *tables[:2]


def batch(
    num_rows, num_classes, dim, *, num_references=None, largest_scale=20.0, dtype=torch.float64
) -> tuple[Any, ...]:
    """Unit rows, unsorted labels and asymmetric tables with zeros and `-inf`."""
    tables = normal(2, num_classes, num_classes, seed=1, dtype=dtype)
    scale = tables[0].abs().clamp_max(3) * largest_scale / 3
    scale[tables[0] > 1.5] = 0
    bias = tables[1].masked_fill(tables[1] > 1, -INFINITY)
    labels = (normal(num_rows, seed=2).abs() * 1e6).long() % num_classes
    rows = functional.unit_rows(normal(num_rows, dim, dtype=dtype))
    if num_references is None:
        return rows, labels, None, None, scale, bias
    ref_labels = (normal(num_references, seed=3).abs() * 1e6).long() % num_classes
    references = functional.unit_rows(normal(num_references, dim, seed=4, dtype=dtype))
    return rows, labels, references, ref_labels, scale, bias


def mirrored(arguments) -> tuple[Any, ...]:
    """The same batch with symmetric tables."""
    *rows, scale, bias = arguments
    return *rows, (scale + scale.T) / 2, bias + bias.T
