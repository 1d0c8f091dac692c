"""Where bfloat16 is too coarse."""

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """bfloat16 and float16 as float32, for statistics, sums and logits; other types as they are.

    Args:
        x: any tensor.
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
