import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from labeldist.serving import SavedClassifier
from labeldist.serving.saved import MAX_WINDOW, windows
from runs import messages

ROOT = Path(__file__).resolve().parent.parent.parent
TEXTS = [row["text"] for row in messages(1500, seed=3)]


@pytest.fixture(scope="module")
def classifier(finished_run) -> SavedClassifier:
    return SavedClassifier.from_folder(finished_run / "model", max_length=128)


def test_windows_grow_to_a_bound_and_lose_nothing():
    cut = list(windows(range(20000)))
    assert [len(window) for window in cut][:6] == [256, 256, 512, 1024, 2048, 4096]
    assert max(map(len, cut)) == MAX_WINDOW
    assert [number for window in cut for number in window] == list(range(20000))
    assert list(windows([])) == []


def test_a_window_is_read_when_it_is_wanted():
    numbers = iter(range(10**6))
    list(islice(windows(numbers), 2))
    assert next(numbers) == 512


def test_a_stream_of_texts_gets_the_probabilities_of_its_texts_in_order(classifier):
    texts, probabilities = [], []
    for window, rows in classifier.probabilities(TEXTS):
        texts += window
        probabilities.append(rows)
    assert texts == TEXTS
    torch.testing.assert_close(torch.cat(probabilities), classifier.predict(TEXTS).probabilities)


def test_a_failing_stream_fails_here(classifier):
    def texts():
        yield from TEXTS[:300]
        raise OSError("the reader is gone")

    with pytest.raises(OSError, match="the reader is gone"):
        list(classifier.probabilities(texts()))


def loaded_by(code: str) -> set[str]:
    """Packages that a fresh interpreter has loaded after `code`."""
    report = "\nimport json, sys\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_serving_a_textcnn_loads_neither_transformers_nor_anything_of_training(finished_run):
    loaded = loaded_by(
        "from pathlib import Path\n"
        "from labeldist.training.inference import Predictor\n"
        f"predictor = Predictor.from_run(Path({str(finished_run)!r}))\n"
        "assert len(list(predictor.predictions(['is it fast?', 'it is slow']))) == 2"
    )
    heavy = {"transformers", "accelerate", "datasets", "sklearn", "scipy", "matplotlib", "pandas", "pyarrow",
             "pytorch_metric_learning"}  # fmt: skip
    assert loaded & heavy == set()
    assert {"torch", "tokenizers", "safetensors"} <= loaded


def test_serving_a_pretrained_encoder_loads_neither_the_trainer_nor_matplotlib(tiny_bert_folder, tmp_path):
    from labeldist.models.classifier import ContrastiveClassifier
    from labeldist.models.pretrained import load_tokenizer

    ContrastiveClassifier.from_pretrained_encoder(str(tiny_bert_folder), 2).save(tmp_path)
    load_tokenizer(tiny_bert_folder).save_pretrained(tmp_path)
    loaded = loaded_by(
        "import sys\nfrom pathlib import Path\n"
        "from labeldist.serving import SavedClassifier\n"
        f"classifier = SavedClassifier.from_folder(Path({str(tmp_path)!r}), max_length=16)\n"
        "assert classifier.predict(['is it fast?']).probabilities.shape == (1, 2)\n"
        "assert 'transformers.trainer' not in sys.modules"
    )
    assert loaded & {"matplotlib", "datasets", "pytorch_metric_learning"} == set()
