"""Measures beyond accuracy: which *pairs* of classes are confused, and how well the embeddings group the classes.

Measures of predictions take confusion counts; measures of embeddings take rows and labels. Each family has its module.
"""

from labeldist.evaluation.mistakes import MistakeSeverity, mistake_severity
from labeldist.evaluation.retrieval import embedding_metrics

__all__ = ["MistakeSeverity", "embedding_metrics", "mistake_severity"]
