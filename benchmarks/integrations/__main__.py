"""Whether the same training reaches the same accuracy through each integration.

python -m benchmarks.integrations --data FOLDER                  # 1600 training rows, 3 epochs, five seeds
python -m benchmarks.integrations --data demo --rows 200 --seeds 0

The pretrained MiniLM with a linear head, cross-entropy and label-distance contrast with an adaptive matrix; test
accuracy of the head. A seed is one draw of rows and one set of initial weights for all three; each trainer shuffles the
rows in its own way. Writes a JSON record with machine, versions and commit.
"""

import argparse
import json
import logging
import platform
import sys
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from benchmarks.integrations.table import RESULTS, settings, table
from benchmarks.integrations.ways import TEMPERATURE, VIEWS, WAYS, Setup
from benchmarks.machine import current_commit
from labeldist import AdaptiveLDM
from labeldist.training.data.corpus import Corpus, Split, load_corpus
from labeldist.training.machine import describe_machine

PACKAGES = ("torch", "transformers", "lightning", "sentence-transformers", "pytorch-metric-learning")


def main() -> None:
    """Read the command line, train, write."""
    options = _options()
    _be_quiet()
    corpus = load_corpus([options.data])
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": options.commit or current_commit(),
        "corpus": Path(options.data).name,
        "num_train": min(options.rows, len(corpus.train)),
        "num_validation": min(options.rows // 2, len(corpus.validation)),
        "num_test": len(corpus.test),
        "epochs": options.epochs,
        "views": VIEWS,
        "temperature": TEMPERATURE,
        "runs": [],
    }
    path = options.output or RESULTS / f"minilm-{record['corpus']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        setup = Setup(_fewer(corpus, options.rows, seed), seed, epochs=options.epochs)
        for name in options.ways:
            # The same start for each: weights of the head, order of the rows, dropout.
            set_seed(seed)
            start = time.perf_counter()
            scores, ldm = WAYS[name](setup)
            assert isinstance(ldm, AdaptiveLDM)
            run = {
                "way": name,
                "seed": seed,
                "accuracy": float(np.mean(scores.argmax(dim=1).numpy() == corpus.test.labels)),
                "seconds": round(time.perf_counter() - start, 1),
                "num_ldm_updates": len(ldm.history),
                "ldm_mean": ldm.mean_off_diagonal,
            }
            record |= {"batch_size": setup.batch_size, "lr": setup.lr}
            record["runs"].append(run)
            print(f"seed {seed} {name:22s} {100 * run['accuracy']:5.1f} %  {run['seconds']:6.1f} s", flush=True)
            # After each run: what is stopped keeps what it has measured.
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{settings(record)}\n\n{table(record)}\n\nwritten: {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a corpus's folder, or demo")
    parser.add_argument("--rows", type=int, default=1600, help="of the training set")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--output", type=Path, help="the JSON file; default: benchmarks/results/integrations/...")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


def _fewer(corpus: Corpus, num_rows: int, seed: int) -> Corpus:
    """The corpus with fewer rows to train on, and as many less to validate on."""
    generator = np.random.default_rng(seed)

    def drawn(split: Split, number: int) -> Split:
        rows = np.sort(generator.permutation(len(split))[:number])
        return Split([split.texts[row] for row in rows], split.labels[rows])

    return replace(corpus, train=drawn(corpus.train, num_rows), validation=drawn(corpus.validation, num_rows // 2))


def _be_quiet() -> None:
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Made when it is imported, with a level of its own.
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
