"""What stands in a run folder is read strictly, or refused in one sentence."""

import json
import shutil
import stat
from pathlib import Path

import pytest

from labeldist.cli import main
from labeldist.training.errors import UserError
from labeldist.training.inference import Predictor
from labeldist.training.run import RunOptions, resume_run
from labeldist.training.run_folder import FORMAT_VERSION, RunConfig, RunFolder
from runs import contents, read

pytestmark = pytest.mark.usefixtures("as_it_was")


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy of a run, as if it had been interrupted before its results."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "metrics.json").unlink()
    return folder


def edit(run: Path, *path: str, value) -> None:
    config = read(run / "config.json")
    place = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (run / "config.json").write_text(json.dumps(config))


def test_a_config_comes_back_as_it_was(finished_run):
    stored = read(finished_run / "config.json")
    assert stored["format_version"] == FORMAT_VERSION
    assert RunConfig.from_json(stored).to_json() == stored


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["objective"], "foo", "objective must be one of 'ce', .*, got 'foo'"),
        (["seed"], "0", "seed must be a whole number, got '0'"),
        (["seed"], -1, "--seed must be a whole number"),
        (["optim", "epochs"], 0, "--epochs must be at least 1, got 0"),
        (["optim", "epochs"], 2.5, "epochs must be a whole number, got 2.5"),
        (["loss", "temperature"], None, "temperature must be a number, got null"),
        (["loss", "weighting"], "linear", "weighting must be one of 'scale', 'log', got 'linear'"),
        (["matrix", "symmetric"], "yes", "symmetric must be true or false"),
        (["data", "data"], "demo", "data must be a list"),
        (["class_names"], ["only"], "at least two classes, got 1"),
        (["class_names"], [1, 2], r"class_names\[0\] must be text, got 1"),
        (["num_processes"], True, "num_processes must be a whole number, got true"),
        (["format_version"], FORMAT_VERSION + 1, f"its format_version is {FORMAT_VERSION + 1}"),
        (["model"], [], "model must be an object"),
    ],
    ids=str,
)
def test_an_edited_config_is_refused_and_nothing_is_written(run, path, value, message):
    edit(run, *path, value=value)
    before = contents(run)
    with pytest.raises(UserError, match=rf"config\.json was not written by this version of labeldist: .*{message}"):
        resume_run(run, RunOptions())
    assert contents(run) == before


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "{}", "[" * 100_000])
def test_json_of_another_shape_is_refused(run, content):
    (run / "config.json").write_text(content)
    for use in (lambda: resume_run(run, RunOptions()), lambda: Predictor.from_run(run)):
        with pytest.raises(UserError, match=r"config\.json"):
            use()


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("metrics.json", "[]", "must hold the metrics of a run as a JSON object"),
        ("metrics.json", '{"test": 3, "ldm": "x"}', "must hold the metrics of a run with its format"),
        ("metrics.json", '{"format": 1, "test": 3}', "does not hold the metrics of a run as labeldist writes it"),
        ("history.json", "{}", "cannot be read"),
        ("history.json", '{"log": {}, "seconds": 1}', "cannot be read"),
    ],
)
def test_damaged_results_are_one_sentence(finished_run, tmp_path, capsys, name, content, part):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / name).write_text(content)
    assert main(["train", "--resume", str(folder)]) == 2
    assert f"{name} {part}" in capsys.readouterr().err


@pytest.mark.parametrize("matrix", [[[1.0, 2.0]], [[1.0, "2"], [1.0, 1.0]], [1.0, 2.0], [[True]], 3])
def test_a_damaged_matrix_is_one_sentence(tmp_path, matrix):
    (tmp_path / "ldm.json").write_text(json.dumps({"matrix": matrix}))
    with pytest.raises(UserError, match=r"ldm\.json cannot be read"):
        RunFolder(tmp_path).read_matrix()


def test_every_file_of_a_run_has_the_mode_of_the_others(finished_run):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in finished_run.rglob("*") if path.is_file()}
    assert modes == {stat.S_IMODE((finished_run / "config.json").stat().st_mode)}


def test_checkpoints_that_a_kill_left_in_a_finished_run_go(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "checkpoints" / "checkpoint-6").mkdir(parents=True)
    resume_run(folder, RunOptions())
    assert contents(folder) == contents(finished_run)
    assert not (folder / "checkpoints").exists()


def test_paths_are_stored_whole_so_that_a_run_goes_on_from_anywhere(tickets, tmp_path, monkeypatch, capsys):
    from runs import QUICK

    (tmp_path / "here").mkdir()
    shutil.copytree(tickets, tmp_path / "here" / "tickets")
    monkeypatch.chdir(tmp_path / "here")
    assert main(["train", "--data", "tickets", *QUICK, "--objective", "ce", "-o", "run"]) == 0
    before = Path("run/metrics.json").read_bytes()
    Path("run/metrics.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "here/run"]) == 0, capsys.readouterr().err
    assert Path("here/run/metrics.json").read_bytes() == before
