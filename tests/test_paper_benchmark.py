"""The paper's tables: the flags of their cells, what is missing, the choice of the temperature, and the Markdown."""

import gzip
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tyro

from benchmarks import cells
from benchmarks.paper.__main__ import _options, main, plan
from benchmarks.paper.chart import cell_intervals
from benchmarks.paper.protocol import (
    BUILT_IN,
    CORPORA,
    ENCODERS,
    PAPER,
    TEMPERATURES,
    flags_of,
    objectives_of,
    seeds_of,
)
from benchmarks.paper.report import Results, ablation_table, difference_table, main_table, report
from benchmarks.paper.runs import Record, Unit, carry_out, key_of, unit_commands
from benchmarks.paper.schedule import Schedule
from benchmarks.records import save
from labeldist.cli.commands import Compare
from runs import ROOT, messages


def write_corpora(folder):
    """A corpus of the paper's name, in its format, of other rows."""
    rows = messages(120)
    (folder / "trec").mkdir(parents=True)
    for part, some in (("train", rows[:90]), ("test", rows[90:])):
        with gzip.open(folder / "trec" / f"{part}.jsonl.gz", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in some)
    return folder


@pytest.fixture
def corpora_here(tmp_path, monkeypatch):
    folder = write_corpora(tmp_path / "corpora")
    monkeypatch.setattr(cells, "DATA", folder)
    monkeypatch.setattr("benchmarks.paper.protocol.DATA", folder)
    return folder


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("corpus", CORPORA)
def test_flags_are_the_papers_setting(corpus, encoder):
    more = ("--objectives", *objectives_of(corpus, "paper"), "--seeds", *map(str, seeds_of(encoder, "paper")))
    flags = (*flags_of(corpus, encoder, folder=BUILT_IN.get(encoder, "folder")), *more)
    parsed = tyro.cli(Compare, args=flags, config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone))
    settings = parsed.settings()
    # Section IV.B.
    assert settings.matrix.max_distance == 5
    assert settings.loss.ce_weight == 0.5
    assert (settings.loss.temperature, settings.loss.weighting) == (1, "scale")
    assert settings.learning_rate == (1e-3 if encoder == "textcnn" else 2e-5)
    assert (settings.optim.weight_decay, settings.optim.batch_size, settings.model.max_length) == (0.1, 128, 128)
    assert (settings.optim.epochs, settings.optim.patience, settings.model.dropout) == (50, 10, 0.5)
    assert set(parsed.objectives) >= {"ce", "ce-two-views", "contrastive", "uniform", "static", "adaptive"}
    assert ("near" in parsed.objectives) == (corpus == "20ng")
    assert len(parsed.seeds) == (5 if encoder in ("textcnn", "minilm") else 3)


def test_the_papers_figures_are_those_of_the_results_page():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for corpus, found in PAPER.items():
        row = [*found["TextCNN"], *found["BERT"], *found["ALBERT"]]
        assert f"| {CORPORA[corpus].title} | {' | '.join(map(str, row))} |" in page


def test_held_out_rows_are_no_test_rows(corpora_here, tmp_path):
    first = flags_of("trec", "textcnn", folder="textcnn", development_in=tmp_path)
    folder = Path(first[first.index("--data") + 1])
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in folder.iterdir()}
    parts = {part: [json.loads(line)["text"] for line in some] for part, some in lines.items()}
    assert (len(parts["train"]), len(parts["test"])) == (72, 18)
    rows = cells.read_rows(corpora_here / "trec" / "train.jsonl.gz")
    assert sorted(parts["train"] + parts["test"]) == sorted(row["text"] for row in rows)
    assert flags_of("trec", "textcnn", folder="textcnn", development_in=tmp_path) == first


def made(**about):
    run = {"corpus": "trec", "setting": "paper", "temperature": 1.0, "objective": "ce", "seed": 0}
    return {**run, "accuracy": 0.5, "macro_f1": 0.5, "seconds": 10.0, "runs_per_gpu": 4, **about}


def record_of(*runs, encoder="textcnn"):
    facts = {
        "encoder": encoder, "title": "an encoder", "options": "", "machines": ["a machine"], "versions": ["torch 2"],
        "commit": "abc", "commands": [], "temperatures": list(TEMPERATURES), "runs": list(runs),
    }  # fmt: skip
    return facts


def test_a_record_knows_what_is_missing(tmp_path):
    record = Record(tmp_path / "textcnn.json", record_of())
    unit = Unit("textcnn", "trec", "paper", 0)
    assert record.missing(unit) == list(objectives_of("trec", "paper"))
    assert len(record.add([made(), made(objective="static", failed="diverged")])) == 2
    assert record.add([made(accuracy=0.9)]) == []
    # What failed would fail again.
    assert record.missing(unit) == ["ce-two-views", "contrastive", "uniform", "adaptive"]
    assert record.missing(unit, ["ce", "adaptive"]) == ["adaptive"]
    assert record.missing(Unit("textcnn", "trec", "paper", 1)) == list(objectives_of("trec", "paper"))
    stored = json.loads((tmp_path / "textcnn.json").read_text(encoding="utf-8"))
    assert [key_of(run) for run in stored["runs"]] == sorted(map(key_of, record.facts["runs"]))


def test_one_missing_run_is_a_training(tmp_path):
    unit = Unit("textcnn", "trec", "paper", 3)
    several, folder = unit_commands(unit, ["ce", "static"], tmp_path, ("--flag",))
    assert several[3:] == ["compare", "--flag", "--objectives", "ce", "static", "--seeds", "3", "--output", str(folder)]
    alone, folder = unit_commands(unit, ["static"], tmp_path, ("--flag",))
    assert alone[3:] == ["train", "--flag", "--objective", "static", "--seed", "3", "--output", str(folder)]


def development_runs(accuracies, objectives=("contrastive", "adaptive")):
    return [
        made(setting="development", temperature=temperature, objective=objective, seed=seed, accuracy=accuracy)
        for temperature, accuracy in accuracies.items()
        for objective in objectives
        for seed in seeds_of("textcnn", "development")
    ]


def test_the_temperature_is_chosen_once_all_its_runs_are_there(tmp_path):
    runs = development_runs(dict(zip(TEMPERATURES, (0.6, 0.7, 0.8, 0.75), strict=True)))
    record = Record(tmp_path / "textcnn.json", record_of(*runs[:-1]))
    seeds = seeds_of("textcnn", "development")
    assert record.temperature("trec", TEMPERATURES, seeds) is None
    record.add(runs[-1:])
    assert record.temperature("trec", TEMPERATURES, seeds) == 0.1
    assert record.temperature("r8", TEMPERATURES, seeds) is None


def test_units_wait_for_their_temperature():
    waits, other = Unit("textcnn", "trec", "tuned", 0, None), Unit("textcnn", "trec", "development", 0, 0.1)
    chosen = []
    schedule = Schedule([waits, other], lambda unit: chosen[0] if chosen else None)
    assert schedule.take() == other
    taken = []
    second = threading.Thread(target=lambda: taken.append(schedule.take()))
    second.start()
    second.join(0.2)
    assert not taken
    chosen.append(0.3)
    schedule.done(other)
    second.join(5)
    assert [unit.temperature for unit in taken] == [0.3]
    # Without what they wait for they end.
    stuck = Schedule([waits], lambda unit: None)
    assert stuck.take() is None
    assert stuck.drop() == [waits]


def test_a_plan_counts_runs_and_minutes(tmp_path):
    output = ["--output", str(tmp_path), "--dry"]
    text = plan(_options(["--encoders", "textcnn", "albert", "--corpora", "trec", *output]))
    # 6 objectives and 5 seeds; 2 objectives, 2 seeds and 4 temperatures; 4 objectives and 5 seeds.
    assert [line.split()[2:5] for line in text.splitlines()[1:4]] == [
        ["paper", "0", "30"],
        ["development", "0", "16"],
        ["tuned", "0", "20"],
    ]
    assert text.count("not run here: weights not reachable") == 4
    assert "66 runs, " in text
    save(record_of(made(), made(seed=1)), tmp_path / "textcnn.json", key_of)
    text = plan(_options(["--encoders", "textcnn", "--settings", "paper", "--corpora", "trec", *output]))
    # 28 runs of 10 s, four on a GPU.
    assert text.splitlines()[1].split() == ["textcnn", "trec", "paper", "2", "28", "1"]
    ablation = plan(_options(["--table", "III", "--encoders", "mpnet=folder", *output]))
    assert [line.split()[:5] for line in ablation.splitlines()[1:-1]] == [["mpnet", "20ng", "paper", "0", "21"]]


SMALL = "--epochs 1 --embedding-dim 8 --projection-dim 8 --confusion-epochs 1 --batch-size 32"


def test_a_cell_is_run_recorded_and_not_run_again(corpora_here, tmp_path, monkeypatch, capsys):
    def call(*objectives):
        words = ["--encoders", "textcnn", "--corpora", "trec", "--settings", "paper", "--seeds", "0"]
        words += ["--objectives", *objectives, "--options", SMALL, "--commit", "abc"]
        words += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "records")]
        monkeypatch.setattr(sys, "argv", ["paper", *words])
        main()
        return capsys.readouterr().out

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert "textcnn-trec-paper-seed0  contrastive: " in call("ce", "contrastive")
        stored = json.loads((tmp_path / "records" / "textcnn.json").read_text(encoding="utf-8"))
        assert {run["objective"] for run in stored["runs"]} == {"ce", "contrastive"}
        assert all(run["num_test_rows"] == 30 and run["epochs"] == 1 for run in stored["runs"])
        assert str(tmp_path) not in json.dumps(stored)
        # The models are gone, and nothing is left to do.
        assert list((tmp_path / "work").iterdir()) == []
        assert "2      0" in call("ce", "contrastive")
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert "| TREC-6 | textcnn |" in report(tmp_path / "records")


@pytest.mark.slow
def test_a_killed_call_goes_on_with_the_runs_that_it_recorded(corpora_here, tmp_path):
    words = ["--encoders", "textcnn", "--corpora", "trec", "--settings", "paper", "--seeds", "0", "--commit", "abc"]
    words += ["--options", SMALL.replace("--epochs 1", "--epochs 40"), "--work", str(tmp_path / "work")]
    command = [sys.executable, "-m", "benchmarks.paper", *words, "--output", str(tmp_path / "records")]
    path = tmp_path / "records" / "textcnn.json"

    def start():
        environment = {**cells.environment(0), "OMP_NUM_THREADS": "1", "LABELDIST_DATA": str(corpora_here)}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    killed = start()
    deadline = time.monotonic() + 240
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    killed.send_signal(signal.SIGTERM)
    killed.communicate(timeout=120)
    assert killed.returncode != 0
    before = json.loads(path.read_text(encoding="utf-8"))["runs"]
    assert 0 < len(before) < 6
    again = start()
    assert f"{len(before):>5}{6 - len(before):>7}" in again.communicate(timeout=400)[0]
    after = json.loads(path.read_text(encoding="utf-8"))["runs"]
    assert len(after) == 6
    assert [run for run in after if run in before] == before


@pytest.mark.slow
def test_a_run_that_was_missing_alone_is_the_one_of_a_comparison(corpora_here, tmp_path):
    def runs_of(name, *known):
        record = Record(tmp_path / f"{name}.json", record_of(*known))
        unit = Unit("textcnn", "trec", "paper", 0)
        lines = []
        assert carry_out(
            unit, record, tmp_path / name, encoder_folder="textcnn", place=0, stop=threading.Event(),
            objectives=["ce", "contrastive"], more_flags=SMALL.split(), facts={}, say=lines.append,
        ), lines  # fmt: skip
        return {run["objective"]: run for run in record.facts["runs"]}

    together = runs_of("together")
    alone = runs_of("alone", together["ce"])
    for name in ("accuracy", "macro_f1", "validation_accuracy"):
        assert alone["contrastive"][name] == together["contrastive"][name]


def test_tables_show_means_intervals_and_what_was_not_run(tmp_path):
    # adaptive is 1, 2 and 3 points above each of its controls; t = 3.46, p = 0.074 alone and more among others.
    scores = {
        "ce-two-views": [0.80] * 3,
        "contrastive": [0.80] * 3,
        "uniform": [0.80] * 3,
        "adaptive": [0.81, 0.82, 0.83],
    }
    runs = [
        made(objective=objective, seed=seed, accuracy=accuracy)
        for objective, found in scores.items()
        for seed, accuracy in enumerate(found)
    ]
    save(record_of(*runs), tmp_path / "textcnn.json", key_of)
    results = Results(tmp_path)
    text = main_table(results, "paper")
    cell = "80.0 ± 0.0 (3 of 5 seeds)"
    assert f"| TREC-6 | textcnn | not run | {cell} | {cell} | {cell} | not run | 82.0 ± 1.0 (3 of 5 seeds) | " in text
    not_run = " | ".join(["not run"] * 6)
    assert f"| MR | textcnn | {not_run} | 70.9 → 72.1 |" in text
    assert "minilm" not in text
    differences = difference_table(results, "paper")
    # Four differences: three of p 0.074 and one of all zeros, whose p is 1. Holm: 4 x 0.074.
    of_one = "+2.0 (-0.5 to +4.5, p 0.30)"
    assert f"| TREC-6 | textcnn | adaptive | {of_one} | {of_one} | {of_one} | inconclusive |" in differences
    assert "| TREC-6 | textcnn | contrastive | 0.0 (0.0 to 0.0, p 1.00) |  |  |  |" in differences
    assert "static" not in differences
    picture = cell_intervals(results, "paper")
    assert "TREC-6, textcnn, against ce-two-views (the paper, against cross-entropy: +0.6)" in picture
    assert "<title>adaptive: +2.0 points, -0.5 to +4.5</title>" in picture
    assert "20NG" not in picture
    assert cell_intervals(results, "tuned") == ""
    assert difference_table(results, "tuned") == "No two objectives were run."
    assert "| | textcnn | the paper, BERT |" in ablation_table(results)
    assert "| CT + CLALD (`adaptive`) | not run | 86.56 |" in ablation_table(results)
    missing = "Not run yet: minilm, mpnet, bert-base-cased.\n\nalbert: not run here: weights not reachable."
    whole = report(tmp_path)
    assert missing in whole
    assert "chosen on held-out training rows\n\nNot run yet." in whole
    assert "ablation on 20NG\n\nNot run yet." in whole
    assert report(tmp_path / "nothing") == missing.replace("yet: ", "yet: textcnn, ")


def test_a_tuned_table_has_the_chosen_temperature_and_shares_what_has_none(tmp_path):
    chosen = dict(zip(TEMPERATURES, (0.6, 0.7, 0.8, 0.75), strict=True))
    tuned = [made(setting="tuned", temperature=at, objective="adaptive", accuracy=at) for at in (0.1, 0.3)]
    save(record_of(made(accuracy=0.4), *tuned, *development_runs(chosen)), tmp_path / "textcnn.json", key_of)
    results = Results(tmp_path)
    assert results.scores("textcnn", "trec", "tuned", "adaptive") == {0: 0.1}
    # Cross-entropy has no temperature.
    assert results.scores("textcnn", "trec", "tuned", "ce") == {0: 0.4}
    text = report(tmp_path)
    assert "| TREC-6 | textcnn | 60.0 | 70.0 | 80.0 | 75.0 | 0.1 |" in text
    # The paper's own: its runs are those of the paper's setting.
    save(
        record_of(made(objective="adaptive"), *development_runs({**chosen, 1.0: 0.9})),
        tmp_path / "textcnn.json",
        key_of,
    )
    assert Results(tmp_path).scores("textcnn", "trec", "tuned", "adaptive") == {0: 0.5}


def test_no_temperature_is_shown_as_chosen_before_all_its_runs_are_there(tmp_path):
    runs = development_runs(dict(zip(TEMPERATURES, (0.8, 0.7, 0.6, 0.5), strict=True)))
    del runs[3], runs[-4:]
    runs[-1] = {name: value for name, value in runs[-1].items() if name != "accuracy"} | {"failed": "diverged"}
    save(record_of(*runs), tmp_path / "textcnn.json", key_of)
    results = Results(tmp_path)
    assert results.temperature("textcnn", "trec") is None
    assert results.scores("textcnn", "trec", "tuned", "adaptive") == {}
    assert "| TREC-6 | textcnn | 80.0 (3 of 4 runs) | 70.0 | failed | not run |  |" in report(tmp_path)


def test_two_classes_have_one_matrix(tmp_path):
    runs = [
        made(corpus="mr", objective=objective, seed=seed)
        for objective in objectives_of("mr", "paper")
        for seed in (0, 1)
    ]
    save(record_of(*runs), tmp_path / "textcnn.json", key_of)
    lines = difference_table(Results(tmp_path), "paper").splitlines()
    static = next(line for line in lines if line.startswith("| MR | textcnn | static |"))
    assert static.split(" | ")[5] == ""
