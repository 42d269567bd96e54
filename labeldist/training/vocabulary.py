"""TextCNN's tokenizer: words of any language, with a vocabulary from the training texts.

Texts are composed (NFC), lower-cased, and cut at spaces and punctuation. Two more rules hold for what that does not
tell apart:

- Scripts that are written without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Myanmar, Javanese, ...),
  and Korean, whose words carry their endings, are cut into characters, each with the marks on it; TextCNN's windows
  then see words. An emoji is a token, too.
- Accents on Latin letters are kept where a corpus writes with them, and dropped where they are rare: in English "café"
  and "cafe" are one word, in Spanish "llego" (I arrive) and "llegó" (he arrived) are not. Marks of all other scripts
  are kept: they are letters.
"""

import re
import unicodedata
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["MAX_VOCABULARY", "PAD", "UNKNOWN", "train_tokenizer", "writes_with_accents"]

MAX_VOCABULARY = 30_000
PAD = "[PAD]"
UNKNOWN = "[UNK]"

MIN_ACCENTED = 0.005
"""Share of Latin words with an accent from which on accents are kept. The English movie reviews (mr) have 0.0012; where
languages that need accents begin was not measured."""

_UNSPACED = (
    r"[\p{Hiragana}\p{Katakana}ーｰ\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Hangul}\p{Tai_Le}\p{New_Tai_Lue}"
    r"\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}]\p{M}*"
)
# Signs of commerce are pictographs by their property only.
_EMOJI = r"[\p{Extended_Pictographic}&&[^©®™]][\x{1F3FB}-\x{1F3FF}]?|[\x{1F1E6}-\x{1F1FF}]{2}"
_LATIN_MARKS = r"(?<=\p{Latin})\p{Mn}+"
# They choose between a colored and a plain picture of the same character.
_VARIATION_SELECTORS = r"[\x{FE00}-\x{FE0F}]"

_WORD = re.compile(r"[^\W\d_]+")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A lower-casing word tokenizer with a vocabulary from `texts`.

    Examples:
        >>> train_tokenizer(["Is it fast?", "发货快"]).tokenize("发货 fast?")
        ['发', '货', 'fast', '?']
        >>> train_tokenizer(["llego tarde", "llegó tarde"]).tokenize("Llegó")
        ['llegó']
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))  # type: ignore[call-arg]
    tokenizer.normalizer = _normalizer(keep_accents=writes_with_accents(texts))  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Split(Regex(f"{_UNSPACED}|{_EMOJI}"), "isolated"), pre_tokenizers.BertPreTokenizer()]
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=MAX_VOCABULARY,  # type: ignore[call-arg]
        special_tokens=[PAD, UNKNOWN],  # type: ignore[call-arg]
        show_progress=False,  # type: ignore[call-arg]
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )


def writes_with_accents(texts: Sequence[str]) -> bool:
    """Whether accents on Latin letters are part of how a corpus is written, not the exception.

    Examples:
        >>> writes_with_accents(["dove è", "perché no"]), writes_with_accents(["a café"] + 300 * ["it is fast"])
        (True, False)
    """
    num_words = num_accented = 0
    for text in texts:
        for word in _WORD.findall(unicodedata.normalize("NFC", text)):
            if word.isascii():
                num_words += 1
            elif any(map(_is_latin, word)):
                num_words += 1
                num_accented += any(map(_is_accented, _BEYOND_ASCII.findall(word)))
    return num_accented >= MIN_ACCENTED * max(num_words, 1) and num_accented > 0


def _normalizer(*, keep_accents: bool) -> normalizers.Normalizer:
    dropped = [normalizers.NFD(), normalizers.Replace(Regex(_LATIN_MARKS), "")]
    return normalizers.Sequence(
        [
            *([] if keep_accents else dropped),
            normalizers.NFC(),
            normalizers.Replace(Regex(_VARIATION_SELECTORS), ""),
            # Control characters go, and each Chinese character stands alone.
            normalizers.BertNormalizer(lowercase=True, strip_accents=False),
        ]
    )


def _is_latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith("LATIN ")


def _is_accented(character: str) -> bool:
    return _is_latin(character) and "COMBINING" in unicodedata.name(unicodedata.normalize("NFD", character)[-1], "")
