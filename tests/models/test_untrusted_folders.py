"""A run folder or an encoder folder is data: whatever it holds, none of it runs, and no question is asked."""

import contextlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import labeldist as labeldist_api
from labeldist.cli import main
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.models.pretrained import load_encoder, load_tokenizer
from labeldist.serving import SavedClassifier
from runs import CLASSES, QUICK, SIZES, labeldist, read

pytestmark = pytest.mark.usefixtures("as_it_was")

AUTO_MAP = {
    "AutoConfig": "payload.Config",
    "AutoModel": "payload.Model",
    "AutoModelForSequenceClassification": "payload.Model",
    "AutoTokenizer": ["payload.Tokenizer", "payload.Tokenizer"],
}


class Payload:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path) -> Path:
    """Comes into being when a payload runs."""
    return tmp_path / "ran"


@pytest.fixture
def yes(monkeypatch):
    """Whoever asks on standard input gets "y"."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))


def write_code(folder: Path, marker: Path) -> None:
    (folder / "payload.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import BertConfig, BertModel, PreTrainedTokenizerFast\n"
        "class Config(BertConfig):\n    model_type = 'payload'\n"
        "class Model(BertModel):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )


def write_pickle(path: Path, marker: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Payload(marker)))


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**(read(path) if path.exists() else {}), **changes}))


def code_in_config(folder: Path, marker: Path) -> None:
    write_code(folder, marker)
    change(folder / "config.json", model_type="payload", auto_map=AUTO_MAP)


def code_beside_a_known_architecture(folder: Path, marker: Path) -> None:
    write_code(folder, marker)
    change(folder / "config.json", auto_map=AUTO_MAP)


def code_in_tokenizer(folder: Path, marker: Path) -> None:
    write_code(folder, marker)
    change(folder / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="Tokenizer")


def code_in_config_and_tokenizer(folder: Path, marker: Path) -> None:
    code_in_config(folder, marker)
    code_in_tokenizer(folder, marker)


def pickled_weights(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", marker)


def pickle_named_safetensors(folder: Path, marker: Path) -> None:
    write_pickle(folder / "model.safetensors", marker)


def pickled_adapter(folder: Path, marker: Path) -> None:
    change(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(folder), r=2)
    write_pickle(folder / "adapter_model.bin", marker)


def attention_from_the_hub(folder: Path, marker: Path) -> None:
    change(folder / "config.json", attn_implementation="nobody/payload")


REFUSED = [code_in_config, code_in_config_and_tokenizer, pickled_weights, pickle_named_safetensors,
           attention_from_the_hub]  # fmt: skip
HARMLESS = [code_beside_a_known_architecture]
EITHER = [code_in_tokenizer, pickled_adapter]


def write_everywhere(folder: Path, marker: Path) -> None:
    """Code, and every pickle that a reader of checkpoints might look for."""
    write_code(folder, marker)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "model.pt", "scaler.pt"):
        write_pickle(folder / name, marker)


@pytest.mark.parametrize("spoil", [*REFUSED, *HARMLESS, *EITHER])
@pytest.mark.usefixtures("yes")
def test_an_encoder_folder_runs_no_code(tiny_bert_folder, tickets, tmp_path, marker, capsys, spoil):
    encoder = shutil.copytree(tiny_bert_folder, tmp_path / "encoder")
    spoil(encoder, marker)
    run = tmp_path / "run"
    options = ["--max-length", "16", "--objective", "ce", "--epochs", "1", "--output", str(run)]
    code = main(["train", "--data", str(tickets), "--encoder", str(encoder), *options])
    assert not marker.exists()
    if spoil in REFUSED:
        assert code == 2
    if spoil in HARMLESS:
        assert code == 0
    if code == 2:
        assert not run.exists()
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "weights_only" not in said[0]
    else:
        assert code == 0


@pytest.mark.parametrize(
    "spoil", [code_in_config, code_beside_a_known_architecture, code_in_tokenizer, code_in_config_and_tokenizer]
)
@pytest.mark.usefixtures("yes")
def test_a_run_folder_runs_no_code(finished_run, tickets, tmp_path, marker, capsys, spoil):
    run = shutil.copytree(finished_run, tmp_path / "run")
    for folder in {path.parent for path in (run / "model").rglob("*") if path.is_file()}:
        spoil(folder, marker)
        write_everywhere(folder, marker)
    change(run / "config.json", model={**read(run / "config.json")["model"], "trust_remote_code": True})
    for command in (["predict", str(run), "is it fast?"], ["evaluate", str(run), "--data", str(tickets)]):
        assert main(command) in (0, 2)
        assert not marker.exists()
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("model_type", ["payload", "bert"])
@pytest.mark.usefixtures("yes")
def test_a_saved_classifier_with_a_pretrained_encoder_runs_no_code(tiny_bert_folder, tmp_path, marker, model_type):
    ContrastiveClassifier.from_pretrained_encoder(str(tiny_bert_folder), 2).save(tmp_path)
    load_tokenizer(tiny_bert_folder).save_pretrained(tmp_path)
    write_everywhere(tmp_path, marker)
    encoder = {**read(tmp_path / "config.json")["encoder"], "model_type": model_type, "auto_map": AUTO_MAP}
    change(tmp_path / "config.json", encoder=encoder, auto_map=AUTO_MAP)
    if model_type == "bert":
        saved = SavedClassifier.from_folder(tmp_path, max_length=16)
        assert saved.predict(["is it fast?"]).probabilities.shape == (1, 2)
    else:
        for load in (ContrastiveClassifier.load, ContrastiveClassifier.from_pretrained):
            with pytest.raises(ValueError, match="needs Python code of its own"):
                load(tmp_path)
        with pytest.raises(ValueError, match="No code is ever run from a saved classifier"):
            SavedClassifier.from_folder(tmp_path, max_length=16)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json",
                                  "model.safetensors"])  # fmt: skip
@pytest.mark.usefixtures("yes")
def test_a_pickle_in_place_of_a_file_of_the_model_is_refused(finished_run, tmp_path, marker, name):
    run = shutil.copytree(finished_run, tmp_path / "run")
    write_pickle(run / "model" / name, marker)
    assert main(["predict", str(run), "is it fast?"]) == 2
    assert not marker.exists()


@pytest.fixture(scope="module")
def interrupted_run(tickets, tmp_path_factory) -> Path:
    """A run that was killed behind its first checkpoint."""
    run = tmp_path_factory.mktemp("runs") / "interrupted"
    options = ["--epochs", "500", "--patience", "500", "--confusion-epochs", "1", "--output", run]
    process = labeldist("train", "--data", tickets, *SIZES, *options)
    states = (run / "checkpoints").glob
    deadline = time.monotonic() + 120
    while len(list(states("checkpoint-*/trainer_state.json"))) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    return run


@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.safetensors", "pytorch_model.bin",
     "scaler.pt", "label_distance.safetensors", "trainer_state.json"],
)  # fmt: skip
@pytest.mark.usefixtures("yes")
def test_resuming_runs_no_code_from_a_checkpoint(interrupted_run, tmp_path, marker, name):
    run = shutil.copytree(interrupted_run, tmp_path / "run")
    config = read(run / "config.json")
    # Enough to reach the checkpoint, and to end soon behind it.
    change(run / "config.json", optim={**config["optim"], "epochs": 4})
    for checkpoint in (run / "checkpoints").iterdir():
        if name == "pytorch_model.bin":
            (checkpoint / "model.safetensors").unlink(missing_ok=True)
        write_pickle(checkpoint / name, marker)
        write_code(checkpoint, marker)
        change(checkpoint / "config.json", model_type="payload", auto_map=AUTO_MAP)
    # What a damaged checkpoint brings about is another matter: here it only must not run.
    with contextlib.suppress(Exception):
        main(["train", "--resume", str(run)])
    assert not marker.exists()


@pytest.mark.usefixtures("yes")
def test_a_run_folder_cannot_say_that_its_encoder_is_trusted(interrupted_run, tiny_bert_folder, tmp_path, marker):
    run = shutil.copytree(interrupted_run, tmp_path / "run")
    encoder = shutil.copytree(tiny_bert_folder, tmp_path / "encoder")
    code_in_config_and_tokenizer(encoder, marker)
    model = read(run / "config.json")["model"]
    change(run / "config.json", model={**model, "encoder": str(encoder), "trust_remote_code": True, "max_length": 16})
    assert main(["train", "--resume", str(run)]) == 2
    assert not marker.exists()


def test_code_runs_where_it_is_asked_for(tiny_bert_folder, tmp_path, marker):
    encoder = shutil.copytree(tiny_bert_folder, tmp_path / "encoder")
    code_in_config_and_tokenizer(encoder, marker)
    loaded: Any = load_encoder(str(encoder), local_files_only=True, trust_remote_code=True)
    assert type(loaded).__name__ == "Model"
    assert type(load_tokenizer(encoder, local_files_only=True, trust_remote_code=True)).__name__ == "Tokenizer"
    assert marker.exists()


@pytest.mark.parametrize("command", ["predict", "evaluate", "train"])
def test_a_piped_yes_answers_no_question(command, finished_run, tiny_bert_folder, tickets, tmp_path, marker):
    if command == "train":
        folder = shutil.copytree(tiny_bert_folder, tmp_path / "encoder")
        code_in_config_and_tokenizer(folder, marker)
        arguments = ["train", "--data", tickets, "--encoder", folder, *QUICK, "--output", tmp_path / "new"]
    else:
        run = shutil.copytree(finished_run, tmp_path / "run")
        code_in_config_and_tokenizer(run / "model", marker)
        arguments = [command, run, *(["--data", tickets] if command == "evaluate" else [])]
    process = labeldist(*arguments, stdin=subprocess.PIPE, text=True)
    output, errors = process.communicate("y\n" * 20)
    assert not marker.exists()
    assert process.returncode in (0, 2), errors
    assert "[y/N]" not in output + errors
    if command == "train":
        assert process.returncode == 2
        assert "--trust-remote-code" in errors
        assert not (tmp_path / "new").exists()
    if command == "predict" and process.returncode == 0:
        # The piped lines are texts, all of them.
        assert len(output.splitlines()) == 20
        assert json.loads(output.splitlines()[0])["label"] in CLASSES


@pytest.fixture(scope="module")
def trusted_encoder(tiny_bert_folder, tmp_path_factory) -> tuple[Path, Path]:
    """An encoder with code of its own, and the file that its code makes."""
    folder = tmp_path_factory.mktemp("trusted")
    encoder, marker = shutil.copytree(tiny_bert_folder, folder / "encoder"), folder / "ran"
    code_in_config_and_tokenizer(encoder, marker)
    return encoder, marker


TRUST = "--trust-remote-code"
SHORT = ["--max-length", "16", "--epochs", "1", "--confusion-epochs", "1"]


def refused_in_a_process_of_its_own(*arguments: Any) -> str:
    """The sentence. This process may have the encoder's code in memory, and would not run it anew."""
    process = labeldist(*arguments, stdin=subprocess.PIPE, text=True)
    _, errors = process.communicate("y\n")
    assert process.returncode == 2
    return errors


def test_a_run_with_trusted_code_needs_the_trust_again(trusted_encoder, tickets, tmp_path):
    encoder, marker = trusted_encoder
    run = tmp_path / "run"
    train = ["train", "--data", str(tickets), "--encoder", str(encoder), *SHORT, "--objective", "ce"]
    assert main([*train, TRUST, "--output", str(run)]) == 0
    marker.unlink()
    assert f"If you trust that code, give {TRUST} here, too" in refused_in_a_process_of_its_own(
        "predict", run, "is it?"
    )
    assert not marker.exists()
    assert main(["predict", str(run), "is it fast?", TRUST]) == 0
    assert main(["evaluate", str(run), "--data", str(tickets), TRUST]) == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    served = labeldist_api.load(run, trust_remote_code=True).predict([row["text"] for row in rows])
    assert [row["label"] for row in served] == [row["predicted"] for row in rows]

    (run / "metrics.json").unlink()
    assert f"give {TRUST} here, too" in refused_in_a_process_of_its_own("train", "--resume", run)
    assert not marker.exists()
    assert main(["train", "--resume", str(run), TRUST]) == 0
    assert (run / "metrics.json").exists()


@pytest.mark.usefixtures("yes")
def test_a_comparison_with_trusted_code_goes_on(trusted_encoder, tickets, tmp_path, capsys):
    encoder, _ = trusted_encoder
    folder = tmp_path / "compared"
    compare = ["compare", "--data", str(tickets), "--encoder", str(encoder), *SHORT, "--seeds", "0"]
    compare += ["--objectives", "ce", "contrastive", "--output", str(folder)]
    assert main([*compare, TRUST]) == 0
    (folder / "runs" / "contrastive-seed0" / "metrics.json").unlink()
    first = read(folder / "comparison.json")
    assert main([*compare, TRUST]) == 0
    assert read(folder / "comparison.json")["objectives"].keys() == first["objectives"].keys()
    capsys.readouterr()
    assert main(compare) == 2
    assert f"holds a comparison with {TRUST}" in capsys.readouterr().err


@pytest.mark.usefixtures("yes")
def test_trust_in_a_run_that_had_none_is_refused(interrupted_run, tiny_bert_folder, tmp_path, marker, capsys):
    run = shutil.copytree(interrupted_run, tmp_path / "run")
    encoder = shutil.copytree(tiny_bert_folder, tmp_path / "encoder")
    code_beside_a_known_architecture(encoder, marker)
    change(run / "config.json", model={**read(run / "config.json")["model"], "encoder": str(encoder)})
    assert main(["train", "--resume", str(run), TRUST]) == 2
    assert f"was begun without {TRUST}" in capsys.readouterr().err
    assert not marker.exists()
