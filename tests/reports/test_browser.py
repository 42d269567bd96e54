"""The page in a real browser: no error, no request, every control by keyboard, and accessible."""

import itertools
import shutil

import numpy as np
import pytest
from test_page import HOSTILE, hostile_report

from labeldist.reports.comparison import ComparedObjective, ComparisonPart, flips_of, pairs_over_seeds
from labeldist.reports.findings import find
from labeldist.reports.page import About
from labeldist.reports.predictions import predictions_of
from labeldist.reports.report import Report, report
from labeldist.training.reporting.comparisons import pooled

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, driver.chromium.launch(executable_path=BROWSER, args=FLAGS) as browser:
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report: `opened(report, width=..., dark=...)`; at the end nothing may have gone wrong."""
    problems, contexts = [], []

    def open_page(found, *, width=1280, dark=False):
        path = found.save(tmp_path / f"report{len(contexts)}.html")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append("dialog"))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:", "blob:")) or problems.append(request.url),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def usual_report():
    rng = np.random.default_rng(1)
    names = ["提问", "ask", "tell", "order", "cancel", "praise"]
    labels = rng.integers(0, 6, 300)
    scores = rng.dirichlet(np.ones(6) * 0.4, 300)
    scores[np.arange(300), labels] += 0.7
    scores[np.arange(300), (labels + 1) % 6] += 0.4
    scores /= scores.sum(axis=1, keepdims=True)
    texts = [f"{names[label]} words of row {i}" for i, label in enumerate(labels)]
    table = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    points = rng.normal(size=(300, 2)) + 3 * labels[:, None]
    return report(labels, texts=texts, class_names=names, probabilities=scores, points=points, costs=table)


def test_hostile_names_and_texts_are_shown_as_text(opened):
    page = opened(hostile_report())
    assert page.evaluate("window.hacked") is None
    assert page.title() == "<script>window.hacked = 4</script>"
    assert page.locator("main").inner_text().count("<script>window.hacked = 1</script>") >= 1
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.locator("#cell-true").select_option(index=1)
    page.locator("#cell-predicted").select_option(index=2)
    assert page.evaluate("window.hacked") is None
    assert len(HOSTILE) == page.locator("#cell-true option").count()


def test_every_control_works_by_keyboard(opened):
    page = opened(usual_report())
    canvas, status = page.locator("#matrix-canvas"), page.locator("#matrix-status")
    before = status.inner_text()
    canvas.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert "taken for" in before
    page.keyboard.press("Home")
    for _ in range(6):
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
    assert " found: " in status.inner_text()
    page.keyboard.press("ArrowRight")
    moved = status.inner_text()
    assert "taken for" in moved
    page.keyboard.press("Enter")
    assert page.locator("#cell-note").inner_text().split(":")[0] == moved.split(":")[0]
    page.locator('input[name="mode"][value="rates"]').focus()
    page.keyboard.press("ArrowRight")
    assert page.locator('input[name="mode"][value="counts"]').is_checked()
    page.locator("#zoom").focus()
    page.keyboard.press("ArrowDown")
    page.locator("#map-canvas").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#map-status").inner_text()
    page.keyboard.press("ArrowRight")
    assert "words of row" in first
    assert page.locator("#map-status").inner_text() != first
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    header = page.locator("table.sortable thead button", has_text="Recall")
    header.focus()
    page.keyboard.press("Enter")
    column = [float(text) for text in page.locator("table.sortable tbody tr td:nth-child(4)").all_inner_texts()]
    assert column == sorted(column)
    page.keyboard.press("Enter")
    again = [float(text) for text in page.locator("table.sortable tbody tr td:nth-child(4)").all_inner_texts()]
    assert again == column[::-1]
    with page.expect_download() as download:
        page.locator("#matrix-file").focus()
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "confusable-pairs.json"


def test_the_texts_of_a_cell_are_its_texts(opened):
    found = usual_report()
    page = opened(found)
    pair = found.findings.pairs[0].forward
    assert pair.share is not None
    page.locator("#cell-true").select_option(str(pair.true))
    page.locator("#cell-predicted").select_option(str(pair.predicted))
    names = found.findings.predictions.class_names
    expected = f"{names[pair.true]} taken for {names[pair.predicted]}: {pair.share.num} rows."
    assert page.locator("#cell-note").inner_text().startswith(expected)
    assert page.locator("#cell-texts li").count() == min(30, pair.share.num)


def compared_report():
    """What `compare` writes: a verdict first, two runs of each side together."""
    rng = np.random.default_rng(2)
    names = ["ask", "tell", "order", "cancel"]
    labels = rng.integers(0, 4, 120)

    def runs(share):
        guesses = [np.where(rng.random(120) < share, (labels + 1) % 4, labels) for _ in range(2)]
        texts = [f"words {label} of row {i}" for i, label in enumerate(labels)]
        # Of the first seed there is a map.
        points = [rng.normal(size=(120, 2)) + 3 * labels[:, None], None]
        return [
            predictions_of(labels, guess, texts=texts, class_names=names, points=places)
            for guess, places in zip(guesses, points, strict=True)
        ]

    theirs, ours = runs(0.4), runs(0.2)
    repaired, broken = pairs_over_seeds(theirs, ours)
    fixed, lost = flips_of(theirs, ours)
    part = ComparisonPart(
        verdict="It helps.",
        answer="helps",
        sentences=("static: helps.",),
        objectives=(
            ComparedObjective("ce", True, (0.6, 0.6), None, None, None),
            ComparedObjective("static", False, (0.8, 0.8), 0.2, 0.1, 0.3),
        ),
        baseline="ce",
        shown="static",
        margin=0.005,
        num_seeds=2,
        num_pair_seeds=2,
        repaired=repaired,
        broken=broken or repaired,
        fixed_texts=fixed,
        lost_texts=lost,
        map_seed=7,
    )
    return Report(find(pooled(ours), baseline=pooled(theirs)), About("Comparison"), part)


@pytest.mark.parametrize("made", [usual_report, compared_report, hostile_report])
def test_axe_finds_nothing_and_nothing_overflows(opened, made):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(made())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for width, colors in itertools.product((1280, 390), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=colors)
        # All rules, the best practices among them.
        found = Axe().run(page).response["violations"]
        shown = [(problem["id"], [node["html"] for node in problem["nodes"]]) for problem in found]
        assert (width, colors, shown) == (width, colors, [])
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_print_shows_every_part_on_a_light_page_and_the_screen_stays_as_it_was(opened):
    page = opened(compared_report(), dark=True)
    look = "[document.querySelectorAll('details:not([open])').length, getComputedStyle(document.body).backgroundColor]"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {look}; }})")
    before = page.evaluate(look)
    assert before[0] > 2
    assert len(page.pdf()) > 10_000
    assert page.evaluate("window.printed") == [0, "rgb(255, 255, 255)"]
    assert page.evaluate(look) == before


def test_closed_parts_are_printed_without_javascript(browser, tmp_path):
    path = usual_report().save(tmp_path / "report.html")
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        closed = page.locator("details:not([open]) table.texts").first
        visible = "element => element.checkVisibility({ contentVisibilityAuto: true })"
        assert not closed.evaluate(visible)
        page.emulate_media(media="print")
        assert closed.evaluate(visible)
        assert page.locator("#classes thead button").first.is_visible()
        assert not page.locator("#theme").is_visible()


def test_a_map_needs_no_texts(opened):
    page = opened(report(["a", "b", "a"], ["a", "a", "b"], points=[[0, 1], [1, 2], [2, 0]]))
    page.locator("#map-canvas").focus()
    page.keyboard.press("ArrowRight")
    assert "row" in page.locator("#map-status").inner_text()
    assert "Texts were not given" in page.locator("#cell-note").inner_text()


def test_a_row_is_marked_on_the_maps_of_both_sides(opened):
    page = opened(compared_report())
    section = page.locator("#map")
    assert "Maps of the embeddings" in section.inner_text()
    assert "120 rows, seed 7" in section.inner_text()
    assert section.locator("figcaption").all_inner_texts() == ["ce, the baseline", "static"]
    maps = [page.locator("#map-canvas-baseline"), page.locator("#map-canvas")]
    boxes = [one.bounding_box() for one in maps]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    pictures = [one.screenshot() for one in maps]
    maps[0].press("ArrowRight")
    # A ring around the map that has the focus would be in its picture, too.
    page.locator("#theme").focus()
    assert "of row" in page.locator("#map-status").inner_text()
    assert [before != one.screenshot() for before, one in zip(pictures, maps, strict=True)] == [True, True]
    told = set()
    for _ in range(40):
        maps[1].press("ArrowRight")
        told.add(page.locator("#map-status").inner_text().split(":")[0])
    assert any(" by ce" in one and " by static" not in one for one in told)
    assert any("taken for" not in one for one in told)


def test_maps_stand_one_below_the_other_on_a_phone(opened):
    page = opened(compared_report(), width=390)
    first, second = (page.locator(name).bounding_box() for name in ("#map-canvas-baseline", "#map-canvas"))
    assert first["y"] + first["height"] <= second["y"]


def test_links_of_a_notebooks_frame_stay_in_the_frame(browser, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><p>A notebook.</p>{usual_report()._repr_html_()}", encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("nav a", has_text="Classes").click()
    assert frame.locator("#classes-title").inner_text() == "Classes"
    assert page.frames[1].url == "about:srcdoc"
    page.close()
