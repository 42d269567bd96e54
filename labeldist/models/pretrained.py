"""Load pretrained encoders and their tokenizers without running code that comes with them.

A Hugging Face checkpoint can contain Python code, which it lists in `auto_map`. Without `trust_remote_code`,
transformers asks on standard input whether to run it. Therefore the argument is always passed here. Weights are read
from safetensors only, which cannot contain code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

try:
    import torch
    import transformers
    from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.tokenization_auto import get_tokenizer_config
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
except ImportError as error:
    raise ImportError(
        "labeldist.models.pretrained needs transformers. Install it with: pip install 'labeldist[train]'"
    ) from error

__all__ = ["EncoderError", "encoder_from_config", "load_encoder", "load_tokenizer", "without_progress_bar"]

_TRUST = "If you have read that code and trust it, give --trust-remote-code (trust_remote_code=True in Python)"


class EncoderError(ValueError):
    """An encoder or tokenizer cannot be used. The message says why and how to fix it.

    Examples:
        >>> raise EncoderError("The encoder ./bert has no weights.")
        Traceback (most recent call last):
        ...
        labeldist.models.pretrained.EncoderError: The encoder ./bert has no weights.
    """


def load_encoder(name: str, *, local_files_only: bool = False, trust_remote_code: bool = False) -> nn.Module:
    """Load a text encoder in float32, without its pooling layer.

    Args:
        name: a folder, or a model id of the Hugging Face hub.
        local_files_only: use only a folder or files that were downloaded before, without contacting the hub.
        trust_remote_code: whether Python code that comes with the encoder may run. Without it, an encoder that needs
            such code raises an error.

    Raises:
        EncoderError: if the encoder needs its own code, does not read text, or does not match its weights.
        OSError: if the encoder does not exist.
    """
    stored = _stored_config(name, local_files_only=local_files_only)
    _refuse_hub_kernels(stored, name)
    if not trust_remote_code:
        _check_known(stored, name)
    options: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(name, **options)
    _check_is_encoder(config, name)
    _check_weights_are_safetensors(name)
    # float32: heads and optimizer need it, whatever precision the checkpoint is stored in.
    encoder, report = AutoModel.from_pretrained(
        name,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        # Told by `_check_all_weights_came`, in one sentence.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **options,
    )
    if encoder.main_input_name != "input_ids":
        raise EncoderError(
            f"{name} is no encoder of text: its architecture ({config.model_type}) reads {encoder.main_input_name}. "
            "Choose a text encoder, such as BERT or RoBERTa."
        )
    encoder = _without_pooler(encoder)
    _check_all_weights_came(encoder, report, name)
    return encoder


def load_tokenizer(
    name: str | Path, *, local_files_only: bool = False, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of an encoder or of a run.

    Args:
        name: a folder, or a model id of the Hugging Face hub.
        local_files_only: use only a folder or files that were downloaded before, without contacting the hub.
        trust_remote_code: whether Python code that comes with the tokenizer may run.

    Raises:
        EncoderError: if the tokenizer needs its own code.
        OSError: if the tokenizer does not exist.
    """
    options: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": trust_remote_code}
    try:
        return AutoTokenizer.from_pretrained(str(name), **options)
    except ValueError as error:
        stored = get_tokenizer_config(str(name), local_files_only=local_files_only)
        if not trust_remote_code and "auto_map" in stored:
            raise EncoderError(
                f"The tokenizer of {name} needs Python code of its own (auto_map), which is never run unasked. "
                f"{_TRUST}; else choose another encoder."
            ) from error
        raise


def encoder_from_config(stored: dict[str, Any], *, name: str) -> nn.Module:
    """Create an encoder with random weights in float32 from the configuration of a saved classifier.

    Args:
        stored: the configuration, with its `model_type`.
        name: its location, for error messages.

    Raises:
        EncoderError: if the encoder needs its own code: code in a run folder never runs.
    """
    _refuse_hub_kernels(stored, name)
    if stored.get("model_type") not in CONFIG_MAPPING:
        needs = "needs Python code of its own" if "auto_map" in stored else "is not known to transformers"
        raise EncoderError(
            f"The encoder in {name} ({stored.get('model_type')}) {needs}. No code is ever run from a saved classifier."
        )
    options = {key: value for key, value in stored.items() if key not in ("auto_map", "model_type")}
    config = AutoConfig.for_model(stored["model_type"], **options)
    return _without_pooler(AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False))


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Hide the progress bars of transformers while weights are read or written."""
    had_bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            enable_progress_bar()


def _stored_config(name: str, *, local_files_only: bool) -> dict[str, Any]:
    stored = PreTrainedConfig.get_config_dict(name, local_files_only=local_files_only)[0]
    if not stored:
        raise OSError(f"{name} has no config.json.")
    return stored


def _check_known(stored: dict[str, Any], name: str) -> None:
    model_type = stored.get("model_type")
    if model_type in CONFIG_MAPPING:
        return
    if "auto_map" in stored:
        raise EncoderError(
            f"The encoder {name} needs Python code of its own (auto_map in its config.json), which is never run "
            f"unasked. {_TRUST}; else choose another encoder."
        )
    if model_type is None:
        raise EncoderError(f"The config.json of {name} names no model_type, so it is no Hugging Face encoder.")
    raise EncoderError(
        f"The encoder {name} has the architecture {model_type!r}, which transformers {transformers.__version__} does "
        "not know. Upgrade transformers or choose another encoder."
    )


def _refuse_hub_kernels(stored: Any, name: str) -> None:
    """Refuse a configuration that has compiled code downloaded from the hub as its attention."""
    if isinstance(stored, dict):
        for key, value in stored.items():
            if "attn_implementation" in key and "/" in str(value):
                raise EncoderError(
                    f"The configuration of {name} asks for code from the hub ({key}: {value}), which is never run. "
                    f"Remove {key} from its config.json."
                )
            _refuse_hub_kernels(value, name)


def _check_is_encoder(config: PreTrainedConfig, name: str) -> None:
    if config.is_encoder_decoder:
        raise EncoderError(
            f"{name} is an encoder-decoder model ({config.model_type}), which cannot be used as an encoder. Choose a "
            "model that only encodes, such as BERT, RoBERTa, MPNet or ModernBERT."
        )
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise EncoderError(
            f"{name} cannot be used as an encoder: its configuration ({config.model_type}) has no hidden_size, the "
            "width of its token vectors."
        )


def _check_weights_are_safetensors(name: str) -> None:
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise EncoderError(
            f"{name} has its weights only in {pickled[0]}, a pickle, which can hold code and is never read. Get the "
            "encoder with model.safetensors from its authors."
        )


def _check_all_weights_came(encoder: nn.Module, report: dict[str, Any], name: str) -> None:
    parameters = dict(encoder.named_parameters())
    misfits = report.get("mismatched_keys") or ()
    if misfits:
        key = sorted(str(misfit[0] if isinstance(misfit, tuple) else misfit) for misfit in misfits)[0]
        raise EncoderError(f"The weights of {name} do not fit its config.json: {key} has another shape.")
    if missing := sorted(key for key in report.get("missing_keys") or () if key in parameters):
        raise EncoderError(
            f"The weights of {name} do not fit its config.json: {len(missing)} of {len(parameters)} tensors are "
            f"missing, among them {missing[0]}."
        )


def _without_pooler(encoder: Any) -> nn.Module:
    """Drop a pooling layer that neither kind of pooling uses: its weights would get no gradient."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder
