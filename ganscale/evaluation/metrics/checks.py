"""What every metric asks of its input, with messages that name what is wrong."""

import torch
from torch import Tensor


def check_features(name: str, features: Tensor, *, at_least: int = 1, reason: str = "") -> None:
    """Refuse what is not a finite floating-point matrix `[N, D]` with `at_least` rows.

    Args:
        name: of the features, for the message.
        features: what to check.
        at_least: smallest number of rows.
        reason: why so many rows are needed, for the message.

    Raises:
        ValueError: wrong shape or type, too few rows, or numbers that are not finite (the message has their number).
    """
    if features.dim() != 2:
        raise ValueError(f"{name} must have the shape [N, D], not {list(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{name} must be floating-point numbers, not {features.dtype}")
    if features.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {list(features.shape)}")
    if len(features) < at_least:
        raise ValueError(f"{name} has {len(features)} rows, but {reason or 'this metric'} needs at least {at_least}")
    check_finite(name, features)


def check_finite(name: str, values: Tensor) -> None:
    """Refuse numbers that are not finite.

    Args:
        name: of the values, for the message.
        values: any shape.

    Raises:
        ValueError: there are such numbers; the message has their number and that of the rows.
    """
    wrong = ~torch.isfinite(values)
    if wrong.any():
        rows = int(wrong.flatten(1).any(1).sum()) if values.dim() > 1 else int(wrong.sum())
        raise ValueError(f"{name} has {int(wrong.sum())} numbers that are not finite, in {rows} of {len(values)} rows")


def check_pair(real: Tensor, fake: Tensor, *, at_least: int = 1, reason: str = "") -> None:
    """Refuse features of real and fake samples that cannot be compared: `[N, D]` and `[M, D]` are wanted.

    Args:
        real: features of real examples, `[N, D]`.
        fake: features of samples, `[M, D]`.
        at_least: rows that each must have.
        reason: why so many rows are needed, for the message.

    Raises:
        ValueError: either is not as `check_features` wants it, or they differ in D or in device.
    """
    check_features("real features", real, at_least=at_least, reason=reason)
    check_features("fake features", fake, at_least=at_least, reason=reason)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real features have {real.shape[1]} dimensions and fake features {fake.shape[1]}")
    if real.device != fake.device:
        raise ValueError(f"real features are on {real.device} and fake features on {fake.device}")


def check_probabilities(name: str, probabilities: Tensor, *, tolerance: float = 1e-3) -> None:
    """Refuse what are not probabilities along the last dimension: finite, not negative, with sum 1 up to `tolerance`.

    Args:
        name: for the message.
        probabilities: `[..., K]`.
        tolerance: largest deviation of a sum from 1.

    Raises:
        ValueError: they are not.
    """
    check_finite(name, probabilities)
    if bool((probabilities < 0).any()):
        raise ValueError(f"{name} must not be negative; the smallest is {float(probabilities.min()):g}")
    off = (probabilities.sum(-1, dtype=torch.float64) - 1.0).abs().max()
    if off > tolerance:
        raise ValueError(f"{name} must add up to 1; they are off by up to {float(off):g} (are they logits?)")
