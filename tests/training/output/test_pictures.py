import numpy as np
import pytest
from PIL import Image

from labeldist.training.output import pictures
from labeldist.training.output.pictures import plot_comparison, plot_confusion, plot_curves, plot_embeddings, plot_ldm
from labeldist.training.study.comparison import build_comparison

CHINESE = ["提问", "取消", "其他"]
AWKWARD = ["$a$", "_hidden", "two\nlines", "x" * 80]


def names_of(num_classes):
    return [f"class.number.{c}" for c in range(num_classes)]


def size_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        # one colour would be an empty page
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


@pytest.mark.parametrize("names", [CHINESE, AWKWARD])
def test_names_of_any_script_are_drawn_without_a_warning(tmp_path, names):
    plot_confusion(np.eye(len(names)), names, tmp_path / "confusion.png")
    plot_ldm(np.ones((len(names), len(names))), names, tmp_path / "ldm.png")
    plot_embeddings(np.eye(len(names)), range(len(names)), names, tmp_path / "embeddings.png")
    size_of(tmp_path / "embeddings.png")


@pytest.fixture
def _only_latin_fonts(monkeypatch):
    bundled = [font for font in pictures.font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(pictures.font_manager.fontManager, "ttflist", bundled)
    pictures._families.cache_clear()
    yield
    pictures._families.cache_clear()


@pytest.mark.usefixtures("_only_latin_fonts")
def test_names_without_a_font_become_numbers(tmp_path):
    assert pictures._labels([*CHINESE, "other"]) == ["class 0", "class 1", "class 2", "other"]
    plot_ldm(np.ones((3, 3)), CHINESE, tmp_path / "ldm.png", title="标签距离")
    size_of(tmp_path / "ldm.png")


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
    plot_embeddings(rows, np.arange(num_rows) % 3, names_of(3), tmp_path / "embeddings.png")
    size_of(tmp_path / "embeddings.png")


def test_embeddings_that_are_all_equal_are_drawn(tmp_path):
    plot_embeddings(np.zeros((12, 4)), [0] * 12, ["a"], tmp_path / "embeddings.png")
    size_of(tmp_path / "embeddings.png")


def test_the_same_embeddings_give_the_same_picture(tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 5))
    for name in ("first.png", "second.png"):
        plot_embeddings(rows, np.arange(30) % 2, ["a", "b"], tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_52_classes_differ_by_colour_or_marker():
    assert len({(pictures._colour(c), pictures._marker(c)) for c in range(104)}) == 104


@pytest.mark.parametrize(("embeddings", "labels"), [(np.ones((2, 2)), [0]), (np.full((1, 2), np.nan), [0]), ([], [])])
def test_embeddings_that_cannot_be_drawn_are_refused(tmp_path, embeddings, labels):
    with pytest.raises(ValueError, match="embeddings must be"):
        plot_embeddings(embeddings, labels, ["a"], tmp_path / "embeddings.png")


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_comparison_is_drawn(tmp_path, num_seeds):
    metrics = {"macro_f1": 0.8, "confusion": [[1, 0], [0, 1]], "class_names": ["a", "b"]}
    runs = [
        {"objective": name, "seed": seed, "seconds": 1.0, "metrics": metrics | {"accuracy": 0.8 + 0.01 * seed * place}}
        for place, name in enumerate(("ce", "uniform", "adaptive"))
        for seed in range(num_seeds)
    ]
    plot_comparison(build_comparison(runs, data="数据", encoder="textcnn"), tmp_path / "comparison.png")
    size_of(tmp_path / "comparison.png")


def test_an_interrupted_comparison_is_drawn(tmp_path):
    metrics = {"accuracy": 0.8, "macro_f1": 0.8, "confusion": [[1]], "class_names": ["a"]}
    runs = [
        {"objective": name, "seed": seed, "seconds": 1.0, "metrics": metrics}
        for name, seed in (("ce", 0), ("adaptive", 1))
    ]
    plot_comparison(build_comparison(runs, data="trec", encoder="textcnn"), tmp_path / "comparison.png")
    size_of(tmp_path / "comparison.png")
