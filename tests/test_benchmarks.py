"""What the documentation shows is what was recorded."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from benchmarks import records
from benchmarks.integrations import table as integrations
from benchmarks.loss import busy
from benchmarks.loss.figures import draw, graded_table, table
from benchmarks.loss.measure import measure
from benchmarks.loss.methods import METHODS
from benchmarks.paper import tables
from benchmarks.relations.by_probabilities import ranked_by_expected_gain
from benchmarks.relations.protocol import CORPORA, HIERARCHIES, UNSEEN
from benchmarks.relations.report import (
    differences_report,
    ranking_differences,
    ranking_report,
    recorded_cells,
    relation_report,
    unseen_report,
    uses_report,
)
from labeldist.evaluation import graded_ndcg
from labeldist.training.measures import MEASURES

RELATIONS = sorted(f"relations/{path.stem}" for path in tables.RESULTS.glob("relations/*.json"))
RECORDED = sorted(path.stem for path in tables.RESULTS.glob("*.json")) + RELATIONS


def test_the_readme_shows_the_recorded_results():
    assert tables.readme_block() in (tables.ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_result_names_machine_versions_and_commit(name):
    result = tables.load(name)
    assert result.provenance.machine
    assert result.commit
    assert {"torch", "transformers", "python"} <= result.provenance.versions.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_command_gives_the_recorded_settings(name, monkeypatch):
    import shlex
    from dataclasses import fields

    import tyro

    from labeldist.cli.commands import Compare, with_few_labels
    from labeldist.training.config import RunSettings
    from labeldist.training.record_json import to_json

    settings = tables.load(name).provenance.settings
    words = shlex.split(tables.command(settings))
    assert words[:2] == ["labeldist", "compare"]
    # As the command line does it: a recipe changes the defaults.
    defaults = {"default": with_few_labels(Compare)} if settings["optim"].get("recipe") == "few-labels" else {}
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    parsed = tyro.cli(Compare, args=words[2:], config=config, **defaults)
    given = {section.name: to_json(getattr(parsed, section.name)) for section in fields(RunSettings)}
    # A setting that came after the record was at its default then.
    default = to_json(RunSettings())
    expected = {key: {**default[key], **settings[key]} for key in given}
    expected["optim"]["device"] = given["optim"]["device"]
    assert given == expected
    assert list(parsed.objectives) == settings["objectives"]
    assert list(parsed.seeds) == settings["seeds"]
    assert parsed.measure == settings.get("measure", "accuracy")


@pytest.mark.parametrize("name", RECORDED)
def test_a_command_on_several_lines_is_the_same_command(name):
    import shlex

    command = tables.command(tables.load(name).provenance.settings)
    lines = tables.on_lines(command).split("\n")
    assert max(map(len, lines)) <= 86
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split(" ".join(line.removesuffix("\\") for line in lines)) == shlex.split(command)


@pytest.mark.parametrize("name", RELATIONS)
def test_a_table_of_related_classes_shows_the_measure_of_its_verdict(name):
    comparison, text = tables.load(name).comparison, tables.relation_table(name)
    assert f"--measure {comparison.measure}" in " ".join(text.replace("\\\n", " ").split())
    column = MEASURES[comparison.measure].column
    heading, scale = tables.SHOWN[column]
    place = text.splitlines()[0].split(" | ").index(heading)
    for objective, scores in comparison.objectives.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {objective} |"))
        found = scale * sum(getattr(scores, column)) / len(comparison.seeds)
        assert float(row.split(" | ")[place]) == pytest.approx(found, abs=0.051 if scale > 1 else 0.00051)


@pytest.mark.parametrize("cell", [cell for corpus in CORPORA for cell in recorded_cells(corpus)])
def test_a_report_of_a_cell_shows_plain_contrast_and_paired_differences_to_it(cell):
    objectives = tables.load(f"relations/{cell}").comparison.objectives
    accuracy = {name: np.array(scores.accuracy, dtype=float) for name, scores in objectives.items()}
    rows = {
        line.split("`")[1]: line.split(" | ")[1] for line in relation_report(cell).splitlines() if line[:3] == "| `"
    }
    assert rows.keys() == accuracy.keys()
    assert float(rows["contrastive"]) == pytest.approx(100 * accuracy["contrastive"].mean(), abs=0.051)
    for name in rows.keys() - {"contrastive"}:
        difference = accuracy[name] - accuracy["contrastive"]
        assert float(rows[name].partition("<br>")[0].strip("*")) == pytest.approx(100 * difference.mean(), abs=0.051)
        low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
        assert ("**" in rows[name]) == (low > 0 or high < 0)


def ranked_cells():
    cells = [cell for corpus in HIERARCHIES for cell in recorded_cells(corpus)]
    return [cell for cell in cells if "by_probabilities" in records.load(tables.RESULTS / "relations" / f"{cell}.json")]


@pytest.mark.parametrize("column", ["accuracy", "graded_ndcg"])
def test_a_report_of_differences_has_a_column_for_each_cell(column):
    cells = [cell for cell in recorded_cells("trec50") if cell.startswith("trec50-")]
    assert len(cells) > 1
    rows = [line.split(" | ") for line in differences_report(column, cells).splitlines()[2:]]
    for place, cell in enumerate(cells, start=1):
        objectives = tables.load(f"relations/{cell}").comparison.objectives
        assert {row[0].strip("|` ") for row in rows} == objectives.keys()
        means = {name: 100 * np.mean(getattr(scores, column)) for name, scores in objectives.items()}
        for row in rows:
            name, shown = row[0].strip("|` "), row[place].strip(" |").partition("<br>")[0].strip("*")
            expected = means[name] - (0 if name == "contrastive" else means["contrastive"])
            assert float(shown) == pytest.approx(expected, abs=0.051)


def test_a_report_of_uses_has_the_differences_of_every_cell():
    lines = [line.split(" | ") for line in uses_report().splitlines()]
    graded = next(line for line in lines if line[0] == "| `graded`")
    place = lines[0].index("newsgroups: group MAP |")
    for cell, shown in zip(("20ng-10", "20ng-50", "20ng-all"), graded[place].strip(" |").split(" / "), strict=True):
        objectives = tables.load(f"relations/{cell}").comparison.objectives
        scores = [objectives[name].group_mean_average_precision for name in ("graded", "contrastive")]
        means = np.array(scores, dtype=float).mean(axis=1)
        assert float(shown) == pytest.approx(100 * (means[0] - means[1]), abs=0.051)


@pytest.mark.parametrize("cell", ranked_cells())
def test_a_report_of_a_ranking_shows_both_ways(cell):
    stored = json.loads((tables.RESULTS / "relations" / f"{cell}.json").read_text(encoding="utf-8"))
    rows = {line.split("`")[1]: line for line in ranking_report(cell).splitlines() if line[:3] == "| `"}
    # All objectives, or those that were ranked.
    assert list(rows) == [
        name
        for name in stored["comparison"]["objectives"]
        if any(one["objective"] == name for one in stored["by_probabilities"]["runs"])
    ]
    for name, row in rows.items():
        expected = [one["graded_ndcg"] for one in stored["by_probabilities"]["runs"] if one["objective"] == name]
        by_vectors, by_probabilities = map(float, row.split(" | ")[1:3])
        assert by_probabilities == pytest.approx(100 * np.mean(expected), abs=0.051)
        vectors = stored["comparison"]["objectives"][name]["graded_ndcg"]
        assert by_vectors == pytest.approx(100 * np.mean(vectors), abs=0.051)


def test_a_report_of_differences_of_rankings_is_paired_by_seed():
    cells = ranked_cells()
    rows = dict(zip(cells, ranking_differences(cells).splitlines()[2:], strict=True))
    for cell, row in rows.items():
        stored = json.loads((tables.RESULTS / "relations" / f"{cell}.json").read_text(encoding="utf-8"))
        runs = {one["seed"]: one for one in stored["by_probabilities"]["runs"] if one["objective"] == "contrastive"}
        for column, shown in zip(("graded_ndcg", "group_mean_average_precision"), row.split(" | ")[1:], strict=True):
            vectors = stored["comparison"]["objectives"]["graded"][column]
            pairs = zip(stored["comparison"]["seeds"], vectors, strict=True)
            found = 100 * np.array([runs[seed][column] - value for seed, value in pairs])
            gap = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
            numbers = [float(number) for number in re.findall(r"[+-]?\d+\.\d", shown)]
            assert numbers == pytest.approx([found.mean(), found.mean() - gap, found.mean() + gap], abs=0.051)


def test_a_report_of_unseen_classes_shows_their_rows_and_not_those_that_training_saw():
    cells = [cell for cell in UNSEEN if cell in recorded_cells(UNSEEN[cell])]
    assert cells
    rows = {line.split("`")[1]: line.strip("| ").split(" | ") for line in unseen_report(cells).splitlines()[2:]}
    columns = [(cell, column) for column in ("graded_ndcg", "group_mean_average_precision") for cell in cells]
    for place, (cell, column) in enumerate(columns, start=1):
        runs = records.load(tables.RESULTS / "relations" / f"{cell}.json")["unseen"]
        means = {name: 100 * np.mean([run[column] for run in runs if run["objective"] == name]) for name in rows}
        for name, row in rows.items():
            expected = means[name] - (0 if name == "contrastive" else means["contrastive"])
            assert float(row[place].partition("<br>")[0].strip("*")) == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize("has_ties", [False, True])
def test_a_ranking_by_probabilities_is_that_of_scikit_learn(has_ties):
    random = np.random.default_rng(0)
    # More rows than are ranked at a time; the last class has no related row but its own.
    probabilities, labels = random.dirichlet(np.full(5, 0.3), 600), np.sort(random.integers(0, 4, 600))
    labels[0] = 4
    if has_ties:
        # Runs record the most probable classes only: many rows have nothing in common.
        probabilities[np.arange(600)[:, None], probabilities.argsort(axis=1)[:, :3]] = 0
    closeness = np.eye(5)
    closeness[0, 1] = closeness[1, 0] = closeness[2, 3] = closeness[3, 2] = 0.5
    gains = 4**closeness - 1
    others = ~np.eye(600, dtype=bool)
    scores = (probabilities @ gains @ probabilities.T)[others].reshape(600, -1)[1:]
    found = gains[labels[:, None], labels][others].reshape(600, -1)[1:]
    assert ranked_by_expected_gain(probabilities, labels, closeness) == pytest.approx(
        {
            "graded_ndcg": ndcg_score(found, scores, k=50),
            "group_mean_average_precision": label_ranking_average_precision_score(found > 0, scores),
        },
        # scikit-learn takes the mean over all orders of rows of the same gain.
        abs=5e-3 if has_ties else 1e-6,
    )


def test_a_ranking_by_sure_and_right_probabilities_is_that_of_graded_ndcg():
    closeness = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    labels = np.arange(12) % 3
    # Vectors whose cosines are in the order of the gains.
    vectors = np.linalg.cholesky(closeness)[labels]
    found = ranked_by_expected_gain(np.eye(3)[labels], labels, closeness)
    assert found["graded_ndcg"] == pytest.approx(graded_ndcg(vectors, labels, 4**closeness - 1))
    assert found["group_mean_average_precision"] == 1
    # A classifier that knows nothing ranks by chance: here by position.
    chance = ranked_by_expected_gain(np.full((12, 3), 1 / 3), labels, closeness)
    assert chance["graded_ndcg"] < found["graded_ndcg"]


@pytest.mark.slow
def test_several_processes_pass_their_benchmarks_gate(tmp_path):
    path = tmp_path / "record.json"
    sizes = ["--rows", "24", "--dim", "8", "--dtype", "float32", "--repeats", "1"]
    command = [sys.executable, "-m", "benchmarks.distributed", "--device", "cpu", *sizes, "--output", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tables.ROOT, env=environment, check=True, capture_output=True, timeout=120)
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert [(case["processes"], case["rows_each"]) for case in cases] == [(1, 24), (1, 48), (2, 24)]
    assert all(case["step_ms"] > 0 for case in cases)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "flags", "key"),
    [
        ("jobs", ["--jobs", "1", "2", "--seeds", "1"], "cases"),
        ("busy_training", ["--repeats", "1", "--batch-size", "16"], "seconds"),
    ],
)
def test_commands_are_timed_and_recorded(tmp_path, module, flags, key):
    path = tmp_path / "results" / "record.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", "--steps", "1", *flags, "--output", str(path)]
    subprocess.run(command, cwd=tables.ROOT, check=True, capture_output=True, timeout=500)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["command"].startswith(f"python -m benchmarks.{module} --steps 1 ")
    assert record["machine"]
    assert record["commit"]
    if key == "cases":
        assert [case["jobs"] for case in record[key]] == [1, 2]
        assert all(case["seconds"] > 0 for case in record[key])
    else:
        assert list(record[key]) == ["alone", "beside 1 busy"]
        assert all(len(found) == 1 and found[0] > 0 for ways in record[key].values() for found in ways.values())


CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["eager", "blockwise", "auto", "PML SupConLoss", "eager, graded", "blockwise, graded"])
def test_a_method_is_timed_beside_the_floor(name):
    case = measure(METHODS[name], 96, 8, device=CPU, dtype="float32", seconds=0.0)
    assert case["both_ms"] > 0
    assert case["floor_both_ms"] > 0
    assert case["both_ms_20"] <= case["both_ms"] <= case["both_ms_80"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="/proc/stat")
def test_the_loss_is_timed_beside_other_processes(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    monkeypatch.setattr(busy, "WARM_UP_S", 0.01)
    # This machine may be busy itself.
    monkeypatch.setattr(busy, "MAX_OTHERS", float("inf"))
    arguments = ["busy", "--rows", "64", "--dim", "8", "--threads", "2", "--repeats", "1", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    try:
        busy.main()
    finally:
        torch.set_num_threads(threads)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record["conditions"]) == ["alone", "beside busy processes", "beside DataLoader workers"]
    for found in record["conditions"].values():
        assert tuple(found["ways"]) == busy.WAYS
        assert all(times["median_ms"] > 0 for times in found["ways"].values())


def test_the_recorded_loss_beside_a_busy_process_is_as_fast_as_eager_and_one_thread():
    record = json.loads((busy.RESULTS / "cpu-beside-busy.json").read_text(encoding="utf-8"))
    for name, found in record["conditions"].items():
        eager, blockwise, all_threads, one_thread = (found["ways"][way]["median_ms"] for way in busy.WAYS[1:])
        assert blockwise < eager
        assert blockwise < 1.05 * min(one_thread, all_threads), name


def test_graded_targets_are_timed_in_turn_with_none():
    case = measure(METHODS["blockwise, graded"], 96, 8, device=CPU, dtype="float32", seconds=0.0, num_classes=12)
    assert case["compared_both_ms"] > 0
    assert case["gradient_error"] < 1e-6


def test_a_wrong_method_with_graded_targets_is_not_timed():
    wrong = dataclasses.replace(METHODS["eager, graded"], prepare=METHODS["eager"].prepare)
    with pytest.raises(AssertionError, match="eager, graded: relative error of the loss"):
        measure(wrong, 96, 8, device=CPU, dtype="float32", seconds=0.0)


def test_a_wrong_method_is_not_timed():
    def prepare(problem):
        right = METHODS["eager"].prepare(problem)
        return lambda: right() * 1.001

    wrong = dataclasses.replace(METHODS["eager"], prepare=prepare)
    with pytest.raises(AssertionError, match=r"eager: relative error of the loss is 1\.00e-03"):
        measure(wrong, 96, 8, device=CPU, dtype="float32", seconds=0.0)


def test_a_method_that_cannot_run_says_why():
    case = measure(METHODS["triton"], 96, 8, device=CPU, dtype="float32", seconds=0.0)
    assert case["skipped"] in ("needs an NVIDIA GPU", "triton is not installed")


def test_table_and_figure_show_what_was_measured(tmp_path):
    cases = [
        measure(METHODS[name], num_rows, 8, device=CPU, dtype="float32", seconds=0.0)
        for name in ("eager", "triton")
        for num_rows in (32, 64)
    ]
    record = {"cases": cases, "machine": "a machine", "dtype": "float32", "versions": {"torch": torch.__version__}}
    text = table(record)
    assert "| 64 x 8 | eager | " in text
    assert "Left out: triton " in text
    assert draw(record, tmp_path / "figure.png").stat().st_size > 10_000


INTEGRATIONS = sorted(integrations.RESULTS.glob("*.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("as_it_was")
@pytest.mark.filterwarnings("ignore")
def test_all_integrations_train_the_same_where_chance_has_no_part():
    from benchmarks.integrations.__main__ import _fewer
    from benchmarks.integrations.ways import WAYS, Setup
    from labeldist import StaticLDM
    from labeldist.training.data.corpus import Split, load_corpus

    # One batch an epoch, no dropout, fixed distances: three steps that nothing is drawn for.
    corpus = _fewer(load_corpus(["demo"]), 32, 0)
    corpus = dataclasses.replace(corpus, test=Split(corpus.test.texts[:20], corpus.test.labels[:20]))
    setup = Setup(corpus, 0, matrix=lambda num_classes: StaticLDM.uniform(3.0, num_classes=num_classes), dropout=0.0)
    scores = {name: way(setup).scores for name, way in WAYS.items()}
    for found in scores.values():
        torch.testing.assert_close(found, scores["transformers"], rtol=1e-3, atol=1e-5)


def test_differences_of_integrations_are_paired_by_seed():
    def record(*accuracies: tuple[float, float]) -> dict:
        runs = [
            {"way": way, "seed": seed, "accuracy": accuracy}
            for seed, pair in enumerate(accuracies)
            for way, accuracy in zip("ab", pair, strict=True)
        ]
        return {"runs": runs}

    # Differences of 0, 1 and 2 points: mean 1, standard deviation 1, over the root of 3.
    text = integrations.table(record((0.90, 0.90), (0.91, 0.90), (0.92, 0.90)))
    assert "| a | 90.0 | 91.0 | 92.0 | 91.0 ± 1.0 |" in text
    assert "| a − b | +1.0 | 0.58 |" in text
    assert "All differences lie within the noise of seeds" in text
    apart = integrations.table(record((0.95, 0.90), (0.951, 0.90), (0.952, 0.90)))
    assert "Taken alone, more than seeds explain (3 seeds, paired): a − b. Corrected for several" in apart
    assert "looks at once (Holm): a − b." in apart
    # A seed that one of them lacks is no pair.
    unfinished = record((0.90, 0.90), (0.91, 0.90))
    unfinished["runs"].pop()
    assert "| a | 90.0 | 90.0 |" in integrations.table(unfinished)


@pytest.mark.parametrize("path", INTEGRATIONS, ids=[path.stem for path in INTEGRATIONS])
def test_a_record_of_the_integrations_is_whole(path):
    record = integrations.load(path)
    assert {"torch", "transformers", "lightning", "sentence-transformers", "python"} <= record["versions"].keys()
    assert record["machine"]
    assert record["commit"]
    ways = integrations.accuracies(record)
    assert set(ways) == {"transformers", "lightning", "sentence-transformers"}
    assert all(len(scores) >= 3 for scores in ways.values())


def test_the_graded_table_has_ratios_to_the_same_backend():
    case = {"method": "triton, graded", "task": "graded", "num_rows": 100, "dim": 8, "both_ms": 3.0}
    cases = [
        {"method": "triton", "task": "same", "num_rows": 100, "dim": 8, "both_ms": 2.0, "graph_ms": 1.0},
        {**case, "compared_both_ms": 2.5, "graph_ms": 1.1},
    ]
    lines = graded_table({"num_classes": 20, "cases": cases}).splitlines()
    assert lines[2] == "| 20 | 100 x 8 | 2.50 | 3.00 | 1.20 | 1.10 |"
    assert len(lines) == 3
