"""What the kernels take, for those who ask without loading triton."""

import torch

__all__ = ["MAX_CLASSES", "ROW_DTYPES"]

# Class pairs have 32-bit indices.
MAX_CLASSES = 32767
ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
