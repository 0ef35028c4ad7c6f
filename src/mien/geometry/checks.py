"""The shape contracts of `geometry` and `metrics`: one line at the top of a function says what it takes.

A shape is spelled as in the docstrings: ``"n 4"`` is two axes, the second of length 4; ``"... k 2"`` allows
any leading axes. A letter stands for any length, and the same letter for the same length within one call's
shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError

Floats = NDArray[np.floating[Any]]
Double = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


def floats(name: str, value: ArrayLike, shape: str) -> Floats:
    """`value` as a finite floating array of `shape`; float64 stays float64, narrower kinds become float32.

    Raises
    ------
    DtypeError
        Not numbers (booleans are not numbers here, complex ones neither).
    ShapeError
        Not of `shape`.
    ValueRangeError
        NaN or infinite values.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name} must be real numbers", got=f"dtype {array.dtype}", expected="floats or integers")
    check_shape(name, array, shape)
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise ValueRangeError(
            f"{name} has values that are not finite",
            got=f"{len(bad)} of {array.size} values, the first at {tuple(int(i) for i in bad[0])}",
            expected="finite numbers",
            hint="drop the rows that have no measurement (np.isfinite) before the call",
        )
    return array


def doubles(name: str, value: ArrayLike, shape: str) -> Double:
    """As `floats`, always float64: for what is summed over many rows."""
    return floats(name, value, shape).astype(np.float64, copy=False)


def bools(name: str, value: ArrayLike, shape: str) -> Bools:
    """`value` as a boolean array of `shape`; the integers 0 and 1 are taken too (CSV tables have them)."""
    array = np.asarray(value)
    check_shape(name, array, shape)
    if array.dtype.kind == "b":
        return array
    if array.size == 0:
        return array.astype(np.bool_)
    if array.dtype.kind not in "iuf" or not np.isin(array, (0, 1)).all():
        raise DtypeError(f"{name} must be true or false", got=f"dtype {array.dtype}", expected="booleans, or 0 and 1")
    return array.astype(np.bool_)


def indices(name: str, value: ArrayLike, shape: str) -> Ints:
    """`value` as an integer array of `shape`."""
    array = np.asarray(value)
    check_shape(name, array, shape)
    if array.size == 0:
        return array.astype(np.intp)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{name} must be integers", got=f"dtype {array.dtype}", expected="integers")
    return array.astype(np.intp)


def labels(name: str, value: ArrayLike, shape: str) -> tuple[NDArray[Any], Ints]:
    """The sorted distinct labels (names or numbers) of `value` and, per entry, the index of its label."""
    array = np.asarray(value)
    check_shape(name, array, shape)
    if array.dtype.kind == "O":
        array = array.astype(np.str_)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueRangeError(f"{name} has labels that are not finite", got="NaN or inf", expected="names or numbers")
    names, codes = np.unique(array, return_inverse=True)
    return names, codes.reshape(array.shape).astype(np.intp)


def check_shape(name: str, array: NDArray[Any], shape: str) -> None:
    """Raise ShapeError unless `array` has `shape` (see the module's docstring for the spelling)."""
    wanted: Sequence[str] = shape.split()
    have = array.shape
    if wanted and wanted[0] == "...":
        wanted = wanted[1:]
        have = have[max(0, len(have) - len(wanted)) :]
    lengths: dict[str, int] = {}
    fits = len(have) == len(wanted) and all(
        length == int(axis) if axis.isdigit() else lengths.setdefault(axis, length) == length
        for axis, length in zip(wanted, have, strict=True)
    )
    if not fits:
        spelled = ", ".join(shape.split())
        raise ShapeError(f"{name} has the wrong shape", got=array.shape, expected=f"({spelled})")


def same_length(**arrays: NDArray[Any]) -> None:
    """Raise ShapeError unless all arrays have the same number of rows."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            f"{', '.join(lengths)} must have the same number of rows",
            got=", ".join(f"{name}: {length}" for name, length in lengths.items()),
        )


def number(
    name: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> float:
    """`value` as a float, if it lies between `low` and `high` (ends belong to the range unless said open)."""
    value = float(value)
    if not (value > low if open_low else value >= low) or not (value < high if open_high else value <= high):
        least, most = ("more than" if open_low else "at least"), ("less than" if open_high else "at most")
        raise ValueRangeError(f"{name} is out of range", got=value, expected=f"{least} {low:g}, {most} {high:g}")
    return value


def choice(name: str, value: str, choices: Sequence[str]) -> str:
    """`value`, if it is one of `choices`; otherwise an OptionError that lists them and names the nearest."""
    if value not in choices:
        raise OptionError.unknown(f"unknown {name}", value, choices)
    return value
