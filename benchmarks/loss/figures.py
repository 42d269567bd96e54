"""The tables and the figure of a record of `benchmarks.loss`.

python -m benchmarks.loss.figures benchmarks/results/loss/cpu-float32.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.loss.methods import TASKS

COLOURS = {
    "eager": "#888888",
    "eager, torch.compile": "#ff7f0e",
    "blockwise": "#1f77b4",
    "triton": "#d62728",
    "auto": "#2ca02c",
}
MARKERS = {"same": "o", "unweighted": "s", "one positive": "^", "cross-entropy": "v", "forward": "x"}


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
        name = case["method"] if case["task"] == "same" else f"{case['method']} ({case['task']})"
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


def summary(record: dict[str, Any], method: str) -> str:
    """Markdown: forward+backward by one method, and the others' time and memory as multiples of its."""
    measured = [case for case in record["cases"] if "both_ms" in case]
    sizes = {(case["dim"], case["num_rows"]): case for case in measured if case["method"] == method}
    others = {case["method"]: case["task"] for case in measured if case["method"] not in (method, "auto")}
    by_key = {(case["dim"], case["num_rows"], case["method"]): case for case in measured}
    titles = [name if task == "same" else f"{name} ({task})" for name, task in others.items()]
    lines = [
        f"| rows x dim | ms | / floor | as a CUDA graph, ms | MiB | gradient error, eager's | {' | '.join(titles)} |",
        "|--:|--:|--:|--:|--:|--:|" + "--:|" * len(others),
    ]
    for (dim, num_rows), case in sorted(sizes.items()):
        cells = [
            f"{num_rows:,} x {dim}",
            f"{case['both_ms']:.2f}",
            f"{case['both_ms'] / case['floor_both_ms']:.2f}",
            f"{case['graph_ms']:.3f}" if "graph_ms" in case else "",
            f"{case['both_mib']:.1f}",
            f"{case['gradient_error']:.1e}, {case['eager_gradient_error']:.1e}",
        ]
        for name in others:
            other = by_key.get((dim, num_rows, name))
            time_and_memory = other and (other["both_ms"] / case["both_ms"], other["both_mib"] / case["both_mib"])
            cells.append("{:.1f}, {:.2g}".format(*time_and_memory) if time_and_memory else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(record: dict[str, Any], path: Path) -> Path:
    """Time and memory of forward+backward against `B`, a column for each `D`; log axes."""
    measured = [case for case in record["cases"] if "both_ms" in case]
    dims = sorted({case["dim"] for case in measured})
    names = list(dict.fromkeys(case["method"] for case in measured))
    figure, axes = plt.subplots(
        2, len(dims), figsize=(4.2 * len(dims) + 2, 7), sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    others = iter(plt.get_cmap("tab10").colors[4:])  # type: ignore[attr-defined]
    colours = {name: COLOURS.get(name) or next(others) for name in names}
    for column, dim in enumerate(dims):
        for name in names:
            cases = [case for case in measured if case["dim"] == dim and case["method"] == name]
            rows = [case["num_rows"] for case in cases]
            task = cases[0]["task"] if cases else "same"
            label = name if task == "same" else f"{name} ({task})"
            style = {"color": colours[name], "marker": MARKERS[task], "markersize": 4, "linewidth": 1.3, "label": label}
            style["linestyle"] = "-" if task == "same" else "--"
            axes[0, column].plot(rows, [case["both_ms"] for case in cases], **style)
            axes[1, column].plot(rows, [max(case["both_mib"], 0.1) for case in cases], **style)
        floors: dict[int, list[float]] = {}
        for case in measured:
            if case["dim"] == dim:
                floors.setdefault(case["num_rows"], []).append(case["floor_both_ms"])
        rows = sorted(floors)
        axes[0, column].plot(
            rows, [min(floors[size]) for size in rows], color="black", linestyle=":", label="three matrix products"
        )
        axes[0, column].set_title(f"D = {dim}")
        axes[1, column].set_xlabel("rows in the batch, B")
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.grid(alpha=0.25)
    axes[0, 0].set_ylabel("forward + backward, ms")
    axes[1, 0].set_ylabel("extra peak memory, MiB")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(f"{record['machine']}, {record['dtype']}, torch {record['versions']['torch']}")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def main() -> None:
    """Read a record; print its table and what its tasks mean, draw its figure."""
    path = Path(sys.argv[1])
    record = json.loads(path.read_text(encoding="utf-8"))
    print(table(record))
    print("\n".join(f"{task}: {meaning}" for task, meaning in TASKS.items()))
    print(draw(record, path.with_suffix(".png")))


if __name__ == "__main__":
    main()
