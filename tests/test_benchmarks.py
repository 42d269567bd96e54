"""What the documentation shows is what was recorded."""

import json

import pytest

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
