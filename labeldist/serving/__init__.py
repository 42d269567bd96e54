"""Predictions of a saved classifier, by what serving needs and no more.

A classifier with a TextCNN encoder needs PyTorch, safetensors and tokenizers; transformers is imported for a
pretrained encoder alone, and neither the Trainer nor scikit-learn nor matplotlib for any.
"""

from labeldist.serving.batches import BATCH_SIZE, Predictions, predict_encoded
from labeldist.serving.saved import SavedClassifier

__all__ = ["BATCH_SIZE", "Predictions", "SavedClassifier", "predict_encoded"]
