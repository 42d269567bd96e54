"""What the documentation shows is what was recorded."""

import dataclasses
import json

import pytest
import torch

from benchmarks.loss.figures import draw, table
from benchmarks.loss.measure import measure
from benchmarks.loss.methods import METHODS
from benchmarks.paper import tables

RECORDED = sorted(path.stem for path in tables.RESULTS.glob("*.json"))


def test_the_readme_shows_the_recorded_results():
    assert tables.readme_block() in (tables.ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_result_names_machine_versions_and_commit(name):
    result = tables.load(name)
    assert result["machine"]
    assert result["commit"]
    assert {"torch", "transformers", "python"} <= result["versions"].keys()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_command_gives_the_recorded_settings(name, monkeypatch):
    import shlex
    from dataclasses import fields

    import tyro

    from labeldist.cli import Compare
    from labeldist.training.config import RunSettings, to_json

    result = tables.load(name)
    words = shlex.split(tables.command(result))
    assert words[:2] == ["labeldist", "compare"]
    parsed = tyro.cli(Compare, args=words[2:], config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone))
    given = {section.name: to_json(getattr(parsed, section.name)) for section in fields(RunSettings)}
    expected = json.loads(json.dumps({key: result["settings"][key] for key in given}))
    expected["optim"]["device"] = given["optim"]["device"]
    assert given == expected
    assert list(parsed.objectives) == result["settings"]["objectives"]
    assert list(parsed.seeds) == result["settings"]["seeds"]


CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["eager", "blockwise", "auto", "PML SupConLoss"])
def test_a_method_is_timed_beside_the_floor(name):
    case = measure(METHODS[name], 96, 8, device=CPU, dtype="float32", seconds=0.0)
    assert case["both_ms"] > 0
    assert case["floor_both_ms"] > 0
    assert case["both_ms_20"] <= case["both_ms"] <= case["both_ms_80"]


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
