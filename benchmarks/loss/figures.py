"""The tables and the figures of a record of `benchmarks.loss`, for light and for dark pages.

python -m benchmarks.loss.figures benchmarks/results/loss/cpu-float32.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.loss.methods import TASKS
from labeldist.training.output.pictures.drawing import lighten, new_figure, save
from labeldist.training.output.pictures.themes import THEMES, ThemeName

MARKERS = {"same": "o", "graded": "D", "unweighted": "s", "one positive": "^", "cross-entropy": "v", "forward": "x"}
# The methods of the loss itself have a color each. Those of other losses are the lines that are not solid.
COLORS = {"eager": 7, "eager, torch.compile": 1, "blockwise": 0, "triton": 2, "PML SupConLoss": 4, "Inf-CL": 9}
OTHER_COLORS = (5, 6, 8, 10, 12)


def table(record: dict[str, Any]) -> str:
    """Markdown: time as a ratio to the floor of the same process, and extra peak memory."""
    lines = [
        "| rows x dim | method | forward ms | / floor | forward+backward ms | / floor | extra MiB |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    notes = {}
    for case in record["cases"]:
        if case.get("skipped", "").endswith(("installed", "GPU")):
            notes[case["method"]] = case["skipped"]
            continue
        size = f"{case['num_rows']} x {case['dim']}"
        name = _title(case["method"], case["task"])
        if "skipped" in case:
            lines.append(f"| {size} | {name} | {case['skipped']} | | | | |")
            continue
        forward = f"{case['forward_ms']:.2f} | {case['forward_ms'] / case['floor_forward_ms']:.2f}"
        both = " | | "
        if "both_ms" in case:
            both = f"{case['both_ms']:.2f} | {case['both_ms'] / case['floor_both_ms']:.2f} | {case['both_mib']:.1f}"
        lines.append(f"| {size} | {name} | {forward} | {both} |")
    left_out = "; ".join(f"{name} {reason}" for name, reason in notes.items())
    return "\n".join([*lines, *(["", f"Left out: {left_out}."] if left_out else [])])


def summary(record: dict[str, Any], method: str, others: dict[str, str]) -> str:
    """Markdown: forward+backward by one method, and others' time and memory as multiples of its; `others` by title."""
    by_key = {(case["dim"], case["num_rows"], case["method"]): case for case in record["cases"] if "both_ms" in case}
    # Times of a CUDA graph are there for a GPU alone.
    has_graphs = any("graph_ms" in case for case in by_key.values())
    titles = ["rows x dim", "ms", "/ floor", *(["graph ms"] if has_graphs else []), "MiB"]
    titles += others
    lines = [f"| {' | '.join(titles)} |", "|" + "--:|" * len(titles)]
    errors = {}
    for dim, num_rows, name in sorted(by_key):
        if name != method:
            continue
        case = by_key[dim, num_rows, name]
        # Records from before the field have all gates at one size.
        gate = f"{case.get('gate_rows', 2047):,} x {dim}"
        errors[dim] = f"{case['gradient_error']:.1e} at {gate}, eager's {case['eager_gradient_error']:.1e}"
        # No line break in a size.
        cells = [f"{num_rows:,} x {dim}".replace(" ", "\u00a0"), _digits(case["both_ms"])]
        cells.append(_digits(case["both_ms"] / case["floor_both_ms"]))
        if has_graphs:
            cells.append(_digits(case["graph_ms"]) if "graph_ms" in case else "")
        cells.append(_digits(case["both_mib"]))
        for other_name in others.values():
            other = by_key.get((dim, num_rows, other_name))
            if other is None:
                cells.append("")
                continue
            ratios = (other[key] / case[key] for key in ("both_ms", "both_mib"))
            cells.append(", ".join(map(_digits, ratios)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Relative error of the gradient: {'; '.join(errors.values())}."])


def graded_table(*records: dict[str, Any]) -> str:
    """Markdown: what graded targets cost, as a ratio to the same backend without them, timed alternately.

    Args:
        *records: of methods with graded targets, on a GPU beside the same backend without them: then the time on the
            device alone, of a CUDA graph, is known of both, and a column shows its ratio.
    """
    on_device = [_graph_ratios(record) for record in records]
    has_device = any(on_device)
    lines = [
        f"| classes | rows x dim | plain, ms | graded, ms | ratio |{' ratio on the device |' * has_device}",
        f"|---|{'--:|' * (4 + has_device)}",
    ]
    for record, ratios in zip(records, on_device, strict=True):
        for case in record["cases"]:
            if case["task"] != "graded":
                continue
            plain, own = case["compared_both_ms"], case["both_ms"]
            size = case["num_rows"], case["dim"]
            last = f" {ratios.get((case['method'], *size), '')} |" if has_device else ""
            lines.append(
                f"| {record['num_classes']:,} | {size[0]:,} x {size[1]} | {_digits(plain)} | {_digits(own)} | "
                f"{own / plain:.2f} |{last}"
            )
    return "\n".join(lines)


def _graph_ratios(record: dict[str, Any]) -> dict[tuple[str, int, int], str]:
    """Time of graded targets over that without, each replayed as a CUDA graph, by method, rows and dimensions."""
    graph = {(case["method"], case["num_rows"], case["dim"]): case.get("graph_ms") for case in record["cases"]}
    plain = {key: graph.get((key[0].partition(",")[0], *key[1:])) for key in graph if "graded" in key[0]}
    return {key: f"{graph[key] / other:.2f}" for key, other in plain.items() if other and graph[key]}


def _digits(number: float) -> str:
    """Two or three significant digits."""
    places = 0 if number >= 99.5 else 1 if number >= 9.95 else 2 if number >= 0.1 else 3
    return f"{number:,.{places}f}"


def _title(name: str, task: str) -> str:
    return name if task in ("same", "graded") else f"{name} ({task})"


def draw(record: dict[str, Any], path: Path, *, theme: ThemeName = "light") -> Path:
    """Time and memory of forward+backward against `B`, a column for each `D`; log axes.

    `"auto"` is left out: it is one of the other backends.
    """
    colors = THEMES[theme]
    # The cases of a resumed record are in the order of its runs.
    measured = sorted((case for case in record["cases"] if "both_ms" in case), key=lambda case: case["num_rows"])
    dims = sorted({case["dim"] for case in measured})
    names = [name for name in dict.fromkeys(case["method"] for case in measured) if name != "auto"]
    others = iter(OTHER_COLORS)
    places = {name: COLORS[name] if name in COLORS else next(others) for name in names}
    figure = new_figure(8.6, 6.6, colors)
    axes = figure.subplots(2, len(dims), sharex=True, sharey="row", squeeze=False)
    for column, dim in enumerate(dims):
        for name in names:
            cases = [case for case in measured if case["dim"] == dim and case["method"] == name]
            rows = [case["num_rows"] for case in cases]
            task = cases[0]["task"] if cases else "same"
            style = {"color": colors.classes[places[name]], "marker": MARKERS[task], "markersize": 4, "linewidth": 1.4}
            style["label"] = _title(name, task)
            style["linestyle"] = "-" if task == "same" else "--"
            axes[0, column].plot(rows, [case["both_ms"] for case in cases], **style)
            axes[1, column].plot(rows, [max(case["both_mib"], 0.1) for case in cases], **style)
        floors: dict[int, list[float]] = {}
        for case in measured:
            if case["dim"] == dim:
                floors.setdefault(case["num_rows"], []).append(case["floor_both_ms"])
        rows = sorted(floors)
        axes[0, column].plot(
            rows, [min(floors[size]) for size in rows], color=colors.ink, linestyle=":", label="three matrix products"
        )
        axes[0, column].set_title(f"{dim} dimensions", loc="left", fontsize=10, color=colors.ink)
        axes[1, column].set_xlabel("rows in the batch")
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.minorticks_off()
        lighten(axis, colors)
    axes[0, 0].set_ylabel("forward + backward, ms")
    axes[1, 0].set_ylabel("extra peak memory, MiB")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=colors.ink
    )
    title = f"{record['machine']}, {record['dtype']}, torch {record['versions']['torch']}"
    figure.suptitle(title, fontsize=10, color=colors.muted)
    save(figure, path)
    return path


def main() -> None:
    """Read a record; print its table and what its tasks mean, draw its figures."""
    path = Path(sys.argv[1])
    record = json.loads(path.read_text(encoding="utf-8"))
    print(table(record))
    print("\n".join(f"{task}: {meaning}" for task, meaning in TASKS.items()))
    print(draw(record, path.with_suffix(".png")))
    print(draw(record, path.with_name(f"{path.stem}-dark.png"), theme="dark"))


if __name__ == "__main__":
    main()
