"""Limits of the fused kernels, in a module that does not import triton."""

import torch

__all__ = ["MAX_CLASSES", "ROW_DTYPES"]

# The kernels index class pairs with 32-bit integers.
MAX_CLASSES = 32767
ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
