"""The one place that seeds global random states: two runs with one seed on one machine are identical."""

import torch
from transformers import set_seed


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, and ask PyTorch for deterministic algorithms where it has them."""
    set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
