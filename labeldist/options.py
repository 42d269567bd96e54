"""The choices that several modules and the command line share. Nothing is imported here but `typing`."""

from typing import Literal

__all__ = ["Backend", "Normalization", "Pooling", "Projection", "Weighting"]

Backend = Literal["auto", "eager", "blockwise", "triton"]
"""How the pairs of a batch are computed: see `labeldist.backends`."""

Weighting = Literal["scale", "log"]
"""What a label distance multiplies: see `labeldist.functional.class_pair_tables`."""

Normalization = Literal["rate", "count"]
"""How confusion counts become distances: see `labeldist.ldm.distances_from_confusion`."""

Projection = Literal["mlp", "linear", "none"]
"""Head before the contrastive loss: see `labeldist.models.ProjectionHead`."""

Pooling = Literal["mean", "cls"]
"""How token vectors become one vector of a text: see `labeldist.models.classifier.ContrastiveClassifier`."""
