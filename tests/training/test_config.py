import dataclasses
import json
from pathlib import Path

import pytest

from labeldist.cli import main
from labeldist.training.config import (
    DataSettings,
    LossSettings,
    MatrixSettings,
    ModelSettings,
    OptimSettings,
    RunSettings,
    check_settings,
)
from labeldist.training.errors import UserError
from labeldist.training.record_json import from_json, to_json

OTHER = RunSettings(
    data=DataSettings(("a.csv", "b.csv"), text_column="t", shots=5),
    model=ModelSettings(encoder="minilm", projection="none"),
    loss=LossSettings(temperature=0.1, weighting="log"),
    matrix=MatrixSettings(confusable=("a,b", "c,d"), matrix_file=Path("ldm.json"), symmetric=False),
    optim=OptimSettings(epochs=3, learning_rate=1e-4, report_to=("tensorboard", "wandb")),
)


def test_the_papers_settings_are_the_default():
    settings = RunSettings()
    assert settings.loss == LossSettings(ce_weight=0.5, temperature=1.0, weighting="scale")
    assert (settings.matrix.max_distance, settings.matrix.warmup_fraction) == (5.0, 0.2)
    optim = settings.optim
    assert (optim.epochs, optim.patience, settings.batch_size, optim.weight_decay) == (50, 10, 128, 0.1)
    assert (settings.model.max_length, settings.model.projection, settings.model.dropout) == (128, "mlp", 0.5)
    check_settings(settings)


def test_the_learning_rate_follows_the_encoder_unless_given():
    assert RunSettings().learning_rate == 1e-3
    assert RunSettings(model=ModelSettings(encoder="minilm")).learning_rate == 2e-5
    few = OptimSettings(recipe="few-labels")
    assert RunSettings(model=ModelSettings(encoder="minilm"), optim=few).learning_rate == 3e-5
    assert RunSettings(optim=few).learning_rate == 1e-3
    assert RunSettings(optim=OptimSettings(learning_rate=0.5)).learning_rate == 0.5


@pytest.mark.parametrize(("epochs", "given", "expected"), [(50, None, 10), (4, None, 3), (50, 2, 2)])
def test_short_runs_take_a_fifth_of_the_epochs_but_three_at_least(epochs, given, expected):
    settings = RunSettings(optim=OptimSettings(epochs=epochs), matrix=MatrixSettings(confusion_epochs=given))
    assert settings.confusion_epochs == expected


@pytest.mark.parametrize("settings", [RunSettings(), OTHER])
def test_settings_come_back_from_json(settings):
    assert from_json(RunSettings, json.loads(json.dumps(to_json(settings)))) == settings


@pytest.mark.parametrize(
    ("spoil", "entry"),
    [
        (lambda stored: stored.pop("optim"), "optim"),
        (lambda stored: stored["matrix"].pop("confusable"), "matrix.confusable"),
        (lambda stored: stored["model"].update(colour="red"), "model.colour"),
        (lambda stored: stored.update(data=None), "data"),
    ],
)
def test_settings_of_another_version_are_told(spoil, entry):
    stored = to_json(RunSettings())
    spoil(stored)
    with pytest.raises(ValueError, match=f"^{entry}"):
        from_json(RunSettings, stored)


def test_every_setting_has_help_and_one_name(capsys):
    sections = (DataSettings, ModelSettings, LossSettings, MatrixSettings, OptimSettings)
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names))
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    helptext = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in helptext for name in names)


@pytest.mark.parametrize(
    "settings",
    [
        OTHER,
        RunSettings(loss=LossSettings(ce_weight=0.0)),
        RunSettings(loss=LossSettings(ce_weight=1.0)),
        RunSettings(matrix=MatrixSettings(warmup_fraction=1.0)),
        RunSettings(model=ModelSettings(dropout=0.0)),
        RunSettings(optim=OptimSettings(weight_decay=0.0)),
    ],
)
def test_the_ends_of_ranges_are_allowed(settings):
    settings = dataclasses.replace(settings, matrix=dataclasses.replace(settings.matrix, matrix_file=None))
    check_settings(settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_numbers_that_are_none_are_refused(value):
    for settings, name in (
        (RunSettings(loss=LossSettings(temperature=value)), "--temperature"),
        (RunSettings(matrix=MatrixSettings(max_distance=value)), "--max-distance"),
        (RunSettings(optim=OptimSettings(learning_rate=value)), "--learning-rate"),
    ):
        with pytest.raises(UserError, match=f"{name} must be a number above 0, got {value}"):
            check_settings(settings)
