"""Figures as the report writes them: as text for people, rounded for programs.

NaN does not exist in JSON: what is not defined (the IoU of a class that is not in the truth) is
null there, and a dash for people.
"""

import math
from collections.abc import Mapping
from typing import Any

DASH = "–"


def percent(value: float | None) -> str:
    """One digit behind the point."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.1f}"


def short(value: float) -> str:
    """Three digits at most, no exponent for common sizes: 0.47, 12.3, 1234."""
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def significant(value: float) -> float | None:
    """Six significant digits."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def rounded(value: Any) -> Any:
    """JSON values with four decimals wherever there are floats in them."""
    if isinstance(value, Mapping):
        return {str(key): rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
