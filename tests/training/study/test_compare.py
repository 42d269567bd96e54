"""Comparisons: paired, resumable, and the same whatever the number of processes."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labeldist.cli import main
from labeldist.evaluation import mistake_severity
from labeldist.training.api import carry_out_comparison
from labeldist.training.config import MatrixSettings
from labeldist.training.data.names import data_name
from labeldist.training.data.sources import find_source
from labeldist.training.errors import UserError
from labeldist.training.folder_lock import owning
from labeldist.training.output.words import verdict_sentence
from labeldist.training.recipes import ByRecipe
from labeldist.training.records import Confusion, read_record
from labeldist.training.study import compare as module
from labeldist.training.study.compare import CompareSpec
from labeldist.training.study.results import Comparison
from runs import CLASSES, QUICK, SIZES, contents, labeldist, messages, raw_corpus, read, settings_of, write_corpus

pytestmark = pytest.mark.usefixtures("as_it_was")

OBJECTIVES = ("ce-two-views", "uniform", "static", "adaptive")


def spec_of(data, objectives=("ce-two-views", "static"), seeds=(0, 1), **changes) -> CompareSpec:
    return CompareSpec(settings_of(data, **changes), objectives, seeds)


def compare(spec: CompareSpec, folder: Path, **options) -> Comparison:
    """A comparison on the data that its settings name."""
    return module.compare(spec, raw_corpus(spec.settings), folder, **options)


def timeless(comparison: dict) -> dict:
    """A comparison without its wall times."""
    objectives = {name: {**entry, "seconds": None} for name, entry in comparison["objectives"].items()}
    return {**comparison, "objectives": objectives}


def run_metrics(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("runs/*/metrics.json")}


@pytest.fixture(scope="module")
def compared(tickets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "all"
    compare(spec_of(tickets, OBJECTIVES), folder)
    return folder


def test_everything_is_on_disk(compared):
    runs = {f"{objective}-seed{seed}" for objective in OBJECTIVES for seed in (0, 1)}
    assert {path.name for path in (compared / "runs").iterdir()} == runs
    assert (compared / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in compared.glob("confusion-*.png")} == {"confusion-baseline.png", "confusion-best.png"}
    comparison = read(compared / "comparison.json")
    assert comparison["seeds"] == [0, 1]
    assert set(comparison["objectives"]) == set(OBJECTIVES)
    for objective, entry in comparison["objectives"].items():
        own = [
            read(compared / "runs" / f"{objective}-seed{seed}" / "metrics.json")["test"]["accuracy"] for seed in (0, 1)
        ]
        assert entry["accuracy"] == own


def test_all_objectives_of_a_seed_share_their_rows_and_their_counted_confusions(compared):
    for seed in (0, 1):
        configs = [read(compared / "runs" / f"{objective}-seed{seed}" / "config.json") for objective in OBJECTIVES]
        assert len({config["fingerprint"] for config in configs}) == 1
        assert (compared / f"confusion-seed{seed}.json").is_file()
    assert not list((compared / "runs").rglob("confusion.json"))


def test_uniform_has_the_mean_distance_of_static_spread_evenly(compared):
    for seed in (0, 1):
        uniform, static = (
            read(compared / "runs" / f"{name}-seed{seed}" / "ldm.json")["matrix"] for name in ("uniform", "static")
        )
        off = [(i, j) for i in range(4) for j in range(4) if i != j]
        assert len({uniform[i][j] for i, j in off}) == 1
        mean = sum(static[i][j] for i, j in off) / len(off)
        assert uniform[0][1] == pytest.approx(mean, rel=1e-6)
        assert uniform[0][1] > 1


def test_a_run_of_a_comparison_is_the_run_that_train_gives(compared, tickets, tmp_path):
    command = ["train", "--data", str(tickets), *QUICK, "--objective", "static", "--seed", "1"]
    assert main([*command, "-o", str(tmp_path / "run")]) == 0
    ours, theirs = tmp_path / "run", compared / "runs" / "static-seed1"
    for name in ("metrics.json", "ldm.json", "predictions.jsonl", "config.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_the_output_ends_in_one_plain_sentence(capsys, compared, tickets, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "all")
    flags = ["--objectives", *OBJECTIVES, "--seeds", "0", "1", "-o", str(folder)]
    assert main(["compare", "--data", str(tickets), *QUICK, *flags]) == 0
    out, err = capsys.readouterr()
    last = out.rstrip("\n").splitlines()[-1]
    comparison = read_record(folder / "comparison.json", Comparison)
    assert " ".join(out.split()).endswith(verdict_sentence(comparison))
    assert last.endswith(".")
    assert f"Saved in {folder}" in err


def test_neighbors_and_mistakes_of_every_run_stand_in_the_comparison(compared):
    comparison = read(compared / "comparison.json")
    assert comparison["severity_matrix"] == "the matrix of static, seed 0"
    matrix = read(compared / "runs" / "static-seed0" / "ldm.json")["matrix"]
    for objective, columns in comparison["objectives"].items():
        for seed in (0, 1):
            own = read(compared / "runs" / f"{objective}-seed{seed}" / "metrics.json")["test"]
            for name, value in own["embeddings"].items():
                assert columns[name][seed] == value
            counts = Confusion(*map(tuple, own["confusion"].values())).matrix(len(CLASSES))
            assert columns["mistake_distance"][seed] == mistake_severity(torch.tensor(counts), matrix).mean_distance


def test_a_run_of_another_format_is_refused_in_one_sentence(capsys, compared, tickets, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "all")
    path = folder / "runs" / "static-seed1" / "metrics.json"
    path.write_text(json.dumps({**read(path), "format": 0}))
    flags = ["--objectives", *OBJECTIVES, "--seeds", "0", "1", "-o", str(folder)]
    assert main(["compare", "--data", str(tickets), *QUICK, *flags]) == 2
    assert f"{path} must have format 1, got format 0." in capsys.readouterr().err.splitlines()[-1]


def test_going_on_trains_only_what_is_missing(compared, tickets, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "all", copy_function=shutil.copy2)
    shutil.rmtree(folder / "runs" / "static-seed1")
    (folder / "runs" / "adaptive-seed1" / "metrics.json").unlink()
    (folder / "comparison.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/metrics.json")}
    compare(spec_of(tickets, OBJECTIVES), folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run_metrics(folder) == run_metrics(compared)
    assert timeless(read(folder / "comparison.json")) == timeless(read(compared / "comparison.json"))


def test_objectives_and_seeds_may_be_added(compared, tickets, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "all", copy_function=shutil.copy2)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/metrics.json")}
    comparison = compare(spec_of(tickets, (*OBJECTIVES, "contrastive"), (0, 1)), folder)
    assert set(comparison.objectives) == {*OBJECTIVES, "contrastive"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"epochs": 3}, "--epochs 2, not 3"),
        ({"shots": 5}, "--shots None, not 5"),
    ],
)
def test_another_setting_in_the_same_folder_is_refused(compared, tickets, changes, option):
    before = contents(compared)
    with pytest.raises(UserError, match=f"holds a comparison with {option}"):
        compare(spec_of(tickets, OBJECTIVES, **changes), compared)
    assert contents(compared) == before


def test_data_that_changed_since_is_noticed(tmp_path):
    data = write_corpus(tmp_path / "data", num_train=40, num_test=10)
    spec = spec_of(data, ("ce", "contrastive"), (0,), epochs=1)
    compare(spec, tmp_path / "all")
    with (data / "test.jsonl").open("a") as file:
        file.write('{"text": "one more", "label": "delivery_praise"}\n')
    before = contents(tmp_path / "all" / "runs")
    with pytest.raises(UserError, match="changed since"):
        compare(replace(spec, objectives=("ce", "contrastive", "ce-two-views")), tmp_path / "all")
    assert contents(tmp_path / "all" / "runs") == before


@pytest.fixture
def spied(monkeypatch) -> dict[str, int]:
    """How often data are read and classifiers are built."""
    from labeldist.training import encoders, label_distances, run, run_model
    from labeldist.training.data import sources

    calls = {"read": 0, "built": 0, "tokenized": 0}
    build, rows = encoders.build_classifier, sources.read_rows

    def building(*arguments, **options):
        calls["built"] += 1
        model, tokenizer = build(*arguments, **options)
        original = type(tokenizer).__call__

        def tokenizing(self, texts, **options):
            calls["tokenized"] += len(texts)
            return original(self, texts, **options)

        # A class of its own: a call is looked up on the class.
        tokenizer.__class__ = type("Spied", (type(tokenizer),), {"__call__": tokenizing})
        return model, tokenizer

    def reading(path, **options):
        calls["read"] += 1
        return rows(path, **options)

    for module_ in (run, run_model, label_distances):
        monkeypatch.setattr(module_, "build_classifier", building)
    monkeypatch.setattr(sources, "read_rows", reading)
    return calls


def test_data_are_read_once_and_models_are_built_for_runs_and_countings_alone(tmp_path, spied):
    data = write_corpus(tmp_path / "data", num_train=24, num_test=6)
    objectives = ("ce-two-views", "contrastive", "uniform", "static", "adaptive")
    settings = settings_of(data, epochs=1)
    # As the command line does it.
    spec = CompareSpec(settings, objectives, (0, 1, 2))
    carry_out_comparison(
        ByRecipe(spec, spec),
        lambda: find_source([str(data)]),
        tmp_path / "all",
        jobs=1,
        show_progress=False,
        say=lambda sentence: None,
    )
    # Train and test; 15 runs and one counting for each seed, which static and uniform share.
    assert spied["read"] == 2
    assert spied["built"] == 18
    # Each seed has a vocabulary of its own, and 30 texts.
    assert spied["tokenized"] == 3 * len({row["text"] for row in messages(30)})


def test_data_that_change_while_a_comparison_runs_are_never_paired(tmp_path):
    data = write_corpus(tmp_path / "data", num_train=40, num_test=10)
    spec = spec_of(data, ("ce", "contrastive"), (0,), epochs=1)

    def change(sentence: str) -> None:
        with (data / "test.jsonl").open("a") as file:
            file.write('{"text": "one more", "label": "delivery_praise"}\n')

    compare(spec, tmp_path / "all", say=change)
    rows = [read(tmp_path / "all" / "runs" / f"{name}-seed0" / "config.json")["num_rows"] for name in spec.objectives]
    assert rows[0] == rows[1]
    with pytest.raises(UserError, match="changed since"):
        compare(spec, tmp_path / "all")


def test_a_matrix_file_that_changes_while_a_comparison_runs_is_refused(tmp_path):
    data = write_corpus(tmp_path / "data", num_train=40, num_test=10)
    path = tmp_path / "ldm.json"
    path.write_text(json.dumps({"pairs": [CLASSES[:2]]}))
    settings = settings_of(data, epochs=1, matrix=MatrixSettings(matrix_file=path))
    spec = CompareSpec(settings, ("ce", "static"), (0,))

    def change(sentence: str) -> None:
        path.write_text(json.dumps({"pairs": [CLASSES[2:]]}))

    with pytest.raises(
        UserError, match=r"The data, or a file that the settings name, changed since .*static-seed0 was begun"
    ):
        compare(spec, tmp_path / "all", say=change)
    assert not (tmp_path / "all" / "comparison.json").exists()


def test_a_run_of_other_settings_is_not_paired(compared, tickets, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "all")
    path = folder / "runs" / "static-seed1" / "config.json"
    stored = read(path)
    stored["optim"]["epochs"] = 3
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="static-seed1 was begun with other settings"):
        compare(spec_of(tickets, OBJECTIVES), folder)


def test_a_second_comparison_in_the_same_folder_is_told(tickets, tmp_path):
    folder = tmp_path / "all"
    with owning(folder), pytest.raises(UserError, match=f"Another process is writing to {folder}"):
        compare(spec_of(tickets, ("ce", "contrastive"), (0,), epochs=1), folder)
    assert not folder.exists()


def test_what_a_kill_left_of_a_first_file_does_not_stand_in_the_way(tickets, tmp_path):
    folder = tmp_path / "all"
    run = folder / "runs" / "ce-seed0"
    run.mkdir(parents=True)
    (run / "config.json.partial").write_text("{")
    (folder / "compare.json").write_text(json.dumps(spec_of(tickets, ("ce", "contrastive"), (0,), epochs=1).to_json()))
    compare(spec_of(tickets, ("ce", "contrastive"), (0,), epochs=1), folder)
    assert (run / "metrics.json").is_file()


def test_a_killed_comparison_goes_on_where_it_stopped(tickets, tmp_path, compared):
    folder = tmp_path / "all"
    flags = ["--data", str(tickets), *QUICK, "--objectives", *OBJECTIVES, "--seeds", "0", "1", "-o", str(folder)]
    process = labeldist("compare", *flags)
    deadline = time.monotonic() + 120
    while len(run_metrics(folder)) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "comparison.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/metrics.json")}
    assert main(["compare", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run_metrics(folder) == run_metrics(compared)
    assert timeless(read(folder / "comparison.json")) == timeless(read(compared / "comparison.json"))


def test_the_number_of_processes_does_not_change_the_results(compared, tickets, tmp_path):
    said = []
    compare(spec_of(tickets, OBJECTIVES), tmp_path / "all", jobs=2, say=said.append)
    assert run_metrics(tmp_path / "all") == run_metrics(compared)
    assert timeless(read(tmp_path / "all" / "comparison.json")) == timeless(read(compared / "comparison.json"))
    finished = [sentence for sentence in said if ": accuracy " in sentence]
    assert len(finished) == 8
    # A line on a terminal: no list of pairs.
    assert max(map(len, finished)) < 80


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["parent", "group"])
@pytest.mark.parametrize("moment", ["starting", "training"])
def test_an_interrupt_ends_every_process_with_one_line(tickets, tmp_path, interruptible, whom, moment):
    flags = ["--data", tickets, *SIZES, "--epochs", "1000", "--patience", "1000", "--objectives", "ce", "contrastive"]
    folder = tmp_path / "all"
    process = labeldist(
        "compare", *flags, "--jobs", "2", "--seeds", "0", "1", "-o", folder, start_new_session=True, text=True
    )
    wanted = "compare.json" if moment == "starting" else "runs/*/checkpoints/checkpoint-*"
    deadline = time.monotonic() + 120
    while not list(folder.glob(wanted)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if whom == "parent":
        os.kill(process.pid, signal.SIGINT)
    else:
        os.killpg(process.pid, signal.SIGINT)
    # The pipe closes when the last process that holds it ends.
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "labeldist: interrupted. The same command goes on where it stopped."


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tickets, tmp_path):
    flags = [
        "--data",
        str(tickets),
        *SIZES,
        "--epochs",
        "1000",
        "--patience",
        "1000",
        "--objectives",
        "ce",
        "contrastive",
    ]
    process = labeldist("compare", *flags, "--jobs", "2", "--seeds", "0", "1", "-o", tmp_path / "all")
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "all").glob("runs/*/checkpoints/checkpoint-*"))) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    # The pipe closes when the last process that holds it ends.
    process.communicate(timeout=60)


def test_a_mistake_in_one_process_is_told_by_the_parent(capsys, tickets, tmp_path, tiny_disk):
    disk = tiny_disk(700)
    flags = ["--data", str(tickets), *QUICK, "--objectives", "ce", "contrastive", "--seeds", "0", "--jobs", "2"]
    assert main(["compare", *flags, "-o", str(disk / "all")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("labeldist: error: The disk that holds ")
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (("demo",), "demo"),
        (("a/train.csv.gz", "a/test.csv.gz"), "a"),
        (("owner/set",), "set"),
        (("x.y.jsonl",), "x.y"),
    ],
)
def test_data_has_a_short_name(data, name):
    assert data_name(data) == name
