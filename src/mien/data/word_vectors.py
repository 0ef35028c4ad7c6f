"""Vectors of words from files that the user brings: GloVe's text, NumPy arrays, tensors.

No file of vectors comes with mien, and none is fetched. GloVe's are published under the Public Domain Dedication and
License by Stanford (``glove.6B.zip``, which holds ``glove.6B.300d.txt``).
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaError, MediaNotFound, TableError, UnknownFormat

Floats = NDArray[np.float32]

__all__ = ["glove", "word_vectors"]

SPOKEN = {
    "happiness": ("happiness", "happy"), "sadness": ("sadness", "sad"), "contempt": ("contempt",),
    "arousal": ("arousal",),
}  # fmt: skip
"""Words of a file that may stand for one that it lacks, in the order they are tried."""


def glove(path: str | os.PathLike[str], words: Sequence[str]) -> Floats:
    """(len(words), d) float32 vectors of `words` from a text file of GloVe: a word a line, then its numbers.

    The file is read to the last word that is wanted and no further; lower case is compared.

    Raises
    ------
    MediaNotFound
        There is no such file.
    TableError
        A word is not in it, or a line is not as it should be.
    """
    file = Path(path)
    wanted: dict[str, Floats | None] = {
        spoken: None for word in words for spoken in SPOKEN.get(word.lower(), (word.lower(),))
    }
    missing, width = len(wanted), 0
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                word, _, rest = line.rstrip().partition(" ")
                if wanted.get(word, 0) is not None:
                    continue
                try:
                    vector = np.array(rest.split(), np.float32)
                except ValueError:
                    vector = np.empty(0, np.float32)
                if not len(vector) or len(vector) != (width or len(vector)) or not np.isfinite(vector).all():
                    raise TableError(
                        f"{file.name} line {number} is not as it should be", got=line[:60],
                        expected=f"a word and {width or 'its'} numbers between blanks",
                    )  # fmt: skip
                wanted[word], width, missing = vector, len(vector), missing - 1
                if not missing:
                    break
    except FileNotFoundError:
        raise MediaNotFound("there is no such file of word vectors", got=str(file)) from None
    except UnicodeDecodeError:
        raise TableError(f"{file.name} is no text", got=str(file), expected="GloVe's text format, UTF-8") from None
    rows = []
    for word in words:
        found = [wanted[spoken] for spoken in SPOKEN.get(word.lower(), (word.lower(),))]
        vector_or_none = next((one for one in found if one is not None), None)
        if vector_or_none is None:
            raise TableError(f"{file.name} lacks a word", got=word, hint="give a file with all words of the graph")
        rows.append(vector_or_none)
    return np.stack(rows)


def word_vectors(path: str | os.PathLike[str], words: Sequence[str]) -> Floats:
    """(len(words), d) float32 from a file: GloVe's text (``.txt``), or one matrix whose rows are the words in order.

    A matrix may be ``.npy``, ``.safetensors`` with one tensor, or a pickle (``emb.pkl``, ``.pt``, ``.pth``) of one
    tensor or array, with a leading axis of 1 or without. Pickles are read without running what they say: whatever is
    neither a tensor nor an array of numbers is refused.

    Raises
    ------
    MediaNotFound
        There is no such file.
    UnknownFormat
        Of another ending, or a pickle of something else.
    TableError
        The matrix has another number of rows, or a number is not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise MediaNotFound("there is no such file of word vectors", got=str(file))
    ending = file.suffix.lower()
    if ending == ".txt":
        return glove(file, words)
    if ending not in (".npy", ".safetensors", ".pkl", ".pickle", ".pt", ".pth"):
        raise UnknownFormat(
            "word vectors of an unknown kind", got=str(file), expected=".txt of GloVe, .npy, .safetensors, .pkl or .pt"
        )
    try:
        if ending == ".npy":
            found = np.load(file, allow_pickle=False)
        elif ending == ".safetensors":
            from safetensors.numpy import load_file

            (found,) = load_file(file).values()
        else:
            found = _unpickled(file)
        matrix = np.asarray(found, np.float32)
    except MediaError:
        raise
    except Exception as error:  # safetensors, numpy and pickles of another kind raise many
        raise UnknownFormat(
            "the file holds no matrix of word vectors", got=f"{file}: {type(error).__name__}: {error}",
            expected="one array or tensor of numbers",
        ) from error  # fmt: skip
    if matrix.ndim == 3 and len(matrix) == 1:
        matrix = matrix[0]
    if matrix.ndim != 2 or len(matrix) != len(words) or not np.isfinite(matrix).all():
        raise TableError(
            f"{file.name} does not fit the words", got=f"shape {matrix.shape}",
            expected=f"({len(words)}, d) finite numbers, rows in the order {', '.join(words)}",
        )  # fmt: skip
    return matrix


class _Tensors(pickle.Unpickler):
    """A pickle of tensors that calls nothing but what rebuilds them."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: torch.load(io.BytesIO(data), weights_only=True)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return torch._utils._rebuild_tensor_v2
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise UnknownFormat(
            "the pickle names something else than tensors and arrays", got=f"{module}.{name}",
            hint="it may be an attack; ask its makers for a .npy or .safetensors file",
        )  # fmt: skip


def _unpickled(file: Path) -> Any:
    import torch

    from mien.data.formats.verification_bin import load

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is none of torch's
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # not written by torch.save; torch has a dozen ways to say so
        pass
    try:
        with file.open("rb") as opened:
            return _Tensors(opened).load()
    except UnknownFormat as error:
        if not str(error.got).startswith("numpy"):
            raise
        found = load(file)
        return getattr(found, "value", found)
