"""The paper's Table I on the built-in grammar."""

import json
import sys

from benchmarks.paper import example
from labeldist.demo import CLASS_NAMES


def test_the_sentences_are_asked_about_and_never_trained_on():
    train, test = example.rows()
    texts = {"".join(filter(str.isalnum, message.text)) for message in [*train, *test]}
    assert {message.language for message in [*train, *test]} == {"zh"}
    assert not texts & set(example.SENTENCES)
    assert {label for labels in example.SENTENCES.values() for label in labels} <= set(CLASS_NAMES)


def test_answers_are_counted_by_objective():
    runs = [
        {"objective": "ce", "seed": 0, "accuracy": 0.5, "predicted": ["delivery_praise", "refund_praise"]},
        {"objective": "ce", "seed": 1, "accuracy": 0.7, "predicted": ["delivery_praise", "delivery_praise"]},
    ]
    text = example.table({"sentences": list(example.SENTENCES)[:2], "num_test_rows": 9, "runs": runs})
    assert "| 发货非常快 | praise | praise | 2 of 2 right |" in text
    assert "| 发货不慢 | praise | complaint | 1 of 2 right, 1 × refund_praise |" in text
    assert "| all 9 Chinese test rows | | | 60.0 % |" in text


def test_a_record_is_written_and_its_table_read(tmp_path, monkeypatch):
    path = tmp_path / "new" / "example.json"
    monkeypatch.setattr(sys, "argv", ["example", "--seeds", "0", "--output", str(path)])
    monkeypatch.setattr(example, "OBJECTIVES", ("ce",))
    monkeypatch.setattr(example, "RESULT", path)
    monkeypatch.setattr(example, "SETTINGS", {**example.SETTINGS, "epochs": 1, "embedding_dim": 8})
    example.main()
    record = json.loads(path.read_text())
    assert [run["objective"] for run in record["runs"]] == ["ce"]
    assert set(record["runs"][0]["predicted"]) <= set(CLASS_NAMES)
    assert "2,028 training rows, 1 seed." in example.recorded()
