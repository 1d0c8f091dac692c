"""Peak FLOP/s of known GPUs, for model FLOP utilization (Chowdhery et al. 2022, appendix B)."""

import torch

PEAKS: dict[str, tuple[float, float]] = {
    # NVIDIA's data sheets: TFLOP/s without sparsity, in bfloat16 on tensor cores and in float32 outside of them.
    "B200": (2250.0, 75.0),  # HGX B200, 2024
    "H200 NVL": (835.5, 60.0),  # H200 NVL, 2024
    "H200": (989.4, 66.9),  # H200 (SXM), 2024
    "H100 NVL": (835.0, 60.0),  # H100 NVL: half of the sheet's figures with sparsity
    "H100 PCIe": (756.0, 51.2),  # H100 PCIe, 2022
    "H100": (989.4, 66.9),  # H100 SXM5, 2022
    "A100": (312.0, 19.5),  # A100 (all forms), 2020
    "A10G": (70.0, 35.0),  # A10G, 2021
    "A10": (125.0, 31.2),  # A10, 2021
    "L40S": (362.0, 91.6),  # L40S, 2023
    "L40": (181.0, 90.5),  # L40, 2022
    "L4": (121.0, 30.3),  # L4, 2023
    "V100": (0.0, 15.7),  # V100 SXM2, 2017: no bfloat16
    "T4": (0.0, 8.1),  # T4, 2018: no bfloat16
}
"""By a part of torch's device name; the first match counts."""


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak FLOP/s of a GPU in a precision; None if unknown.

    Args:
        device: of the run; CPUs are unknown.
        precision: `train.precision`. The float32 figure is without tensor cores; TF32 convolutions may exceed it.
    """
    if device.type != "cuda" or precision not in ("bfloat16", "float32"):
        return None
    return peak_of(torch.cuda.get_device_name(device), precision)


def peak_of(name: str, precision: str) -> float | None:
    """As `peak_flops`, by name.

    Args:
        name: torch's name of the device.
        precision: "bfloat16" or "float32".
    """
    for part, (bfloat16, float32) in PEAKS.items():
        if part in name:
            return 1e12 * (bfloat16 if precision == "bfloat16" else float32) or None
    return None
