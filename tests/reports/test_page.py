"""The page as text: whole, safe, small, and without any reference to elsewhere."""

import html
import json
import re
from html.parser import HTMLParser

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


CAN_RUN = ("script", "img", "iframe", "object", "embed", "link", "base", "form", "video", "audio")


class Tags(HTMLParser):
    """Every tag and every name of an attribute of a page."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


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
    found = Tags()
    found.feed(page)
    # Its own two scripts and the empty icon.
    assert [tag for tag in found.tags if tag in CAN_RUN] == ["link", "script", "script"]
    assert not [name for name in found.attributes if name.startswith("on") or name in ("style", "srcdoc", "action")]
    assert "window.hacked" in page
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


def test_digits_as_class_names_are_not_read_as_indices():
    stars = ["1", "2", "3", "4", "5"]
    found = report(stars, probabilities=np.eye(5), class_names=stars)
    assert found.findings.accuracy.value == 1
    labels, guesses = [1, 2, 3, 1], [1, 2, 2, 1]
    found = report(labels, guesses, baseline=[1, 2, 3, 3], texts=list("wxyz"), train_texts=["x"], train_labels=[2])
    matrix = found.findings.matrix
    by_class = np.argsort(matrix.classes)
    assert matrix.counts[np.ix_(by_class, by_class)].tolist() == [[2, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert matrix.baseline is not None
    assert matrix.baseline[np.ix_(by_class, by_class)].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert found.findings.num_seen == 1
    with pytest.raises(ValueError, match="labels holds integers that can be names or indices, such as 1"):
        report([1, 2], [1, 2], class_names=["1", "2", "3"])
    assert report([0, 1], [0, 0], class_names=["x", "y"]).findings.accuracy.num == 1


@pytest.mark.parametrize(
    ("labels", "guesses", "options", "sentence"),
    [
        ([0, 1] * 3, ["ask", "tell"] * 3, {}, "labels and predicted have no class in common: '0', '1' and 'ask'"),
        (["a", "b"], ["a", "a"], {"baseline": ["a", "x"]}, "baseline must be class names, got 'x'"),
        (["a", "b"], ["a", "a"], {"baseline": ["a"]}, "baseline must have 2 rows, one for each label, got 1"),
    ],
)
def test_a_column_that_does_not_fit_is_named(labels, guesses, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        report(labels, guesses, **options)


def test_booleans_and_numbers_are_the_same_classes():
    assert report([1, 0], [True, False]).findings.accuracy.value == 1
    assert report([True, False], [1, 0]).findings.accuracy.value == 1


def test_training_texts_of_a_shuffled_frame_are_taken_in_their_order():
    series = pytest.importorskip("pandas").Series(["t zero", "t one", "t two"], index=[2, 0, 1])
    found = report(["a", "b"], ["b", "b"], texts=["t zero", "t two"], train_texts=series, train_labels=["a", "b", "b"])
    assert [one.text for one in found.findings.predictions.nearest or () if one] == ["t zero", "t two"]


def test_a_page_of_texts_full_of_html_stays_small():
    found = many(20, 9_000, text="<&>'" * 200 + "{}")
    assert len(found.html.encode()) < 5_000_000
    assert data_of(found.html)["rows"]


def test_a_page_that_is_too_large_for_all_rows_keeps_a_part_of_its_map():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 150, 6_000)
    found = report(
        labels,
        (labels + rng.integers(1, 150, 6_000) * (rng.random(6_000) < 0.7)) % 150,
        texts=["<&>'" * 200 + str(i) for i in range(6_000)],
        class_names=[f"{c} {'<&>' * 40}" for c in range(150)],
        points=rng.normal(size=(6_000, 2)),
        train_texts=["<&>'" * 150 + str(i) for i in range(5)],
        train_labels=[0] * 5,
    )
    placed = sum(row[5] is not None for row in data_of(found.html)["rows"])
    assert 100 < placed < 2_000
    assert f"{placed:,} rows)" in found.html
    assert len(found.html.encode()) < 5_000_000


def test_line_ends_of_windows_are_line_ends():
    page = report(["a", "b"], ["b", "b"], texts=["one\r\ntwo\rthree", "x"]).html
    assert "one\ntwo\nthree" in page
    assert "\\r" not in data_of(page)["rows"][0][0]


def test_what_was_seen_in_training_is_in_the_headline():
    found = report(["a", "b"], ["a", "a"], texts=["x", "y"], train_texts=["X "], train_labels=["a"])
    assert "1 row is also in training; without it 0.0" in found.html.replace("&nbsp;", " ")
