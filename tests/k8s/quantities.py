"""Kubernetes' quantities as numbers."""

_UNITS = {"m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def amount(quantity: str | int) -> float:
    """`250m` is 0.25, `2Gi` is 2**31."""
    text = str(quantity)
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)
