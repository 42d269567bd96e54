"""Pictures are drawn for whatever a run may bring."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from comparisons import compared, run_with_accuracy
from labeldist.training.output.pictures import (
    drawing,
    embedding_map,
    names,
    plot_comparison,
    plot_confusion,
    plot_curves,
    plot_embeddings,
    plot_ldm,
    two_dimensions,
)
from labeldist.training.records import Confusion
from labeldist.training.study.comparison import build_comparison

CHINESE = ["提问", "取消", "其他"]
AWKWARD = ["$a$", "_hidden", "two\nlines", "x" * 80, "bell\x07 and \u202eback"]


def names_of(num_classes):
    return [f"class.number.{c}" for c in range(num_classes)]


def size_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        # One color would be an empty page
        darkest, lightest = image.convert("L").getextrema()
        assert darkest != lightest
        return image.size


@pytest.mark.parametrize("num_classes", [1, 2, 16, 52])
def test_heat_maps_are_drawn_for_few_and_many_classes(tmp_path, num_classes):
    matrix = np.random.default_rng(0).integers(0, 9, (num_classes, num_classes))
    plot_confusion(matrix, names_of(num_classes), tmp_path / "confusion.png")
    plot_ldm(1 + matrix, names_of(num_classes), tmp_path / "ldm.png", title="Label distance, adaptive")
    for name in ("confusion.png", "ldm.png"):
        width, height = size_of(tmp_path / name)
        assert max(width, height) < 2600


def test_heat_maps_of_thousands_of_classes_show_those_that_matter(tmp_path):
    num_classes = 3000
    confusion = Confusion((0, 2999, 7), (5, 2999, 0), (4, 3, 2))
    plot_confusion(confusion, names_of(num_classes), tmp_path / "confusion.png")
    plot_ldm(np.broadcast_to(1.0, (num_classes, num_classes)), names_of(num_classes), tmp_path / "ldm.png")
    for name in ("confusion.png", "ldm.png"):
        assert max(size_of(tmp_path / name)) < 4000


@pytest.mark.parametrize("class_names", [CHINESE, AWKWARD])
def test_names_of_any_script_are_drawn_without_a_warning(tmp_path, class_names):
    plot_confusion(np.eye(len(class_names)), class_names, tmp_path / "confusion.png")
    plot_ldm(np.ones((len(class_names), len(class_names))), class_names, tmp_path / "ldm.png")
    plot_embeddings(
        two_dimensions(np.eye(len(class_names))), range(len(class_names)), class_names, tmp_path / "embeddings.png"
    )
    size_of(tmp_path / "embeddings.png")


@pytest.fixture
def _only_latin_fonts(monkeypatch):
    bundled = [font for font in names.font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(names.font_manager.fontManager, "ttflist", bundled)
    names.font_families.cache_clear()
    yield
    names.font_families.cache_clear()


@pytest.fixture
def texts_drawn(monkeypatch):
    """Texts of every figure that is saved."""
    drawn = []
    savefig = Figure.savefig

    def watched(figure, *arguments, **options):
        drawn.append([text.get_text() for text in figure.findobj(drawing.Text)])
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    return drawn


@pytest.mark.usefixtures("_only_latin_fonts")
def test_names_without_a_font_become_numbers_and_the_picture_says_why(tmp_path, texts_drawn):
    assert names.display_names([*CHINESE, "other"]) == ["class 0", "class 1", "class 2", "other"]
    plot_ldm(np.ones((3, 3)), CHINESE, tmp_path / "ldm.png", title="标签距离")
    plot_embeddings(two_dimensions(np.eye(3)), range(3), CHINESE, tmp_path / "embeddings.png")
    for path, texts in zip(("ldm.png", "embeddings.png"), texts_drawn, strict=True):
        assert "class 1" in texts
        assert any("no installed font shows this name" in text and "fonts-noto-cjk" in text for text in texts)
        size_of(tmp_path / path)


def test_names_that_fonts_show_need_no_explanation(tmp_path, texts_drawn):
    plot_ldm(np.ones((2, 2)), ["ask", "tell"], tmp_path / "ldm.png")
    assert not any("font" in text for text in texts_drawn[0])


def test_names_are_drawn_without_control_characters(tmp_path, texts_drawn):
    plot_confusion(np.eye(2), ["a\x1b[2Jb", "\u202ec"], tmp_path / "confusion.png")
    assert {r"a\x1b[2Jb", r"\u202ec"} <= set(texts_drawn[0])


def test_a_matrix_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"counts must have shape .* \(2, 2\), as class_names says, got \(3, 3\)"):
        plot_confusion(np.eye(3), ["a", "b"], tmp_path / "confusion.png")
    assert not list(tmp_path.iterdir())


def test_inputs_are_not_changed(tmp_path):
    matrix = np.arange(9.0).reshape(3, 3)
    before = matrix.copy()
    plot_ldm(matrix, names_of(3), tmp_path / "ldm.png")
    plot_confusion(matrix, names_of(3), tmp_path / "confusion.png")
    assert np.array_equal(matrix, before)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"epoch": 1.0, "eval_accuracy": 0.5, "eval_loss": 0.7}],
        [{"train_loss": 1.0}],
        [
            {"epoch": 0.5, "loss": 2.0, "cross_entropy": 1.0, "contrastive": 3.0},
            {"epoch": 1.0, "eval_accuracy": 0.5, "eval_macro_f1": 0.4, "eval_loss": 0.7},
            {"epoch": 1.0, "ldm_epsilon": 0.9},
        ],
    ],
)
def test_curves_draw_what_was_logged(tmp_path, history):
    plot_curves(history, tmp_path / "curves.png")
    size_of(tmp_path / "curves.png")


@pytest.mark.parametrize(("num_rows", "width"), [(1, 3), (2, 1), (9, 4), (10, 2), (11, 1), (40, 8)])
def test_embeddings_of_any_number_of_rows_are_drawn(tmp_path, num_rows, width):
    rows = np.random.default_rng(0).normal(size=(num_rows, width))
    plot_embeddings(two_dimensions(rows), np.arange(num_rows) % 3, names_of(3), tmp_path / "embeddings.png")
    size_of(tmp_path / "embeddings.png")


def test_embeddings_that_are_all_equal_are_drawn(tmp_path):
    plot_embeddings(two_dimensions(np.zeros((12, 4))), [0] * 12, ["a"], tmp_path / "embeddings.png")
    size_of(tmp_path / "embeddings.png")


def test_the_same_embeddings_give_the_same_picture(tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 5))
    for name in ("first.png", "second.png"):
        plot_embeddings(two_dimensions(rows), np.arange(30) % 2, ["a", "b"], tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_104_classes_differ_by_color_or_marker():
    assert len({(embedding_map._color(c), embedding_map._marker(c)) for c in range(104)}) == 104


def test_a_row_without_a_label_is_refused(tmp_path):
    with pytest.raises(ValueError, match="labels must have one entry for each row of the embeddings, got 1"):
        plot_embeddings(two_dimensions(np.eye(2)), [0], ["a"], tmp_path / "embeddings.png")


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_comparison_is_drawn(tmp_path, num_seeds):
    accuracies = {
        name: [0.8 + 0.01 * seed * place for seed in range(num_seeds)]
        for place, name in enumerate(("ce", "uniform", "adaptive"))
    }
    plot_comparison(compared(accuracies, data="数据"), tmp_path / "comparison.png")
    size_of(tmp_path / "comparison.png")


def test_an_interrupted_comparison_is_drawn(tmp_path):
    runs = [run_with_accuracy("ce", 0, 0.8), run_with_accuracy("adaptive", 1, 0.8)]
    plot_comparison(build_comparison(runs, data="trec", encoder="textcnn"), tmp_path / "comparison.png")
    size_of(tmp_path / "comparison.png")
