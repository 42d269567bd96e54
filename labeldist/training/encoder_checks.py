"""Whether a pretrained encoder, its tokenizer and the texts go together: found out before anything is trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from labeldist.models.classifier import ContrastiveClassifier
from labeldist.training.errors import UserError

__all__ = ["check_encoder", "first_line", "longest_text", "unknown_share"]

MAX_UNKNOWN = 0.5
"""Share of unknown tokens from which on a tokenizer does not know the texts."""

MIN_VOCABULARY = 0.5
"""Share of the encoder's token vectors that its own tokenizer uses at least; some encoders have a few spare ones."""

_NUM_SAMPLED = 1000


def check_encoder(
    model: ContrastiveClassifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    name: str,
) -> None:
    """Encode a batch once, and check the tokenizer against encoder and texts.

    Args:
        model: with a pretrained encoder; left as it is.
        tokenizer: that was found with it.
        texts: of the training set; none if there are none yet.
        max_length: tokens a text is cut to.
        name: of the encoder, for messages.

    Raises:
        UserError: if one of them does not go with the others, in one sentence.
    """
    if tokenizer.pad_token_id is None:
        raise UserError(f"The tokenizer of {name} has no padding token, which batches of texts need.")
    _check_vocabulary(model.encoder, tokenizer, name)
    limit = longest_text(model.encoder, tokenizer, at_most=max_length)
    if max_length > limit:
        raise UserError(f"--max-length must be at most {limit}, the longest text that {name} takes, got {max_length}.")
    sample = list(texts[:: max(1, len(texts) // _NUM_SAMPLED)])
    share = unknown_share(tokenizer, sample, max_length)
    if share > MAX_UNKNOWN:
        raise UserError(
            f"{100 * share:.0f} % of the training texts' tokens are unknown to the tokenizer of {name}: it is not the "
            "encoder's own, or does not know the language. Choose an encoder for these texts, with its tokenizer."
        )
    _try(model, tokenizer, sample[:8] or ["a"], max_length, name)


def longest_text(encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, *, at_most: int) -> int:
    """Tokens of the longest text that the encoder has positions for, or `at_most` where nothing bounds it.

    Encoders of RoBERTa's kind count positions from behind the padding token's id: 514 of them are for 512 tokens.
    """
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for module_name, module in encoder.named_modules()
        if module_name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    configured = getattr(encoder.config, "max_position_embeddings", None) or at_most
    return min([*(tables or [configured]), tokenizer.model_max_length])


def unknown_share(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> float:
    """Share of unknown tokens among those of `texts`, special tokens aside; a text without tokens counts as one.

    Examples:
        >>> from labeldist.training.vocabulary import train_tokenizer
        >>> unknown_share(train_tokenizer(["is it fast"]), ["is it slow", ""], 128)
        0.5
    """
    if not texts or tokenizer.unk_token_id is None:
        return 0.0
    num_unknown = num_tokens = 0
    special = {index for index in tokenizer.all_special_ids if index != tokenizer.unk_token_id}
    for ids in tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]:  # type: ignore[union-attr]
        words = [index for index in ids if index not in special]  # type: ignore[union-attr]
        num_tokens += max(len(words), 1)
        num_unknown += words.count(tokenizer.unk_token_id) if words else 1
    return num_unknown / num_tokens


def first_line(error: Exception) -> str:
    r"""The first line of another library's error, without its full stop.

    Examples:
        >>> first_line(ValueError("It failed.\nAnd more."))
        'It failed'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")


def _check_vocabulary(encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    num_vectors = encoder.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    if len(tokenizer) > num_vectors or len(tokenizer) < MIN_VOCABULARY * num_vectors:
        raise UserError(
            f"The tokenizer of {name} has {len(tokenizer)} tokens and the encoder vectors for {num_vectors}: its files "
            "are missing, or another encoder's. Give the encoder with its own tokenizer."
        )


def _try(
    model: ContrastiveClassifier, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, name: str
) -> None:
    """Encode `texts`, and one text as long as any may be."""
    longest = " ".join(texts * (max_length // len(texts) + 1))
    was_training = model.training
    try:
        # Some encoders draw random numbers even in evaluation: those of the run stay as they are.
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            batch = tokenizer(
                [*texts, longest], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
            vectors: Tensor = model.eval().encode(**batch)
    # Each architecture fails in its own way.
    except Exception as error:
        raise UserError(
            f"The encoder {name} cannot encode these texts in up to {max_length} tokens: {first_line(error)}. Try a "
            "smaller --max-length, or another encoder."
        ) from error
    finally:
        model.train(was_training)
    if not vectors.isfinite().all():
        raise UserError(f"The encoder {name} makes vectors that are not finite: its weights are damaged.")
