"""Recorded differences as one picture, in SVG: an interval for each objective of each comparison."""

from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.paper.protocol import CORPORA, ENCODERS, PAPER, Setting
from benchmarks.paper.report import Results, differences_to_two_views
from benchmarks.paper.tables import TITLES, load
from labeldist.training.study.results import PairedDifference

WIDTH, LEFT, RIGHT, ROW, GAP, TOP = 760, 150, 20, 24, 40, 8
MARGIN = 0.005
"""The smallest gain worth having, as `labeldist compare` has it: the band around zero."""


Row = tuple[str, float, float, float]
"""Name, mean, and both ends of the interval, in points."""


def intervals() -> str:
    """Differences of accuracy to the baseline with their 95 % intervals, in points, as an SVG figure."""
    panels = []
    for name, title in TITLES.items():
        comparison = load(name).comparison
        found = {objective: comparison.difference_to_baseline(objective) for objective in comparison.objectives}
        panels.append((f"{title}, against {comparison.baseline}", _rows(found)))
    return drawn(panels)


def cell_intervals(results: Results, setting: Setting) -> str:
    """Differences of accuracy to two-view cross-entropy with their 95 % intervals, in points, as an SVG figure.

    A panel for each cell of the paper's table that was run, with the paper's own gain; empty without any.
    """
    panels = []
    for cell, differences in differences_to_two_views(results, setting).items():
        corpus, encoder = cell
        by = ENCODERS[encoder].paper
        without, with_clld = PAPER[corpus][by]
        whose = f"{by} in the paper" if by.lower() != encoder else "the paper"
        title = (
            f"{CORPORA[corpus].title}, {encoder}, against ce-two-views "
            f"({whose}, against cross-entropy: {with_clld - without:+.1f})"
        )
        panels.append((title, _rows(differences)))
    panels = [(title, rows) for title, rows in panels if rows]
    return drawn(panels) if panels else ""


def _rows(differences: Mapping[str, PairedDifference | None]) -> list[Row]:
    return [
        (objective, 100 * difference.mean, 100 * difference.low, 100 * difference.high)
        for objective, difference in differences.items()
        if difference is not None and difference.low is not None and difference.high is not None
    ]


def drawn(panels: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """Panels of intervals on one scale, as an SVG figure.

    Colors are the page's own (`currentColor`), so that the picture fits a light and a dark page.
    """
    least = min(low for _, rows in panels for _, _, low, _ in rows)
    most = max(high for _, rows in panels for _, _, _, high in rows)
    least, most = min(-1.0, least) - 0.5, max(1.0, most) + 0.5
    height = TOP + sum(GAP + ROW * len(rows) for _, rows in panels) + 40

    def x(points: float) -> float:
        return LEFT + (points - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    bottom = height - 36
    parts = [
        f'<rect x="{x(-100 * MARGIN):.1f}" y="{TOP}" width="{x(100 * MARGIN) - x(-100 * MARGIN):.1f}" '
        f'height="{bottom - TOP}" fill="currentColor" opacity="0.08"/>',
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP}" y2="{bottom}" stroke="currentColor" stroke-opacity="0.6"/>',
    ]
    y = TOP
    for title, rows in panels:
        y += GAP - 12
        parts.append(f'<text x="0" y="{y}" font-weight="bold">{escape(title)}</text>')
        y += 12
        for objective, mean, low, high in rows:
            middle = y + ROW / 2
            parts.append(
                f"<g><title>{escape(objective)}: {mean:+.1f} points, {low:+.1f} to {high:+.1f}</title>"
                f'<text x="{LEFT - 12}" y="{middle + 4:.1f}" text-anchor="end">{escape(objective)}</text>'
                f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="currentColor" '
                'stroke-width="2"/>'
                f'<circle cx="{x(mean):.1f}" cy="{middle:.1f}" r="4.5" fill="currentColor"/></g>'
            )
            y += ROW
    for points in range(int(least), int(most) + 1, 2):
        label = f"{points:+d}" if points else "0"
        parts.append(f'<text x="{x(points):.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{x(0):.1f}" y="{bottom + 32}" text-anchor="middle">points of accuracy</text>')
    description = "Differences of accuracy to the baseline with 95 % intervals; the tables below have the numbers"
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{description}" '
        'xmlns="http://www.w3.org/2000/svg" fill="currentColor" font-size="13" '
        f'font-family="inherit">{"".join(parts)}</svg></figure>'
    )
