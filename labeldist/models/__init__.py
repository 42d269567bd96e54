"""Reference models: a TextCNN encoder, the projection head, and a classifier with both heads (`models.classifier`)."""

from labeldist.models.heads import Projection, ProjectionHead
from labeldist.models.textcnn import TextCNN

__all__ = ["Projection", "ProjectionHead", "TextCNN"]
