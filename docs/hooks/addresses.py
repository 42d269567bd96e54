"""MkDocs hook: pages say where the repository is only if `repo_url` in `mkdocs.yml` says so.

Without it there are no links to edit a page, either.

A page may hold two versions of a passage:

    <!-- address: none -->
    shown while the repository has no public address
    <!-- address: known -->
    shown once it has one; {address} stands for it
    <!-- address: end -->
"""

import re

_PASSAGE = re.compile(
    r"<!-- address: none -->\n(?P<none>.*?)<!-- address: known -->\n(?P<known>.*?)<!-- address: end -->\n", re.DOTALL
)


def on_config(config, **_):
    """Without a repository there is nothing to edit."""
    if not config["repo_url"]:
        config["edit_uri"] = ""
    return config


def on_page_markdown(markdown: str, config, **_) -> str:
    """Keep the version of each passage that is true."""
    return with_address(markdown, config["repo_url"] or "")


def with_address(markdown: str, address: str) -> str:
    """Choose one version of each passage."""

    def choose(match: re.Match) -> str:
        return match["known"].replace("{address}", address) if address else match["none"]

    return _PASSAGE.sub(choose, markdown)
