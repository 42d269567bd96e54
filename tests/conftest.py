import logging
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's interpreter, so that kernels run on a CPU. Read where they are defined, so before any import of them.
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora (20ng, r8, r52, mr, trec), which the project does not redistribute."""
    folder = Path(os.environ.get("LABELDIST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "trec" / "train.jsonl.gz").is_file():
        pytest.skip(
            f"no real corpora in {folder}; set LABELDIST_DATA to the folder that holds trec, mr, r8, r52 and 20ng"
        )
    return folder


@contextmanager
def restored():
    """Take back what a run and the command line set for their own process."""
    environment, level = dict(os.environ), logging.getLogger().level
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]
        logging.getLogger().setLevel(level)
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture
def as_it_was():
    """For tests that run the trainer in this process: it seeds and sets more than they own."""
    with restored():
        yield


@pytest.fixture
def interruptible():
    """Processes that a test starts hear of Ctrl-C, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tickets(tmp_path_factory) -> Path:
    """A small corpus: a folder with 90 rows in train.jsonl and 30 in test.jsonl, four classes."""
    from runs import write_corpus

    return write_corpus(tmp_path_factory.mktemp("data") / "tickets")


@pytest.fixture(scope="session")
def finished_run(tickets, tmp_path_factory) -> Path:
    """The folder of a whole adaptive run on `tickets`; to be left as it is."""
    from labeldist.cli import main
    from runs import QUICK

    folder = tmp_path_factory.mktemp("runs") / "adaptive"
    with restored():
        assert main(["train", "--data", str(tickets), *QUICK, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def tiny_disk(tmp_path):
    """Mounts a small disk of its own: `tiny_disk(size_kib)`, read-only if asked."""
    mounted = []

    def mount(size_kib: int, *, read_only: bool = False) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        options = f"size={size_kib}k" + (",ro" if read_only else "")
        try:
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
            )
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory) -> Path:
    """A BERT of random weights with its tokenizer, for at most 64 tokens, saved as a Hugging Face checkpoint."""
    from transformers import BertConfig, BertModel

    from labeldist.training.encoders import train_tokenizer
    from runs import messages

    folder = tmp_path_factory.mktemp("encoders") / "bert"
    tokenizer = train_tokenizer([row["text"] for row in messages(100)])
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder
