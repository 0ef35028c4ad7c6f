"""``export``: a network as an ONNX file, for wherever there is no PyTorch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mien.weights import Exported


def export(name: str, *, out: str | os.PathLike[str] | None = None, opset: int = 18) -> Exported:
    """Writes a network as an ONNX file, after a check that the file computes what the network computes.

    The batch is free, and so are height and width where the network takes any. What it wants to see (size, colour
    order, mean, standard deviation) and its licence stand in the file's metadata.

    Parameters
    ----------
    name
        Name of the weights.
    out
        The file; an existing one is replaced. Default: NAME.onnx in the current folder.
    opset
        ONNX operator set, 18 to 23.

    Returns
    -------
    Exported
        With path, size in bytes, operator set, and the largest difference of an output to the network's.

    Raises
    ------
    UnknownWeights, WeightsUnavailable, HashMismatch
        The weights cannot be had.
    MissingExtra
        The extra ``onnx`` is not installed.
    WeightsError
        The file cannot be written, or it computes something else than the network.
    OptionError
        No such operator set, or `out` does not end in ``.onnx``.
    """
    from mien.weights import export_onnx

    return export_onnx(name, f"{name}.onnx" if out is None else out, opset=opset)
