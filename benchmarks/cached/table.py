"""The table of a record of `benchmarks.cached`.

python -m benchmarks.cached.table benchmarks/results/cached/cpu.json
"""

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results" / "cached"


def load(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def settings(record: dict[str, Any]) -> str:
    """One sentence: what was measured, and where."""
    arithmetic = "bfloat16 autocast" if record["is_mixed"] else "float32"
    threads = "one thread" if record["threads"] == 1 else f"{record['threads']} threads"
    where = "" if record["device"] == "cuda" else f", {threads}"
    time = "" if record["device"] == "cuda" else " Times are CPU seconds."
    return (
        f"One training step of an encoder with MiniLM's shape on texts of {record['tokens']} tokens, in chunks of "
        f"{record['chunk_size']} rows: {arithmetic}{where}, {record['machine']}, torch {record['versions']['torch']}. "
        f"The memory is that of the step, without weights and gradients.{time}"
    )


def table(record: dict[str, Any]) -> str:
    """Markdown: memory and time of both ways, a line for each size of batch."""
    lines = [
        "| rows | plain MiB | cached MiB | plain s | cached s | cached / plain |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    seconds = "step_s" if record["device"] == "cuda" else "processor_s"
    for num_rows in dict.fromkeys(case["num_rows"] for case in record["cases"]):
        ways = {case["way"]: case for case in record["cases"] if case["num_rows"] == num_rows}
        memory = [_number(ways.get(way), "peak_mib", ".0f") for way in ("plain", "cached")]
        times = [_number(ways.get(way), seconds, ".2f") for way in ("plain", "cached")]
        has_both = all(seconds in ways.get(way, {}) for way in ("plain", "cached"))
        ratio = f"{ways['cached'][seconds] / ways['plain'][seconds]:.2f}" if has_both else ""
        lines.append(f"| {' | '.join([str(num_rows), *memory, *times, ratio])} |")
    return "\n".join(lines)


def _number(case: dict[str, Any] | None, name: str, form: str) -> str:
    if case is None:
        return ""
    return case["skipped"] if "skipped" in case else format(case[name], form)


def main() -> None:
    """Read a record; print its table."""
    record = load(Path(sys.argv[1]))
    print(f"{settings(record)}\n\n{table(record)}")


if __name__ == "__main__":
    main()
