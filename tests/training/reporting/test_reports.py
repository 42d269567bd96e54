"""Reports by the command line and from Python, of real runs."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

import labeldist
from labeldist.cli import main
from labeldist.reports.card import in_markdown
from labeldist.training.errors import UserError
from labeldist.training.output.progress import Progress
from labeldist.training.reporting.comparisons import comparison_report
from labeldist.training.reporting.runs import run_report
from labeldist.training.reporting.saving import report_path
from labeldist.training.reporting.sources import folder_report
from labeldist.training.run_folder import RunFolder
from runs import QUICK, settings_of, train

OBJECTIVES = ["ce", "static"]


@pytest.fixture(scope="module")
def finished_comparison(tickets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("comparisons") / "both"
    flags = [*QUICK, "--objectives", *OBJECTIVES, "--seeds", "0", "1"]
    assert main(["compare", "--data", str(tickets), *flags, "-o", str(folder)]) == 0
    return folder


def test_a_run_leaves_its_report_and_says_so_last(capsys, tickets, tmp_path):
    folder = tmp_path / "run"
    assert main(["train", "--data", str(tickets), *QUICK, "--objective", "ce", "-o", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {folder / 'report.html'}"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page == run_report(folder).of_source(".").html
    found = run_report(folder).findings
    metrics = RunFolder(folder).read_metrics().test
    assert found.accuracy.value == metrics.accuracy
    assert found.macro_f1 == pytest.approx(metrics.macro_f1)
    assert found.predictions.points is not None
    assert found.predictions.probabilities is not None
    assert all(found.predictions.nearest or [None])
    assert found.confidence is not None


def test_every_long_step_says_what_it_does(tickets, finished_run, finished_comparison, capsys, tmp_path):
    told = []
    run = tmp_path / "run"
    train(run, settings_of(tickets), "static", report=True, progress=Progress(tell=told.append))
    after = [line for line in told if line.endswith(" ...")]
    assert after == [
        "drawing the map of the embeddings ...", "finding the most similar training texts ...",
        "drawing confusion.png ...", "drawing embeddings.png ...", "drawing ldm.png ...", "drawing curves.png ...",
        "writing report.html ...",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # On a terminal, when nothing is left to train.
        patch.setattr(sys.stderr, "isatty", lambda: True)
        flags = [*QUICK, "--objectives", *OBJECTIVES, "--seeds", "0", "1"]
        assert main(["compare", "--data", str(tickets), *flags, "-o", str(finished_comparison)]) == 0
        compared = capsys.readouterr().err
        assert main(["evaluate", str(finished_run), "--data", str(tickets), "-o", str(tmp_path / "evaluation")]) == 0
        evaluated = capsys.readouterr().err
    for name in ("comparison.png", "confusion-baseline.png", "confusion-best.png"):
        assert f"drawing {name} ..." in compared
    assert "writing report.html ..." in compared
    for step in ("drawing the map of the embeddings", "drawing confusion.png", "writing report.html"):
        assert f"{step} ..." in evaluated


def test_the_card_is_one_that_the_hub_reads(finished_run):
    card: Any = ModelCard.load(finished_run / "README.md")
    metrics = RunFolder(finished_run).read_metrics().test
    [accuracy, f1] = card.data.eval_results
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", round(metrics.accuracy, 4))
    assert (f1.metric_name, f1.metric_value) == ("macro-F1", round(metrics.macro_f1, 4))
    assert card.data.library_name == "labeldist"
    assert card.data.pipeline_tag == "text-classification"
    for scores in metrics.per_class:
        assert f"| {in_markdown(scores.name)} |" in card.text
    texts = [json.loads(line)["text"] for line in (finished_run / "predictions.jsonl").read_text().splitlines()]
    assert not any(text in card.content for text in texts)


def test_the_command_of_a_report_repeats_the_run(finished_run, tmp_path):
    page = run_report(finished_run).html
    words = shlex.split(page.split("The command that repeats this:</p>")[1].split("<code>")[1].split("</code>")[0])
    again = tmp_path / "again"
    assert main([*words[1:], "-o", str(again)]) == 0
    first, second = (RunFolder(folder).read_metrics() for folder in (finished_run, again))
    assert first == second


def test_report_makes_the_page_again_wherever_the_folder_stands(capsys, finished_run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished_run, moved)
    (moved / "report.html").unlink(missing_ok=True)
    assert main(["report", str(moved)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accuracy ")
    assert out.splitlines()[-1] == f"Report: {moved / 'report.html'}"
    assert main(["report", str(moved)]) == 0


def test_a_page_is_replaced_by_one_of_the_same_source_only(capsys, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text("label,prediction\nask,tell\ntell,tell\n")
    Path("p.jsonl").write_text('{"label": "ask", "prediction": "ask"}\n{"label": "tell", "prediction": "ask"}\n')
    assert main(["report", "p.csv"]) == 0
    first = Path("p.report.html").read_text(encoding="utf-8")
    assert main(["report", "p.jsonl"]) == 2
    sentence = "p.report.html exists already and is the report of 'p.csv', not of 'p.jsonl'. Choose another --output."
    assert capsys.readouterr().err == f"labeldist: error: {sentence}\n"
    assert Path("p.report.html").read_text(encoding="utf-8") == first
    assert main(["report", "p.jsonl", "-o", "other.html"]) == 0
    # The same source by another path, under another title, and after both moved.
    assert main(["report", str(tmp_path / "p.csv"), "--title", "Again"]) == 0
    assert "<title>Again</title>" in Path("p.report.html").read_text(encoding="utf-8")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("p.csv", "p.report.html"):
        shutil.move(name, moved)
    assert main(["report", "moved/p.csv"]) == 0
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert main(["report", "run"]) == 0
    assert main(["report", "run"]) == 0
    assert main(["report", "moved/p.csv", "-o", "run/report.html"]) == 2
    assert "run/report.html exists already and is a report of its folder, not of '../moved/p.csv'." in (
        capsys.readouterr().err
    )
    labeldist.report(["a", "b"], ["a", "a"]).save("mine.html")
    assert main(["report", "moved/p.csv", "-o", "mine.html"]) == 2
    assert "mine.html exists already and is a report that names no source" in capsys.readouterr().err


def test_a_folder_receives_the_page_under_its_usual_name(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pages").mkdir()
    Path("p.csv").write_text("label,prediction\nask,tell\ntell,tell\n")
    assert main(["report", "p.csv", "-o", "pages"]) == 0
    assert main(["report", str(finished_run), "-o", "pages/"]) == 0
    assert sorted(path.name for path in Path("pages").iterdir()) == ["p.report.html", "report.html"]


def test_a_source_of_any_name_is_known_again(tmp_path):
    path = tmp_path / "\"><script>x & 'q'\n\x1b.csv"
    path.write_text("label,prediction\nask,tell\ntell,tell\n")
    assert main(["report", str(path)]) == 0
    assert main(["report", str(path)]) == 0
    page = report_path(path).read_text(encoding="utf-8")
    assert "<script>x" not in page
    assert "\x1b" not in page


def test_an_evaluation_leaves_a_folder(capsys, finished_run, tickets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("evaluate-adaptive-tickets", "evaluate-adaptive-tickets-2"):
        assert main(["evaluate", str(finished_run), "--data", str(tickets)]) == 0
        folder = Path("runs", name)
        assert capsys.readouterr().out.splitlines()[-1] == f"Report: {folder / 'report.html'}"
        expected = {
            "confusion.png", "embeddings.png", "evaluation.json", "map.json", "metrics.json", "predictions.jsonl",
            "report.html",
        }  # fmt: skip
        assert {path.name for path in folder.iterdir()} == expected
        assert json.loads((folder / "metrics.json").read_text())["num_rows"] == 30
    assert folder_report(folder).findings.accuracy.total == 30
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_a_comparison_leaves_its_report(capsys, finished_comparison):
    page = (finished_comparison / "report.html").read_text(encoding="utf-8")
    assert page == comparison_report(finished_comparison).of_source(".").html
    found = comparison_report(finished_comparison)
    assert found.findings.predictions.num_runs == 2
    assert found.findings.accuracy.total == 60
    assert found.findings.matrix.baseline is not None
    # The runs of the first seed have a map, for the page; those of the others need none.
    maps = {folder.name: (folder / "map.json").exists() for folder in (finished_comparison / "runs").iterdir()}
    assert maps == {"ce-seed0": True, "static-seed0": True, "ce-seed1": False, "static-seed1": False}
    assert found.findings.baseline is not None
    for side in (found.findings.predictions, found.findings.baseline):
        assert side.points is not None
        assert np.isfinite(side.points).all(axis=1).tolist() == [True] * 30 + [False] * 30
    assert "Maps of the embeddings" in page
    assert "30 rows, seed 0" in page
    assert "Label distance" in page
    assert main(["report", str(finished_comparison)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {finished_comparison / 'report.html'}"


def test_a_table_of_predictions_needs_no_training(capsys, tmp_path):
    path = tmp_path / "mail.csv"
    path.write_text("text,label,prediction\nis it?,ask,tell\nit is,tell,tell\nis  IT?,tell,tell\n")
    train = tmp_path / "train.csv"
    train.write_text("text,label\nis it so?,tell\nit is,tell\n")
    costs = tmp_path / "costs.json"
    costs.write_text('{"ask": {"tell": 3}, "tell": {"ask": 1}}')
    flags = ["--train", str(train), "--costs", str(costs), "--title", "Mail"]
    assert main(["report", str(path), *flags]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {tmp_path / 'mail.report.html'}"
    page = (tmp_path / "mail.report.html").read_text(encoding="utf-8")
    for part in ("<title>Mail</title>", "seen in training", "elsewhere", "Costs and relations", "labeldist compare"):
        assert part in page
    assert main(["report", str(path), "-o", str(tmp_path / "other.html")]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.csv"], "nothing.csv"),
        (["."], "holds no run, evaluation or comparison"),
        (["mail.csv", "-o", "notes.txt"], "notes.txt exists already and is no report"),
        (["mail.csv", "-o", "page"], "--output must end in .html or name a folder, got page."),
        (["mail.csv", "--train", "train.csv"], "has no column of texts. Name it with --text-column"),
        (["mail.csv", "--order", "ask"], "'tell' is missing"),
        (["RUN", "--title", "x"], "only --output goes with it"),
        (["RUN", "--label-column", "x"], "only --output goes with it"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(capsys, tmp_path, monkeypatch, finished_run, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("mail.csv").write_text("label,prediction\nask,tell\ntell,tell\n")
    Path("train.csv").write_text("text,label\nis it so?,tell\n")
    Path("notes.txt").write_text("mine")
    assert main(["report", *[str(finished_run) if one == "RUN" else one for one in arguments]]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err
    assert Path("notes.txt").read_text() == "mine"


def test_a_table_is_read_without_torch_and_transformers(tmp_path):
    (tmp_path / "mail.csv").write_text("label,prediction\nask,tell\ntell,tell\n")
    code = (
        "import sys\nfrom labeldist.cli import main\n"
        "code = main(['report', 'mail.csv'])\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stderr.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("map.json", "[]", "map.json is no map of these predictions"),
        ("map.json", '{"rows": [0], "points": [[1]], "method": "x"}', "map.json is no map"),
        ("map.json", '{"rows": [99], "points": [[1, 2]], "method": "x"}', "map.json is no map"),
        ("nearest.jsonl", "{}", "nearest.jsonl, line 1: it must be an object with text, label and is_same"),
        ("nearest.jsonl", '{"text": "a", "label": "b", "is_same": true}', "must have 30 lines"),
        ("predictions.jsonl", '{"text": "a"}', "no column is known to hold the label"),
    ],
)
def test_a_broken_file_of_a_run_is_named(finished_run, tmp_path, name, text, sentence):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / name).write_text(text + "\n")
    with pytest.raises(UserError, match=sentence):
        folder_report(folder)


def test_python_shows_the_same_report(finished_run, finished_comparison):
    assert labeldist.load(finished_run).report().html == run_report(finished_run).html
    found = labeldist.report(["a", "b"], ["a", "a"], texts=["x", "y"])
    assert found.findings.accuracy.num == 1


def test_a_comparison_without_maps_says_why(finished_comparison, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(finished_comparison, folder)
    (folder / "runs" / "ce-seed0" / "map.json").unlink()
    page = comparison_report(folder).html
    assert "There are no maps: no seed has a run of ce and one of static with a map of its own (map.json)." in page
    assert '<a href="#map">' in page
    assert "map-canvas" not in page.split("<script")[0]
    for row in json.loads(page.split('type="application/json">')[1].split("</script>")[0])["rows"]:
        assert row[5] is None


def test_runs_of_other_rows_are_no_pair(finished_comparison, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(finished_comparison, folder)
    path = folder / "runs" / "ce-seed0" / "predictions.jsonl"
    path.write_text("".join(reversed(path.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")
    with pytest.raises(UserError, match="the runs of static and ce do not fit: baseline must have the rows"):
        comparison_report(folder)


def test_a_comparison_that_is_not_finished_has_no_report(finished_comparison, tmp_path):
    shutil.copy(finished_comparison / "compare.json", tmp_path)
    with pytest.raises(UserError, match="is not finished: give its command again"):
        folder_report(tmp_path)
