"""Files of the authors' code: text models of LIBLINEAR, feature files, split lists.

There is no released checkpoint; these are what the code writes and reads, so that one can go over from it, or back.
Feature files are little-endian ``int32 count``, then for each picture ``int32 nnz``, ``int32[nnz]`` places and
``float32[nnz]`` values. Whether places count from 0 or, as in LIBLINEAR, from 1 is not written there: `first` says it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaNotFound, ShapeError, TableError, ValueRangeError
from mien.papers.aspl.svm import OneVsRest

SOLVER = "L2R_L2LOSS_SVC"
"""LIBLINEAR's solver 2. Models of its other two-class solvers are read too: a linear decision is one."""
LINEAR = ("L2R_LR", "L2R_L2LOSS_SVC_DUAL", SOLVER, "L2R_L1LOSS_SVC_DUAL", "L1R_L2LOSS_SVC", "L1R_LR", "L2R_LR_DUAL")

Place = str | os.PathLike[str]


# --- Models ----------------------------------------------------------------------------------------------------------


def write_liblinear(path: Place, weights: NDArray[np.floating], *, bias: float = -1.0, offset: float = 0.0) -> None:
    """A two-class model as LIBLINEAR's text: labels 1 and -1, a positive decision means 1.

    Parameters
    ----------
    path
        The file.
    weights
        (d,) of the features.
    bias
        Value of the added feature; negative: there is none.
    offset
        What is added to the decision, ``bias`` times the added feature's weight.

    Raises
    ------
    ShapeError, ValueRangeError
        `weights` is no vector; there is an offset, but no added feature that could carry it.
    """
    if weights.ndim != 1:
        raise ShapeError("a model has one vector of weights", got=weights.shape, expected="(d,)")
    if bias <= 0 and offset:
        raise ValueRangeError("the offset needs an added feature", got=(bias, offset), expected="bias > 0")
    values = [float(value) for value in weights]
    if bias >= 0:
        values.append(offset / bias if bias else 0.0)
    head = f"solver_type {SOLVER}\nnr_class 2\nlabel 1 -1\nnr_feature {len(weights)}\nbias {bias:.17g}\nw\n"
    Path(path).write_text(head + "".join(f"{value:.17g} \n" for value in values), "ascii")


def read_liblinear(path: Place) -> tuple[NDArray[np.float64], float]:
    """Weights (d,) and offset of a two-class text model; the decision is for label 1, whichever comes first in it.

    Raises
    ------
    MediaNotFound, TableError
        No such file; it is no two-class linear model, or is cut short.
    """
    name = Path(path).name

    def wrong(what: str, got: object, expected: object) -> TableError:
        return TableError(f"{name} is no two-class model of LIBLINEAR: {what}", got=got, expected=expected)

    head: dict[str, list[str]] = {}
    lines = iter(_text(path).splitlines())
    for line in lines:
        key, *rest = line.split() or [""]
        if key == "w":
            break
        head[key] = rest
    else:
        raise wrong("there is no line w", sorted(head), "w, and the weights after it")
    known = {"solver_type", "nr_class", "label", "nr_feature", "bias"}
    if set(head) != known or any(not rest for rest in head.values()):
        raise wrong("its head has other lines", sorted(head), sorted(known))
    if head["solver_type"][0] not in LINEAR:
        raise wrong("its solver is none of one vector", head["solver_type"][0], LINEAR)
    if head["nr_class"] != ["2"] or sorted(head["label"]) != ["-1", "1"]:
        raise wrong("its classes are others", (head["nr_class"], head["label"]), "the labels 1 and -1")
    try:
        count, bias = int(head["nr_feature"][0]), float(head["bias"][0])
        values = np.array([float(part) for line in lines for part in line.split()])
    except ValueError as error:
        raise wrong("a number is none", str(error), "numbers") from None
    expected = count + (bias >= 0)
    if len(values) != expected or not np.isfinite(values).all():
        raise wrong("it has another number of weights than it says", len(values), expected)
    if head["label"][0] == "-1":
        values = -values
    return values[:count], float(values[count] * bias) if bias >= 0 else 0.0


def write_models(folder: Place, classifiers: OneVsRest, persons: list[str], *, bias: float = -1.0) -> list[Path]:
    """``<person>_model.xml`` for everybody who has a classifier, as the authors' code names them (text, no XML)."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for row, person in enumerate(persons):
        if classifiers.trained[row]:
            written.append(Path(folder) / f"{person}_model.xml")
            write_liblinear(written[-1], classifiers.weights[row], bias=bias, offset=float(classifiers.bias[row]))
    return written


def read_models(folder: Place, persons: list[str]) -> OneVsRest:
    """Classifiers of `persons` from ``<person>_model.xml``; whoever has no file has no classifier.

    Raises
    ------
    MediaNotFound
        None of them is there.
    TableError, ShapeError
        A file is no model; the models are of features of different lengths.
    """
    files = {row: Path(folder) / f"{person}_model.xml" for row, person in enumerate(persons)}
    read = {row: read_liblinear(file) for row, file in files.items() if file.is_file()}
    if not read:
        raise MediaNotFound("there is no model of any of these persons", got=str(folder), expected=f"{files.get(0)}")
    dims = {len(weights) for weights, _ in read.values()}
    if len(dims) > 1:
        raise ShapeError("the models are of different features", got=sorted(dims), expected="one number of features")
    found = OneVsRest.untrained(len(persons), dims.pop())
    for row, (weights, offset) in read.items():
        found.weights[row], found.bias[row], found.trained[row] = weights, offset, True
    return found


# --- Features --------------------------------------------------------------------------------------------------------


def write_features(path: Place, x: NDArray[np.floating], *, first: int = 0) -> None:
    """Features (n, d) as a sparse feature file; zeros are left out."""
    if x.ndim != 2:
        raise ShapeError("features have a row a picture", got=x.shape, expected="(n, d)")
    values = np.asarray(x, "<f4")
    with open(path, "wb") as file:
        file.write(np.array([len(values)], "<i4").tobytes())
        for row in values:
            places = np.flatnonzero(row)
            file.write(np.array([len(places)], "<i4").tobytes())
            file.write((places + first).astype("<i4").tobytes())
            file.write(row[places].tobytes())


def read_features(path: Place, *, dim: int | None = None, first: int = 0) -> NDArray[np.float32]:
    """Features (n, d) float32 of a sparse feature file.

    Parameters
    ----------
    path
        The file.
    dim
        d. Default: as far as the last place that occurs.
    first
        The place of the first feature: 0, or 1 where places count as in LIBLINEAR.

    Raises
    ------
    MediaNotFound, TableError
        No such file; it is cut short or longer than it says, or a place lies outside.
    """
    if not Path(path).is_file():
        raise MediaNotFound("there is no such feature file", got=str(path))
    words = Path(path).read_bytes()
    name = Path(path).name
    if len(words) < 4 or len(words) % 4:
        raise TableError(f"{name} is no feature file", got=f"{len(words)} bytes", expected="whole words of 4 bytes")
    whole = np.frombuffer(words, "<i4")
    count, at = int(whole[0]), 1
    rows, places, values = [], [], []
    for row in range(count):
        size = int(whole[at]) if at < len(whole) else -1
        if size < 0 or at + 1 + 2 * size > len(whole):
            raise TableError(f"{name} is cut short", got=f"picture {row} of {count}", expected="all of them")
        places.append(whole[at + 1 : at + 1 + size] - first)
        values.append(whole[at + 1 + size : at + 1 + 2 * size].view("<f4"))
        rows.append(np.full(size, row))
        at += 1 + 2 * size
    if at != len(whole):
        raise TableError(f"{name} is longer than it says", got=f"{len(whole)} words", expected=f"{at}")
    column = np.concatenate(places) if places else np.zeros(0, np.int64)
    dim = dim if dim is not None else int(column.max(initial=-1)) + 1
    if len(column) and not (column.min() >= 0 and column.max() < dim):
        raise TableError(
            f"{name} has a feature outside", got=(int(column.min()), int(column.max())), expected=f"0 to {dim - 1}",
            hint="first= says where counting begins",
        )  # fmt: skip
    x = np.zeros((count, dim), np.float32)
    if count:
        x[np.concatenate(rows), column] = np.concatenate(values)
    return x


# --- Lists -----------------------------------------------------------------------------------------------------------


def read_split(path: Place) -> tuple[list[str], list[str]]:
    """Names of pictures and of persons of a split list, ``name.jpg label`` a line; names may hold blanks.

    Raises
    ------
    MediaNotFound, TableError
        No such file; a line has no two parts.
    """
    files, people = [], []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        file, _, person = line.strip().rpartition(" ")
        if not file:
            raise TableError(f"line {number} of {Path(path).name} is wrong", got=line, expected="name.jpg label")
        files.append(file.strip())
        people.append(person)
    return files, people


def write_split(path: Place, files: list[str], people: list[str]) -> None:
    """A split list.

    Raises
    ------
    ValueRangeError
        The label of a person holds a blank, which would not come back.
    """
    for person in people:
        if not person or person.split() != [person]:
            raise ValueRangeError("a label of a split list is one word", got=person, hint="number the persons")
    Path(path).write_text("".join(f"{f} {p}\n" for f, p in zip(files, people, strict=True)), "utf-8")


def _text(path: Place) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError:
        raise MediaNotFound("there is no such file", got=str(path)) from None
    except UnicodeDecodeError:
        raise TableError(f"{Path(path).name} is no text", got=str(path), expected="UTF-8") from None
