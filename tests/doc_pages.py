"""The code that the documentation displays: read from the pages' sources, and run as a reader would run it."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MAX_WIDTH = 80

_FENCE = re.compile(
    r"(?:^[ ]*<!--[ ]not[ ]run:[ ](?P<reason>[^\n]*?)[ ]-->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the file.
        line: of the block's first line of code, from 1.
        language: python, sh, json, text, ...
        options: what follows the language.
        code: as displayed.
        reason: why it is not run, where the page says so.
    """

    page: Path
    line: int
    language: str
    options: str
    code: str
    reason: str | None

    @property
    def is_executed(self) -> bool:
        """Whether the block runs when the site is built."""
        return "exec=" in self.options

    @property
    def is_displayed(self) -> bool:
        """Whether readers see the code."""
        return not self.is_executed or "source=" in self.options


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, match["language"], match["options"], code, match["reason"]))
    return found


def displayed_python(page: Path) -> list[Block]:
    """The blocks of Python that readers see, in order."""
    return [block for block in blocks_of(page) if block.language in ("python", "py") and block.is_displayed]


def run(blocks: list[Block]) -> dict:
    """Run blocks in one namespace; a traceback names the page and its line."""
    namespace: dict = {"__name__": "__main__"}
    for block in blocks:
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, str(block.page), "exec"), namespace)
    return namespace
