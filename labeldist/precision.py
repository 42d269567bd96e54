"""The precision of the library's computations."""

import torch
from torch import Tensor

__all__ = ["at_least_float32"]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return other dtypes unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
