"""What the contrastive loss adds to a whole training step: BERT-base, two dropout views, AdamW, bfloat16 autocast.

python -m benchmarks.loss.step                     # 128 texts of 128 tokens, on a GPU
python -m benchmarks.loss.step --device cpu --texts 4 --tokens 16 --repeats 3

Both steps go through `TrainerObjective` on one model of random weights; one without its contrastive part. They take
turns, so that a change of the machine's speed affects both. Writes a JSON record with device, versions and commit.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.loss.measure import timed
from benchmarks.machine import current_commit, versions_of
from labeldist import LabelDistanceContrastiveLoss, StaticLDM
from labeldist.integrations.transformers import TrainerObjective
from labeldist.training.machine import describe_machine

RESULTS = Path(__file__).parent.parent / "results" / "loss"
PACKAGES = ("torch", "triton", "transformers")
NUM_CLASSES, TEMPERATURE = 50, 0.1


def main() -> None:
    """Read the command line, measure, write."""
    options = _options()
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=NUM_CLASSES)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    # What a Trainer passes for a batch.
    batch = {
        "input_ids": torch.randint(1000, 30000, (options.texts, options.tokens), device=device),
        "attention_mask": torch.ones(options.texts, options.tokens, dtype=torch.long, device=device),
    }
    labels = torch.randint(NUM_CLASSES, (options.texts,), device=device)
    confusable = torch.triu(torch.rand(NUM_CLASSES, NUM_CLASSES) > 0.9, diagonal=1).float()
    ldm = StaticLDM(1 + 4 * (confusable + confusable.T))
    losses: dict[str, nn.Module | None] = {
        "cross-entropy": None,
        "label distance": LabelDistanceContrastiveLoss(ldm, temperature=TEMPERATURE, validate=False).to(device),
    }
    samples: dict[str, list[float]] = {name: [] for name in losses}
    for repeat in range(options.warmup + options.repeats):
        for name, contrastive in losses.items():
            objective = TrainerObjective(contrastive, model)
            step = _step(model, objective, optimizer, batch, labels)
            step()  # the pass after a change of objective is not like those of a training
            time_ms = timed(step, device)
            objective.detach()
            if repeat >= options.warmup:
                samples[name].append(time_ms)
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "device": options.device,
        "versions": versions_of("torch", "transformers"),
        "commit": options.commit or current_commit(),
        "texts": options.texts,
        "views": 2,
        "tokens": options.tokens,
        "num_samples": options.repeats,
    }
    for name, values in samples.items():
        ordered = sorted(values)
        record[name] = {
            "median_ms": statistics.median(ordered),
            "ms_20": ordered[int(0.2 * (len(ordered) - 1))],
            "ms_80": ordered[round(0.8 * (len(ordered) - 1))],
        }
    record["ratio"] = record["label distance"]["median_ms"] / record["cross-entropy"]["median_ms"]
    # Turn by turn: what drifts over the run drops out.
    ratios = [own / base for own, base in zip(samples["label distance"], samples["cross-entropy"], strict=True)]
    record["median_of_ratios"] = statistics.median(ratios)
    print(json.dumps(record, indent=1))
    path = options.output or RESULTS / f"step-{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _step(
    model: nn.Module,
    objective: TrainerObjective,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    labels: Tensor,
) -> Callable[[], None]:
    device_type = labels.device.type

    def step() -> None:
        with torch.autocast(device_type, torch.bfloat16):
            outputs = model(**batch)
            loss = objective(outputs, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=40, help="timed steps of each kind")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="the JSON file; default: benchmarks/results/loss/step-DEVICE.json")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


if __name__ == "__main__":
    main()
