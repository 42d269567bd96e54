"""What the documentation displays runs as displayed, fits 80 columns, and pretends nothing."""

import ast
import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

import labeldist
from benchmarks import tutorial
from conftest import restored
from doc_pages import MAX_WIDTH, PAGES, ROOT, blocks_of, displayed_python, run

# Pages whose code trains for a while. The build of the site runs them, block by block, too.
SLOW = {
    "few-labels.md",
    "metric-learning.md",
    "python.md",
    "sentence-transformers.md",
    "hugging-face.md",
    "coarse-labels.md",
}
WITH_PYTHON = [page for page in PAGES if any(block.reason is None for block in displayed_python(page))]
RUN_HERE = [page for page in WITH_PYTHON if page != tutorial.PAGE]


def hook(name):
    """A hook of the site, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_to_run(page):
    return [block for block in displayed_python(page) if block.reason is None]


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (p.name in SLOW), id=name_of(p)) for p in RUN_HERE]
)
def test_the_displayed_code_runs_as_displayed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with restored(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("default")
        run(blocks_to_run(page))


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page.name in SLOW], ids=name_of)
def test_the_displayed_code_of_a_slow_page_is_what_the_build_runs_and_needs_no_hidden_code(page):
    blocks = blocks_to_run(page)
    assert all(block.is_executed and 'session="page"' in block.options for block in blocks)
    code = "\n".join(block.code for block in blocks)
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"],
        input=code,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_displayed_blocks_fit_80_columns(page):
    wide = [
        f"{name_of(page)}:{block.line + number}: {line}"
        for block in blocks_of(page)
        if block.is_displayed
        for number, line in enumerate(block.code.splitlines())
        if len(line) > MAX_WIDTH
    ]
    assert wide == []


def test_the_tutorial_shows_the_code_that_was_recorded():
    record = json.loads(tutorial.RECORD.read_text(encoding="utf-8"))
    shown = [ast.dump(ast.parse(code)) for code in tutorial.blocks()]
    assert shown == [ast.dump(ast.parse(block["code"])) for block in record["blocks"]]


def command_lines():
    """Every `labeldist ...` in the shell blocks of the pages, as words."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "sh" and block.is_displayed:
                for line in block.code.replace("\\\n", " ").splitlines():
                    words = shlex.split(line.split("|")[-1], comments=True)
                    if "labeldist" in words[:-1]:
                        yield pytest.param(words[words.index("labeldist") + 1 :], id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("words", list(command_lines()))
def test_the_displayed_commands_are_understood(words):
    from labeldist.cli.entry import _parsed

    if words[0].startswith("-"):
        assert words in (["--help"], ["--version"])
    else:
        assert _parsed(words) is not None


def test_the_displayed_json_is_json():
    found = [block for page in PAGES for block in blocks_of(page) if block.language == "json"]
    assert found
    for block in found:
        json.loads(block.code)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_pretends_a_public_address(page):
    text = page.read_text(encoding="utf-8")
    assert "github.com/labeldist" not in text
    assert not re.search(r"pip install ['\"]?labeldist", text)


def test_the_metadata_pretends_no_public_address():
    for name in ("pyproject.toml", "mkdocs.yml", "CITATION.cff"):
        assert "github.com/labeldist" not in (ROOT / name).read_text(encoding="utf-8")


def test_a_passage_follows_the_address():
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    with_address = hook("addresses").with_address
    assert "git clone" not in with_address(install, "")
    assert "git clone https://example.org/them" in with_address(install, "https://example.org/them")
    assert "<!-- address" not in with_address(install, "")


def test_flags_are_marked_in_texts_and_not_in_blocks():
    content = "<p><code>compare --seeds 0 1 --top-k 3</code></p><pre><code>train --seed 0\n</code></pre>"
    marked = hook("flags").on_page_content(content)
    assert re.findall(r'<span class="flag">(.*?)</span>', marked) == ["--seeds", "--top-k"]
    assert re.sub("</?span[^>]*>", "", marked) == content


@pytest.mark.parametrize("page", [page for page in PAGES if "docs" in page.parts[-3:]], ids=name_of)
def test_every_page_has_a_description(page):
    found = re.match(r"---\n((?:.*\n)*?)---\n", page.read_text(encoding="utf-8"))
    assert found is not None
    # Read as the site does: a colon in the text would end the description.
    assert len(yaml.safe_load(found[1])["description"]) >= 20


def test_the_readme_links_only_to_what_is_readable_as_a_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target}
    assert linked
    for target in linked:
        path = ROOT / target
        assert path.is_file(), target
        if path.suffix == ".md":
            raw = path.read_text(encoding="utf-8")
            assert not re.search(r"^```python exec=.on.(?!.*source=)", raw, re.MULTILINE), (
                f"{target} shows code that is run"
            )
            assert "::: " not in raw, target


def test_every_public_name_is_on_a_page_of_the_reference():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    names = [*labeldist.__all__, "train", "compare", "load", "report"]
    missing = [name for name in names if not re.search(rf"\b{name}\b", pages)]
    assert missing == []
