"""TextCNN's tokenizer in the scripts of the world."""

from typing import Any

import pytest

from labeldist.training.vocabulary import train_tokenizer, writes_with_accents

TEXTS = ["Is it fast?", "It is NOT fast!", "发货快不快", "the café is far"]


def test_words_marks_and_chinese_characters_are_tokens():
    tokenizer: Any = train_tokenizer(TEXTS)
    assert tokenizer.tokenize("Is it, fast?") == ["is", "it", "[UNK]", "fast", "?"]
    assert tokenizer.tokenize("发货不快") == ["发", "货", "不", "快"]
    assert tokenizer.pad_token_id == 0


def test_the_vocabulary_is_the_same_each_time():
    words = [f"{a}{b} {b}{a}" for a in "abcdefghij" for b in "klmnopqrst"]
    assert train_tokenizer(words).get_vocab() == train_tokenizer(words).get_vocab()


def test_the_tokenizer_comes_back_from_disk(tmp_path):
    from transformers import AutoTokenizer

    tokenizer: Any = train_tokenizer(TEXTS)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert again.padding_side == "right"


PAIRS = {
    "Spanish": ("llego tarde", "llegó tarde"),
    "Vietnamese": ("đông", "đồng"),
    "German": ("schon", "schön"),
    "Russian": ("мои", "мой"),
    "Hindi": ("दिन", "दीन"),
    "Thai": ("เสือ", "เสื่อ"),
    "Japanese": ("かぎ", "かき"),
    "Arabic": ("كَتَبَ", "كُتِبَ"),
    "Hebrew": ("סֵפֶר", "סַפָּר"),
    "Korean": ("눈", "논"),
    "emoji": ("good😀", "good😡"),
}


@pytest.mark.parametrize("language", PAIRS)
def test_words_that_differ_by_a_mark_differ_in_tokens(language):
    left, right = PAIRS[language]
    tokenizer: Any = train_tokenizer([left, right])
    assert tokenizer(left)["input_ids"] != tokenizer(right)["input_ids"]
    assert tokenizer.unk_token_id not in tokenizer(left)["input_ids"] + tokenizer(right)["input_ids"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("ใกล้ไกล", ["ใ", "ก", "ล้", "ไ", "ก", "ล"]),
        ("ສະບາຍ", ["ສ", "ະ", "ບ", "າ", "ຍ"]),
        ("ポイントを使う", ["ポ", "イ", "ン", "ト", "を", "使", "う"]),
        ("환불해 주세요", ["환", "불", "해", "주", "세", "요"]),
        ("मैं घर गया।", ["मैं", "घर", "गया", "।"]),
        ("שלום, עולם", ["שלום", ",", "עולם"]),
        ("so good😀👍🏽", ["so", "good", "😀", "👍🏽"]),
        ("love❤️it", ["love", "❤", "it"]),
        ("Acme™ ©1999", ["acme™", "©1999"]),
    ],
)
def test_a_text_is_cut_where_its_script_needs_it(text, tokens):
    assert train_tokenizer([text]).tokenize(text) == tokens


def test_composed_and_decomposed_letters_are_one():
    tokenizer: Any = train_tokenizer(["llegó", "각"])
    assert tokenizer("llego\u0301")["input_ids"] == tokenizer("llegó")["input_ids"]
    assert tokenizer("\u1100\u1161\u11a8")["input_ids"] == tokenizer("각")["input_ids"]


def test_rare_accents_are_dropped_and_marks_of_other_scripts_are_not():
    tokenizer: Any = train_tokenizer(["the café is far"] + 300 * ["it is fast"] + ["мой"])
    assert tokenizer.tokenize("CAFÉ cafe мой") == ["cafe", "cafe", "мой"]


def test_accents_are_counted_on_latin_words():
    assert writes_with_accents(["dove è perché"])
    assert not writes_with_accents(["мой дом", "发货", "is it 5 ½ ¥ £", ""])
    assert not writes_with_accents([])
    # One word in two hundred decides.
    assert writes_with_accents(["él"] + ["a"] * 199)
    assert not writes_with_accents(["él"] + ["a"] * 200)


@pytest.mark.parametrize(
    ("text", "first"), [("ꦧꦫꦁꦠꦼꦏꦏꦺ", "ꦧ"), ("ᬩᬭᬂᬢᭂ", "ᬩ"), ("ᨠᩣ᩠ᨦ", "ᨠᩣ᩠")], ids=["Javanese", "Balinese", "Tai Tham"]
)
def test_less_common_scripts_without_spaces_are_cut_into_characters(text, first):
    tokens = train_tokenizer([text]).tokenize(text)
    assert tokens[0] == first
    assert "".join(tokens) == text
