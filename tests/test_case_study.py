"""The case study of the paper's benchmark: pairs that changed, their texts, and the picture of the matrix."""

import json
import re
from xml.etree import ElementTree

import pytest

from benchmarks.paper import case_study
from benchmarks.paper.report import Results
from benchmarks.records import save

NAMES = ["comp.graphics", "comp.windows", "misc.forsale"]
ROWS = [{"text": f"text\n{place} " + "x" * 200, "label": NAMES[place % 3]} for place in range(9)]
# Before: rows 0 and 3 (graphics) for windows; after: row 3 still, and row 2 (forsale) for graphics.
MISTAKES = {"contrastive": [[0, 1], [3, 1]], "adaptive": [[3, 1], [2, 0]]}


def recorded(folder, objectives=("contrastive", "adaptive")):
    runs = [
        {
            "corpus": "20ng", "setting": "paper", "temperature": 1.0, "objective": name, "seed": 0, "accuracy": 0.78,
            "seconds": 1.0, "class_names": NAMES, "matrix": [[1, 5, 1], [5, 1, 2], [1, 2, 1]],
            "mistakes": MISTAKES[name],
        }
        for name in objectives
    ]  # fmt: skip
    facts = {"title": "", "options": "", "machines": [], "versions": [], "commit": "", "commands": []}
    save({"encoder": "textcnn", **facts, "runs": runs}, folder / "textcnn.json", str)
    return folder


def test_the_study_shows_the_pairs_that_changed_with_texts_that_did(tmp_path, monkeypatch):
    monkeypatch.setattr(case_study, "read_rows", lambda path: ROWS)
    study = tmp_path / "study" / "20ng.json"
    arguments = ["case_study", "--records", str(recorded(tmp_path / "records")), "--output", str(study)]
    monkeypatch.setattr("sys.argv", arguments)
    case_study.main()
    repaired, broken = json.loads(study.read_text(encoding="utf-8"))["pairs"]
    assert repaired["classes"] == ["comp.graphics", "comp.windows"]
    assert (repaired["contrastive"], repaired["adaptive"]) == (2, 1)
    # Six rows of the two classes: two wrong before, one after.
    assert (repaired["right_contrastive"], repaired["right_adaptive"]) == (4, 5)
    assert [one["text"][:6] for one in repaired["texts"]] == ["text 0"]
    assert (broken["contrastive"], broken["adaptive"]) == (0, 1)
    assert [one["class"] for one in broken["texts"]] == ["misc.forsale"]
    assert all(len(one["text"]) <= case_study.MAX_LETTERS + 2 for pair in (repaired, broken) for one in pair["texts"])
    monkeypatch.setattr(case_study, "STUDY", study)
    assert "| comp.graphics / comp.windows | 2 → 1 | 4 → 5 |" in case_study.study_section()


def test_without_both_runs_there_is_no_study(tmp_path, monkeypatch, capsys):
    folder = recorded(tmp_path / "records", ["contrastive"])
    monkeypatch.setattr("sys.argv", ["case_study", "--records", str(folder), "--output", str(tmp_path / "study.json")])
    with pytest.raises(SystemExit):
        case_study.main()
    assert "no encoder with contrastive and adaptive" in capsys.readouterr().err
    assert not (tmp_path / "study.json").exists()


def test_the_learned_matrix_is_drawn_with_its_groups_framed(tmp_path):
    picture = case_study.matrix_figure(Results(recorded(tmp_path)))
    svg = picture[picture.index("<svg") : picture.index("</svg>") + len("</svg>")]
    ElementTree.fromstring(svg)
    words = re.sub(r"<!--|-->", "", svg)
    assert "comp.windows" in words
    assert "groups are framed" in words


def test_without_a_matrix_nothing_is_drawn(tmp_path):
    assert case_study.matrix_figure(Results(tmp_path)) == ""
