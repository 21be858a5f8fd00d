"""Checks of arguments. Every error names the object, the key, what exists and the call that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

PRECISIONS = ("32-true", "bf16-mixed")  # as Lightning names them


def listing(names: Iterable[Any], limit: int = 12) -> str:
    """Spell out what exists, shortened."""
    names = [str(n) for n in names]
    head = ", ".join(repr(n) for n in names[:limit])
    return "[" + head + (f", ... ({len(names)} in all)" if len(names) > limit else "") + "]"


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known; choose one of {listing(choices)}.")


def check_positive(name: str, value: Any, *, integer: bool = False, zero: bool = False) -> None:
    """Raise unless `value` is a finite number above zero (or at zero, with `zero`)."""
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool | np.bool_) or not isinstance(value, kinds):
        raise TypeError(f"{name} must be {'an integer' if integer else 'a number'}, not {value!r}.")
    if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be {'at least' if zero else 'above'} 0, not {value!r}.")


def check_fraction(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise unless `value` is in (0, 1] (or [0, 1], with `zero`)."""
    check_positive(name, value, zero=zero)
    if value > 1:
        raise ValueError(f"{name} is a share and must be at most 1, not {value!r}.")


def check_patches(patches: Any, name: str = "patches") -> NDArray[np.uint8]:
    """Return `patches` if they are uint8 `(n, H, W, 3)`; raise `TypeError` or `ValueError` otherwise."""
    if not hasattr(patches, "shape") or not hasattr(patches, "dtype"):
        raise TypeError(f"{name} must be an array of uint8 (n, H, W, 3), not {type(patches).__name__}.")
    if patches.ndim != 4 or patches.shape[-1] != 3:
        hint = " Four channels are RGBA: keep the first three." if patches.shape[-1:] == (4,) else ""
        raise ValueError(f"{name} must have shape (n, H, W, 3), not {tuple(patches.shape)}.{hint}")
    if patches.dtype != np.uint8:
        raise TypeError(
            f"{name} must be uint8 in 0..255, not {patches.dtype}; convert knowingly, e.g. "
            f"`(x / x.max() * 255).astype('uint8')` for a 16-bit image."
        )
    return patches
