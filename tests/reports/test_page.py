"""The page as text: whole, safe, small, and without any reference to elsewhere."""

import html
import json
import re

import numpy as np
import pytest

from labeldist.reports.report import Report, report

HOSTILE = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked=2">',
    "</script><script>window.hacked = 3</script>",
    "{{ 7 * 7 }} {% raw %}",
    "\u202eright to left\u2066",
    "x" * 10_000,
    "two\nlines\x1b[31m",
    "provider's & <b>bold</b>",
]


def hostile_report() -> Report:
    labels = [HOSTILE[i % len(HOSTILE)] for i in range(64)]
    predicted = [HOSTILE[(i + (i % 3 == 0)) % len(HOSTILE)] for i in range(64)]
    texts = [f"{HOSTILE[(i * 3) % len(HOSTILE)]} {i}" for i in range(64)]
    points = np.random.default_rng(0).normal(size=(64, 2))
    return report(
        labels,
        predicted,
        texts=texts,
        probabilities=np.linspace(0.5, 1, 64),
        points=points,
        train_texts=texts[:10],
        train_labels=labels[1:11],
        title="<script>window.hacked = 4</script>",
        settings={"<b>key</b>": "<script>window.hacked = 5</script>"},
    )


def data_of(page: str):
    found = re.search(r'<script id="report-data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def many(num_classes: int, num_rows: int, *, text: str = "where is my parcel {}") -> Report:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, num_rows)
    predicted = np.where(rng.random(num_rows) < 0.3, (labels + 1) % num_classes, labels)
    return report(
        labels,
        predicted,
        texts=[text.format(i) for i in range(num_rows)],
        class_names=[f"class {c}" for c in range(num_classes)],
        probabilities=rng.random(num_rows),
    )


def test_no_text_or_name_becomes_code():
    page = hostile_report().html
    tags = re.findall(r"<(script|img|iframe|object|link|base|form)\b[^>]*>", page)
    # Its own two scripts and the empty icon.
    assert sorted(tags) == ["link", "script", "script"]
    assert "window.hacked" in page
    assert not re.search(r"<[^>]*\son\w+=", page)
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "49 {% raw %}" not in page
    assert data_of(page)["classes"]


def test_the_page_refers_to_nothing_else():
    page = hostile_report().html
    assert not re.search(r"(src|href)=[\"'](?!#|data:,)", page)
    found = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert found is not None
    policy = html.unescape(found[1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "@import" not in page
    assert "url(" not in page


@pytest.mark.parametrize(("num_classes", "num_rows"), [(2, 10), (200, 20_000)])
def test_the_page_stays_small_and_counts_all_rows(num_classes, num_rows):
    found = many(num_classes, num_rows)
    data = data_of(found.html)
    assert len(found.html.encode()) < 5_000_000
    assert sum(data["matrix"]["cells"][2]) == num_rows
    assert len(data["rows"]) <= 3_000
    if num_rows == 20_000:
        assert re.search(r"leaves out the texts of [\d,]+ mistakes", found.html)


def test_long_texts_are_cut_until_the_page_is_small():
    found = many(20, 6_000, text="很长的文本" * 400 + "{}")
    assert len(found.html.encode()) < 5_000_000
    assert "…" in data_of(found.html)["rows"][0][0]


def test_the_file_of_pairs_is_one_that_train_reads(tmp_path):
    from labeldist.training.matrix_file import read_matrix_file

    found = report(["a", "b", "c", "a"], ["b", "b", "c", "a"])
    path = tmp_path / "pairs.json"
    path.write_text(data_of(found.html)["matrixFile"])
    assert read_matrix_file(path, ["a", "b", "c"]).distance("a", "b") == 5


def test_a_report_without_texts_probabilities_or_mistakes():
    page = report(["a", "b"], ["a", "b"]).html
    assert "mistakes among 2 classes" in page
    for part in ("Pairs to look at first", "Labels to check", "Confidence", "Map of the embeddings"):
        assert f">{part}<" not in page


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(tmp_path):
    found = hostile_report()
    shown = found._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "allow-same-origin" not in shown
    assert shown.count("<") == 2
    path = found.save(tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == found.html
    assert repr(found).startswith("<Report: accuracy ")


def test_a_baseline_and_what_does_not_go_together():
    found = report(["a", "b"], ["a", "a"], baseline=["b", "b"])
    assert data_of(found.html)["matrix"]["baseline"] is not None
    assert 'value="difference"' in found.html
    with pytest.raises(ValueError, match="train_texts and train_labels must be given together"):
        report(["a", "b"], ["a", "a"], texts=["x", "y"], train_texts=["x"])
    with pytest.raises(ValueError, match="texts must be given with train_texts"):
        report(["a", "b"], ["a", "a"], train_texts=["x"], train_labels=["a"])
