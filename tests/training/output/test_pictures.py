"""Pictures are drawn for whatever a run may bring."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from comparisons import compared, run_with_accuracy
from labeldist.training.output.pictures import (
    draw_pictures,
    drawing,
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


# Ten rows of each class, of which each odd one has five taken for the class before it.
def in_pairs(num_classes):
    counts = 10 * np.eye(num_classes, dtype=int)
    for c in range(1, num_classes, 2):
        counts[c, c - 1 : c + 1] = 5
    return counts


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


@pytest.mark.parametrize("num_classes", [80, 81, 200])
def test_names_beside_a_map_are_large_enough_to_read(tmp_path, monkeypatch, num_classes):
    sizes = []
    save = Figure.savefig

    def watched(figure, path, **options):
        # Points on a screen that shows the whole width in 13 inches.
        shrunk = min(1.0, 13 / figure.get_figwidth())
        sizes.append(min(shrunk * text.get_fontsize() for text in figure.axes[0].get_yticklabels()))
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    draw_pictures(tmp_path, names_of(num_classes), [0], in_pairs(num_classes), matrix=1 + in_pairs(num_classes))
    assert len(sizes) == 2
    assert min(sizes) > 4


def test_a_picture_says_which_part_of_the_mistakes_it_shows(tmp_path, texts_drawn):
    draw_pictures(tmp_path, names_of(100), [0], in_pairs(100))
    subtitle = next(" ".join(text.split()) for text in texts_drawn[0] if "rows are right" in text)
    assert "drawn: the 50 of 100 classes that are confused most, with 50 % of the mistakes between them" in subtitle
    assert "report.html shows more classes" in subtitle


def test_cells_of_few_classes_hold_counts(tmp_path, texts_drawn):
    plot_confusion([[7, 3], [0, 41]], ["ask", "tell"], tmp_path / "confusion.png", note="pooled over 2 seeds")
    assert {"7", "3", "41", "48 of 51 rows are right; pooled over 2 seeds"} <= set(texts_drawn[0])
    assert not any("Most confused" in text for text in texts_drawn[0])


def test_the_worst_pairs_of_more_classes_are_numbered_and_named(tmp_path, texts_drawn):
    counts = in_pairs(16)
    counts[4, 2] = 9
    plot_confusion(counts, names_of(16), tmp_path / "confusion.png")
    texts = [text.strip() for text in texts_drawn[0]]
    assert texts.index("class.number.2 / class.number.4") < texts.index("class.number.0 / class.number.1")
    assert "9 rows, 31 % of both classes" in texts
    # Once in the list, and once in the only cell of that pair that is not empty.
    assert texts.count("1") == texts.count("2") == 2


def test_a_picture_without_mistakes_says_so(tmp_path, texts_drawn):
    plot_confusion(np.eye(16), names_of(16), tmp_path / "confusion.png")
    assert "No row was taken for another class." in texts_drawn[0]


def test_both_maps_of_many_classes_have_one_order(tmp_path, texts_drawn):
    far_apart = np.roll(np.arange(40).reshape(2, 20).T.ravel(), 1)
    counts = np.empty((40, 40), dtype=int)
    counts[np.ix_(far_apart, far_apart)] = in_pairs(40)
    draw_pictures(tmp_path, names_of(40), [0], counts, matrix=1 + counts)
    # A tick has a label on either side of the map, of which one is shown.
    confusion, ldm = (
        list(dict.fromkeys(text for text in texts if text.startswith("class.number") and "/" not in text))
        for texts in texts_drawn
    )
    assert confusion == ldm
    for first, second in far_apart.reshape(-1, 2):
        assert abs(confusion.index(f"class.number.{first}") - confusion.index(f"class.number.{second}")) == 1


def test_pictures_are_those_of_what_is_given(tmp_path):
    draw_pictures(tmp_path, ["ask", "tell"], [0, 1], np.eye(2))
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]
    points = two_dimensions(np.eye(2))
    draw_pictures(tmp_path, ["ask", "tell"], [0, 1], np.eye(2), projection=points, matrix=np.ones((2, 2)), history=[{}])
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "curves.png", "embeddings.png", "ldm.png"}


def test_a_dark_page_is_dark_and_its_text_light(tmp_path):
    points = two_dimensions(np.eye(2))
    history = [{"epoch": 1.0, "eval_accuracy": 0.5, "loss": 1.0}]
    draw_pictures(
        tmp_path, CHINESE[:2], [0, 1], np.eye(2), projection=points, matrix=np.eye(2), history=history, theme="dark"
    )
    plot_comparison(compared({"ce": [0.8], "adaptive": [0.9]}), tmp_path / "comparison.png", theme="dark")
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            gray = np.asarray(image.convert("L"))
        assert gray[0, 0] < 50, path
        # Of a light frame, or axes that were forgotten, more would be left.
        assert np.median(gray) < 100, path
        assert gray.max() > 200, path


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
    monkeypatch.setattr(names.font_manager, "findSystemFonts", list)
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
        (note,) = [text for text in texts if "No installed font shows it" in text]
        assert "class_names in the run's config.json" in note
        assert "fonts-noto-cjk" in note
        size_of(tmp_path / path)


@pytest.mark.usefixtures("_only_latin_fonts")
def test_the_terminal_is_told_which_number_stands_for_which_name():
    sentence = names.font_sentence(["ask", *CHINESE])
    assert (
        "no installed font shows 3 class names, and their numbers stand there: 1=提问, 2=取消, 3=其他. Install"
        in sentence
    )
    assert "fonts-noto-cjk" in sentence
    assert "fonts-noto-core" in names.font_sentence(["ask", "\U00010900"])
    assert ", ... (all of them: class_names in config.json)" in names.font_sentence(CHINESE * 20)
    assert names.font_sentence(["ask"]) == names.font_note(["ask"]) == ""


@pytest.mark.usefixtures("_only_latin_fonts")
def test_a_font_that_was_installed_since_matplotlib_looked_is_found(monkeypatch):
    # Its file stands for a new one: the fixture has made matplotlib forget it.
    mono = names.font_manager.findfont("DejaVu Sans").replace("DejaVuSans.ttf", "STIXGeneral.ttf")
    assert "\u2a0b" in names._characters(mono)
    assert names.font_families(frozenset("\u2a0b"))[1] == {"\u2a0b"}
    names.font_families.cache_clear()
    monkeypatch.setattr(names.font_manager, "findSystemFonts", lambda: [mono, "/nowhere/gone.ttf"])
    assert names.font_families(frozenset("\u2a0b")) == (("DejaVu Sans", "STIXGeneral"), frozenset())


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


def test_embeddings_of_many_classes_are_gray_but_for_the_confused_groups(tmp_path, texts_drawn):
    counts = 10 * np.eye(14, dtype=int)
    counts[3, 3:6] = [6, 2, 2]
    labels = np.repeat(np.arange(14), 3)
    points = two_dimensions(np.eye(14)[labels] + 0.01 * np.random.default_rng(0).normal(size=(42, 14)))
    plot_embeddings(points, labels, names_of(14), tmp_path / "embeddings.png", confusion=counts)
    (subtitle,) = [text for text in texts_drawn[0] if "t-SNE of" in text]
    assert subtitle.endswith("; colored: the group of classes confused most; gray: 11 other classes")
    assert "● class.number.3\n▲ class.number.4\n■ class.number.5" in texts_drawn[0]
    assert not any("class.number.6" in text for text in texts_drawn[0])
    with Image.open(tmp_path / "embeddings.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The points of the group and the frame of its label have a color; text and all other points are gray.
    assert (np.ptp(pixels, axis=2) > 40).sum() > 500


def test_embeddings_of_many_classes_that_nothing_confuses_are_drawn(tmp_path, texts_drawn):
    points = two_dimensions(np.eye(14))
    for confusion in (None, np.eye(14)):
        plot_embeddings(points, range(14), names_of(14), tmp_path / "embeddings.png", confusion=confusion)
        assert any(text.endswith("; 14 classes") for text in texts_drawn[-1])


def test_a_large_group_names_a_few_classes(tmp_path, texts_drawn):
    points = two_dimensions(np.eye(20))
    plot_embeddings(points, range(20), names_of(20), tmp_path / "embeddings.png", confusion=np.full((20, 20), 9))
    (label,) = [text for text in texts_drawn[0] if text.startswith("●")]
    assert label.splitlines()[-1] == "✚ 15 more"


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
