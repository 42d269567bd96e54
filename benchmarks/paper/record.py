"""Record a finished comparison as a result of this repository.

python -m benchmarks.paper.record runs/compare-trec-textcnn textcnn-trec --note "..."
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import current_commit
from labeldist.training.records import read_record, record_to_json
from labeldist.training.study.compare import COMPARISON
from labeldist.training.study.results import Comparison

RESULTS = Path(__file__).parent.parent / "results"


def record(folder: Path, name: str, *, note: str = "", commit: str | None = None) -> Path:
    """Write `benchmarks/results/NAME.json` from a comparison's folder.

    Args:
        folder: of a finished `labeldist compare`.
        name: of the result.
        note: what a reader must know beside the settings.
        commit: that the comparison ran at; the current one if `None`.

    Returns:
        The file written.
    """
    result = record_of(folder, note=note, commit=current_commit() if commit is None else commit)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def record_of(folder: Path, *, note: str, commit: str) -> dict[str, Any]:
    """What is recorded of a finished comparison; arguments as in `record`."""
    comparison = read_record(folder / COMPARISON, Comparison)
    assert comparison.provenance is not None
    # Where the corpus stands on one machine is nobody's business.
    settings = comparison.provenance.settings
    data = {**settings["data"], "data": [f"corpora/{Path(part).name}" for part in settings["data"]["data"]]}
    for name in ("label_texts", "costs"):
        if isinstance(given := data.get(name), str) and not given.lstrip().startswith("{"):
            data[name] = Path(given).name
    matrix = settings["matrix"]
    if isinstance(given := matrix.get("matrix_file"), str):
        matrix = {**matrix, "matrix_file": Path(given).name}
    provenance = replace(comparison.provenance, settings={**settings, "data": data, "matrix": matrix})
    return {
        "commit": commit,
        "note": note,
        "comparison": record_to_json(replace(comparison, provenance=provenance)),
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--note", default="")
    parser.add_argument("--commit")
    options = parser.parse_args()
    print(record(options.folder, options.name, note=options.note, commit=options.commit))


if __name__ == "__main__":
    main()
