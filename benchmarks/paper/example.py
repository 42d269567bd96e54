"""The paper's Table I, on the Chinese sentences of the built-in grammar: a demonstration, not evidence.

python -m benchmarks.paper.example      # 30 trainings of TextCNN

Table I shows three sentences on one topic with almost the same characters, two of which BERT got wrong. The grammar of
`labeldist.demo` makes such sentences. Here TextCNN is trained on its Chinese rows, without these three, by each
objective and from several seeds, and asked for their classes. Three sentences prove nothing: the record also has the
accuracy on all Chinese test rows.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import labeldist
from benchmarks.machine import current_commit, versions_of
from benchmarks.paper.protocol import OBJECTIVES
from labeldist.demo import Message, generate
from labeldist.reports.words import count
from labeldist.training.machine import describe_machine

RESULT = Path(__file__).parent.parent / "results" / "paper-example" / "textcnn.json"
SENTENCES = {
    "发货非常快": ("delivery_praise", "delivery_praise"),
    "发货不慢": ("delivery_praise", "delivery_complaint"),
    "发货到底快不快": ("delivery_question", "delivery_complaint"),
}
"""Each sentence of Table I with its class and the paper's prediction by BERT, in the grammar's names of the classes."""
NUM_ROWS, NUM_TEST = 5000, 500
SETTINGS: dict[str, Any] = {"encoder": "textcnn", "epochs": 15, "batch_size": 64, "embedding_dim": 200}


def rows() -> tuple[list[Message], list[Message]]:
    """The grammar's Chinese rows, for training and for testing; no training row is a sentence of Table I."""
    messages = [message for message in generate(NUM_ROWS, seed=0) if message.language == "zh"]
    test = messages[-NUM_TEST:]
    asked = {_letters(sentence) for sentence in SENTENCES}
    train = [message for message in messages[:-NUM_TEST] if _letters(message.sentence) not in asked]
    return train, test


def _letters(sentence: str) -> str:
    return "".join(filter(str.isalnum, sentence))


def main() -> None:
    """Train, ask and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    train, test = rows()
    texts, labels = ([message.text for message in train], [message.label for message in train])
    held_out = ([message.text for message in test], [message.label for message in test])
    runs = []
    for objective in OBJECTIVES:
        for seed in options.seeds:
            run = labeldist.train(
                texts, labels, test=held_out, objective=objective, seed=seed, progress=False, **SETTINGS
            )
            predicted = [one["label"] for one in run.predict(list(SENTENCES))]
            runs.append(
                {"objective": objective, "seed": seed, "accuracy": round(run.accuracy, 4), "predicted": predicted}
            )
            print(json.dumps(runs[-1], ensure_ascii=False), flush=True)
    record = {
        "machine": describe_machine(),
        "versions": versions_of("torch", "transformers"),
        "commit": current_commit(),
        "command": "python -m benchmarks.paper.example",
        "settings": SETTINGS,
        "num_train_rows": len(train),
        "num_test_rows": len(test),
        "sentences": list(SENTENCES),
        "runs": runs,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """Markdown: how many seeds got each sentence right, and the accuracy on all Chinese test rows.

    Args:
        record: as `main` writes it.
    """
    objectives = list(dict.fromkeys(run["objective"] for run in record["runs"]))
    lines = [
        f"| | class | the paper's BERT | {' | '.join(f'`{name}`' for name in objectives)} |",
        f"|---|---|---|{'--:|' * len(objectives)}",
    ]
    for place, sentence in enumerate(record["sentences"]):
        label, by_bert = SENTENCES[sentence]
        cells = [_answers(record, name, place, label) for name in objectives]
        lines.append(f"| {sentence} | {_act(label)} | {_act(by_bert)} | {' | '.join(cells)} |")
    accuracies = [mean(run["accuracy"] for run in record["runs"] if run["objective"] == name) for name in objectives]
    shown = " | ".join(f"{100 * value:.1f} %" for value in accuracies)
    lines.append(f"| all {record['num_test_rows']} Chinese test rows | | | {shown} |")
    return "\n".join(lines)


def recorded() -> str:
    """Markdown: the table of the committed record, and how it was made."""
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    seeds = count(len({run["seed"] for run in record["runs"]}), "seed")
    facts = (
        f"{record['num_train_rows']:,} training rows, {seeds}. {record['machine']}, torch "
        f"{record['versions']['torch']}, commit {record['commit']}; `{record['command']}`."
    )
    return f"{table(record)}\n\n{facts}"


def _answers(record: dict[str, Any], objective: str, place: int, label: str) -> str:
    found = Counter(run["predicted"][place] for run in record["runs"] if run["objective"] == objective)
    wrong = [f"{number} × {_act(name)}" for name, number in found.most_common() if name != label]
    return ", ".join([f"{found[label]} of {found.total()} right", *wrong])


def _act(name: str) -> str:
    """`delivery_praise` without its topic, which all three sentences share; another topic in full."""
    return name.removeprefix("delivery_")


if __name__ == "__main__":
    main()
