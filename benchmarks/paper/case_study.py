"""What an adaptive matrix did on 20NG with one seed: the paper's Figure 2, and pairs of classes it repaired and broke.

python -m benchmarks.paper.case_study      # picks the texts, from the records and the corpus in $LABELDIST_DATA

The records of `benchmarks.paper` keep the matrix and the mistakes of the first seed. Of the two objectives compared
here, one seed says nothing about which is better: the study shows texts.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cells import DATA, read_rows
from benchmarks.paper.report import RESULTS, Results
from benchmarks.paper.runs import CASE_STUDY
from labeldist.training.output.pictures import plot_ldm

__all__ = ["STUDY", "matrix_figure", "pair_changes", "study_section"]

STUDY = RESULTS.parent / "paper-case-study" / "20ng.json"
BEFORE, AFTER = "contrastive", "adaptive"
NUM_PAIRS, NUM_TEXTS, MAX_LETTERS = 3, 2, 140

Run = dict[str, Any]
Mistakes = Sequence[tuple[int, int]]
"""Row and predicted class of each wrong test row, as indices."""


def _run(results: Results, encoder: str, objective: str) -> Run | None:
    corpus, seed = CASE_STUDY
    wanted = {"corpus": corpus, "seed": seed, "setting": "paper", "objective": objective}
    return next((run for run in results.runs(encoder) if wanted.items() <= run.items()), None)


def matrix_figure(results: Results) -> str:
    """The learned matrix as a heat map in SVG, for the first encoder that has one; empty without any."""
    for encoder in results.encoders:
        run = _run(results, encoder, AFTER)
        if run and "matrix" in run:
            names = run["class_names"]
            title = f"Label distances learned on 20NG, {encoder}"
            with TemporaryDirectory() as folder:
                path = Path(folder) / "matrix.svg"
                plot_ldm(run["matrix"], names, path, title, order=range(len(names)), groups=_groups(names))
                svg = path.read_text(encoding="utf-8")
            return f'<figure role="img" aria-label="{escape(title)}">{svg[svg.index("<svg") :]}</figure>'
    return ""


def _groups(names: Sequence[str]) -> list[list[int]]:
    """Neighboring classes with the same first part of their names."""
    by_first_part = groupby(range(len(names)), lambda place: names[place].partition(".")[0])
    groups = [list(members) for _, members in by_first_part]
    return [members for members in groups if len(members) > 1]


def pair_changes(labels: Sequence[int], before: Mistakes, after: Mistakes) -> list[tuple[tuple[int, int], int, int]]:
    """Confusions of each pair of classes before and after: the largest decrease first, the largest increase last.

    Examples:
        >>> pair_changes([0, 0, 1, 2], before=[(0, 1), (2, 0), (3, 0)], after=[(2, 0), (1, 2)])
        [((0, 1), 2, 1), ((0, 2), 1, 1)]
    """
    counts = [
        Counter((min(labels[row], predicted), max(labels[row], predicted)) for row, predicted in found)
        for found in (before, after)
    ]
    pairs = sorted(counts[0].keys() | counts[1].keys())
    return sorted(((pair, counts[0][pair], counts[1][pair]) for pair in pairs), key=lambda one: one[2] - one[1])


def study_of(encoder: str, names: Sequence[str], rows: Sequence[Mapping[str, str]], runs: Mapping[str, Run]) -> Run:
    """The pairs with the largest changes, each with a few texts.

    Args:
        encoder: of the runs.
        names: of the classes.
        rows: the test rows, with text and label.
        runs: before and after, by objective.
    """
    index = {name: place for place, name in enumerate(names)}
    labels = [index[row["label"]] for row in rows]
    mistakes = {name: dict(map(tuple, run["mistakes"])) for name, run in runs.items()}
    changes = pair_changes(labels, *(list(mistakes[name].items()) for name in (BEFORE, AFTER)))
    chosen = [one for one in changes[:NUM_PAIRS] if one[2] < one[1]]
    chosen += [one for one in changes[: -NUM_PAIRS - 1 : -1] if one[2] > one[1]]
    pairs = []
    for pair, num_before, num_after in chosen:
        wrong, right = (BEFORE, AFTER) if num_after < num_before else (AFTER, BEFORE)
        changed = [
            {"text": _shortened(rows[row]["text"]), "class": rows[row]["label"], "taken_for": names[predicted]}
            for row, predicted in mistakes[wrong].items()
            if {labels[row], predicted} == set(pair) and row not in mistakes[right]
        ]
        of_pair = [row for row, label in enumerate(labels) if label in pair]
        pairs.append(
            {
                "classes": [names[place] for place in pair],
                BEFORE: num_before,
                AFTER: num_after,
                **{f"right_{name}": sum(row not in mistakes[name] for row in of_pair) for name in (BEFORE, AFTER)},
                "texts": changed[:NUM_TEXTS],
            }
        )
    return {"encoder": encoder, "accuracy": {name: run["accuracy"] for name, run in runs.items()}, "pairs": pairs}


def _shortened(text: str) -> str:
    words = re.sub(r"\s+", " ", text).strip()
    return words if len(words) <= MAX_LETTERS else words[:MAX_LETTERS].rsplit(" ", 1)[0] + " …"


def _as_written(text: str) -> str:
    """HTML of a text, in which nothing is Markdown or an equation.

    Examples:
        >>> _as_written("a *b* < $c$")
        'a &#42;b&#42; &lt; &#36;c&#36;'
    """
    return re.sub(r"[\\`*_\[\](){}|$~<>\"]", lambda sign: f"&#{ord(sign[0])};", escape(text, quote=False))


def study_section() -> str:
    """Markdown: the recorded study; without one, the commands that make it."""
    if not STUDY.exists():
        return "Not run yet: `python -m benchmarks.paper --table III`, then `python -m benchmarks.paper.case_study`."
    study = json.loads(STUDY.read_text(encoding="utf-8"))
    lines = [
        f"These are the pairs of classes whose confusions changed most from `{BEFORE}` to `{AFTER}`. One seed cannot "
        "say which is better: the table shows what such texts look like.",
        "",
        f"| pair of classes | confused rows, {BEFORE} → {AFTER} | right rows | a text that changed |",
        "|---|--:|--:|---|",
    ]
    for pair in study["pairs"]:
        texts = "<br>".join(
            f"“{_as_written(one['text'])}” ({one['class']}, taken for {one['taken_for']})" for one in pair["texts"]
        )
        lines.append(
            f"| {' / '.join(pair['classes'])} | {pair[BEFORE]} → {pair[AFTER]} | "
            f"{pair[f'right_{BEFORE}']} → {pair[f'right_{AFTER}']} | {texts} |"
        )
    accuracy = ", ".join(f"{name} {100 * value:.1f} %" for name, value in study["accuracy"].items())
    return "\n".join([*lines, "", f"{study['encoder']}, one seed: {accuracy}."])


def main() -> None:
    """Write the study of the first encoder that has both runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--output", type=Path, default=STUDY)
    options = parser.parse_args()
    results = Results(options.records)
    for encoder in results.encoders:
        runs = {name: run for name in (BEFORE, AFTER) if (run := _run(results, encoder, name))}
        if len(runs) == 2:
            rows = read_rows(DATA / CASE_STUDY[0] / "test.jsonl.gz")
            study = study_of(encoder, runs[AFTER]["class_names"], rows, runs)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(study, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"written: {options.output}")
            return
    parser.error(
        f"{options.records} has no encoder with {BEFORE} and {AFTER} on {CASE_STUDY[0]}, seed {CASE_STUDY[1]}."
    )


if __name__ == "__main__":
    main()
