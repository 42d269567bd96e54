"""One case: seconds and memory of training steps, plain or with cached gradients.

python -m benchmarks.cached.measure cached 1024    # prints one JSON object
"""

import argparse
import ctypes
import json
import resource
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from labeldist import LabelDistanceContrastiveLoss, StaticLDM
from labeldist.cached import CachedGradients

NUM_CLASSES = 50
# Plain and cached gradients differ by the order of sums alone.
LARGEST_ERROR = 1e-9
# Devices whose step runs under autocast to bfloat16.
MIXED = ("cuda",)


def minilm(num_layers: int = 6) -> nn.Module:
    """An encoder of the shape of all-MiniLM-L6-v2."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=num_layers, num_attention_heads=12, intermediate_size=1536)
    return BertModel(config, add_pooling_layer=False)


def encode(model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean of the token vectors."""
    return model(input_ids=tokens).last_hidden_state.mean(dim=1)


def batch(num_rows: int, num_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random tokens and classes."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 30000, (num_rows, num_tokens), generator=generator)
    return tokens.to(device), (torch.arange(num_rows) % NUM_CLASSES).to(device)


def contrastive() -> LabelDistanceContrastiveLoss:
    """The loss whose step is measured."""
    return LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=NUM_CLASSES), temperature=0.1)


def gate() -> float:
    """Largest relative error of a parameter's cached gradient, float64 and without dropout; raises where it is none."""
    model = minilm(num_layers=2).double().eval()
    tokens, labels = batch(150, 8, torch.device("cpu"))
    contrastive()(encode(model, tokens), labels).backward()
    exact = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    contrastive()(CachedGradients(model, chunk_size=32, encode=encode)(tokens), labels).backward()
    # The key's bias has a gradient of zero: the softmax does not see it. Errors are relative to the whole.
    whole = torch.cat([gradient.flatten() for gradient in exact if gradient is not None]).norm()
    error = max(
        float((parameter.grad - gradient).norm() / whole)
        for parameter, gradient in zip(model.parameters(), exact, strict=True)
        if parameter.grad is not None and gradient is not None
    )
    if not error < LARGEST_ERROR:
        raise RuntimeError(f"Cached gradients must be those of the plain pass, got a relative error of {error:.1e}.")
    return error


def measure(
    way: str, num_rows: int, *, num_tokens: int, chunk_size: int, num_steps: int, device: torch.device
) -> dict[str, Any]:
    """Time and weigh steps of one way.

    Args:
        way: `"plain"` or `"cached"`.
        num_rows: `B`.
        num_tokens: of each text.
        chunk_size: of cached gradients.
        num_steps: that are timed, after one of 16 rows that is not.
        device: where.

    Returns:
        Median seconds of a step; the processor's own, which do not count what else the machine does; and the peak
        memory of all steps beside what was held before them, in MiB. The gradients, as large as the parameters, are
        held before.
    """
    model = minilm().to(device).train()
    loss = contrastive().to(device)
    encoder = CachedGradients(model, chunk_size=chunk_size, encode=encode)

    def step(tokens: Tensor, labels: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16) if device.type in MIXED else nullcontext():
            embeddings = encoder(tokens) if way == "cached" else encode(model, tokens)
            value = loss(embeddings, labels)
        value.backward()

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    # Makes the gradients and starts threads, which takes memory once.
    step(*batch(16, num_tokens, device))
    tokens, labels = batch(num_rows, num_tokens, device)
    before = _start(device)
    seconds, processor_seconds = [], []
    for _ in range(num_steps):
        start, processor_start = time.perf_counter(), time.process_time()
        step(tokens, labels)
        synchronise()
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(time.process_time() - processor_start)
    return {
        "way": way,
        "num_rows": num_rows,
        "step_s": statistics.median(seconds),
        "step_s_range": [min(seconds), max(seconds)],
        "processor_s": statistics.median(processor_seconds),
        "peak_mib": _peak_mib(device) - before,
        "before_mib": before,
    }


def _start(device: torch.device) -> float:
    """Memory held before the steps, MiB."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    # Give back to the system what was freed, or it would be taken again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _peak_mib(device: torch.device) -> float:
    """Largest memory held, of the process's whole life on a CPU, MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("plain", "cached"))
    parser.add_argument("num_rows", type=int)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--chunk-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numbers = measure(
        options.way,
        options.num_rows,
        num_tokens=options.tokens,
        chunk_size=options.chunk_size,
        num_steps=options.steps,
        device=torch.device(options.device),
    )
    json.dump(numbers, sys.stdout)


if __name__ == "__main__":
    main()
