"""Embeddings of listed pictures, made now or read from a file that ``mien embed --out`` wrote; pooled to templates."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from mien import metrics
from mien.errors import MediaNotFound, MissingExtra, OptionError, TableError
from mien.geometry.checks import choice
from mien.verbs import _pairs
from mien.verbs._score import normalised
from mien.verbs.calibrate import enroll_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Failure
    from mien.verbs._pipeline import Plan, Progress

WEIGHTS = ("equal", "quality", "score", "norm")
"""How faces of a template are weighted: all alike, by the quality of the face, by the detector's score, or by the
length of the embedding, which files from elsewhere may have kept."""


@dataclass(frozen=True)
class Embedded:
    """One embedding for each of a list of pictures or templates.

    Parameters
    ----------
    embeddings
        (n, d) float32 of length one; unit vector along the first axis where there is none.
    there
        (n,) whether there is one.
    weights
        (n,) how much each counts in a template; 1 where that was not asked for.
    unreadable, faceless
        Pictures that could not be read, and pictures without a face.
    contract
        Identity of the embeddings; "" where the file does not tell.
    failures
        Of the unreadable ones.
    pictures
        How many pictures were looked at.
    """

    embeddings: NDArray[np.float32]
    there: NDArray[np.bool_]
    weights: NDArray[np.float64]
    unreadable: int
    faceless: int
    contract: str
    failures: tuple[Failure, ...]
    pictures: int


def embed_pictures(
    names: Sequence[str],
    files: Sequence[Path],
    plan: Plan,
    *,
    embeddings: str | os.PathLike[str] | None,
    choose: str,
    weigh: str = "equal",
    progress: Progress | None = None,
) -> Embedded:
    """The chosen face of every picture: by the networks of `plan`, or from the file `embeddings`."""
    choice("weigh", weigh, WEIGHTS)
    if embeddings is not None:
        return _of_file(names, embeddings, choose, weigh)
    if weigh == "norm":
        raise OptionError(
            "mien's own embeddings are of length one, so that no weight can be read off them",
            got=weigh, expected="equal, quality, score", hint="or give a file with --embeddings that kept the lengths",
        )  # fmt: skip
    enrolled = enroll_files(files, plan, choose=choose, progress=progress)
    weights = np.ones(len(files))
    if weigh != "equal":
        told = enrolled.faces.quality if weigh == "quality" else enrolled.faces.scores
        weights[enrolled.there] = np.asarray(told, np.float64)
    return Embedded(
        enrolled.embeddings, enrolled.there, weights, enrolled.unreadable, enrolled.faceless, enrolled.contract,
        enrolled.failures, len(files),
    )  # fmt: skip


def quality_of(weigh: str, embeddings: object) -> str | None:
    """The quality that the pipeline must tell for such weights."""
    return "stability" if weigh == "quality" and embeddings is None else None


# ------------------------------------------------------------------------------------------- from a file


def _of_file(names: Sequence[str], path: str | os.PathLike[str], choose: str, weigh: str) -> Embedded:
    columns = read_embeddings(path)
    rows = _rows_of(names, columns["source"].tolist(), _preference(columns, choose), Path(path).name)
    there = rows >= 0
    if not there.any():
        raise TableError(
            f"none of the pictures is in {Path(path).name}", got=f"{names[0]} and {len(names) - 1} more",
            expected=f"names at the end of such as {columns['source'][0]}",
            hint="embed the same folder: mien embed FOLDER --out FILE",
        )  # fmt: skip
    vectors = np.zeros((len(names), columns["embedding"].shape[1]), np.float32)
    vectors[:, 0] = 1
    vectors[there] = normalised(columns["embedding"][rows[there]])
    weights = np.ones(len(names))
    if weigh == "norm":
        weights[there] = np.linalg.norm(columns["embedding"][rows[there]].astype(np.float64), axis=1)
    elif weigh != "equal":
        if weigh not in columns:
            raise OptionError(
                f"the file of embeddings has no column {weigh}", got=weigh, expected=", ".join(sorted(columns)),
                hint="choose another --weigh, or leave --embeddings out",
            )  # fmt: skip
        weights[there] = columns[weigh][rows[there]]
    missing = int((~there).sum())
    return Embedded(vectors, there, weights, 0, missing, str(columns["contract"]), (), len(names))


def read_embeddings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Columns of a file of embeddings: source (n,), embedding (n, d), contract, and score, box where they are there.

    `.npz` and `.parquet` as ``mien embed --out`` writes them; of files from elsewhere, `source` (or `file`) and
    `embeddings` (or `embedding`) are enough.

    Raises
    ------
    MediaNotFound, TableError
        No such file, another kind of file, or one without these columns.
    """
    file = Path(path)
    if not file.is_file():
        raise MediaNotFound("there is no such file of embeddings", got=str(path), hint="make it: mien embed --out FILE")
    suffix = file.suffix.lower()
    if suffix not in (".npz", ".parquet"):
        raise TableError("embeddings are read from .npz or .parquet", got=str(path), expected=".npz, .parquet")
    try:
        found = _npz(file) if suffix == ".npz" else _parquet(file)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, MissingExtra | TableError):
            raise
        raise TableError(f"{file.name} cannot be read as embeddings", got=str(error)) from error
    aliases: dict[str, tuple[str, ...]] = {"source": ("file", "files"), "embedding": ("embeddings",)}
    for name, others in aliases.items():
        there = [other for other in (name, *others) if other in found]
        if not there:
            raise TableError(f"{file.name} has no {name}", got=", ".join(found), expected=" or ".join((name, *others)))
        found[name] = found[there[0]]
    source, vectors = np.asarray(found["source"]).astype(str), np.asarray(found["embedding"])
    if vectors.ndim != 2 or len(vectors) != len(source) or not len(source):
        raise TableError(
            f"{file.name} does not hold one embedding a row",
            got=f"{len(source)} names, embeddings of shape {vectors.shape}",
        )
    columns: dict[str, Any] = {
        "source": source, "embedding": vectors.astype(np.float32), "contract": str(found.get("contract", "")),
    }  # fmt: skip
    for other, name in (("scores", "score"), ("boxes", "box"), ("score", "score"), ("box", "box"), ("quality",) * 2):
        if other in found:
            columns[name] = np.asarray(found[other], np.float64)
    return columns


def _npz(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _parquet(file: Path) -> dict[str, Any]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="tables") from error
    table = parquet.read_table(file)
    found: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name in ("embedding", "embeddings"):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            found[name] = flat.reshape(len(column), -1)
        else:
            found[name] = column.to_numpy(zero_copy_only=False)
    corners = ("xmin", "ymin", "xmax", "ymax")
    if set(corners) <= found.keys():
        found["box"] = np.stack([found[name] for name in corners], axis=1)
    found["contract"] = ((table.schema.metadata or {}).get(b"mien.contract", b"")).decode()
    return found


def _preference(columns: dict[str, Any], choose: str) -> NDArray[np.float64] | None:
    """What the chosen face of a picture has most of (n,); None where the file does not tell, so that one must do."""
    choice("choose", choose, ("largest", "central", "surest"))
    if choose == "central":
        raise OptionError(
            "a file of embeddings does not tell how large pictures are, so no face is the central one",
            got=choose, expected="largest, surest",
        )  # fmt: skip
    if choose == "surest":
        return columns.get("score")
    box = columns.get("box")
    return None if box is None else np.asarray((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]), np.float64)


def _rows_of(
    names: Sequence[str], sources: Sequence[str], best: NDArray[np.float64] | None, file: str
) -> NDArray[np.int64]:
    """Row (n,) of the chosen face of each name, -1 where there is none.

    A name is found where it stands at the end of a source: what was embedded as ``photos/ann/1.jpg`` is found as
    ``ann/1.jpg`` and as ``1.jpg``, as long as that means one picture.
    """
    by_last: dict[str, list[int]] = defaultdict(list)
    parts = [PurePosixPath(source.replace("\\", "/")).parts for source in sources]
    for row, words in enumerate(parts):
        by_last[words[-1] if words else ""].append(row)
    rows = np.full(len(names), -1, np.int64)
    for index, name in enumerate(names):
        wanted = PurePosixPath(name.replace("\\", "/")).parts
        found = [row for row in by_last.get(wanted[-1] if wanted else "", ()) if parts[row][-len(wanted) :] == wanted]
        exact = [row for row in found if sources[row] == name]
        found = exact or found
        if len({sources[row] for row in found}) > 1:
            raise TableError(
                f"{name} means several pictures of {file}", got=", ".join(sorted({sources[row] for row in found})[:3]),
                hint="name the pictures with their folders",
            )  # fmt: skip
        if len(found) > 1 and best is None:
            raise TableError(
                f"{file} has several faces of {name} and does not tell which is meant", got=f"{len(found)} rows",
                expected="boxes or scores beside the embeddings, or one face a picture",
            )  # fmt: skip
        if found:
            rows[index] = found[0] if best is None else max(found, key=lambda row: best[row])
    return rows


# ------------------------------------------------------------------------------------------- templates


@dataclass(frozen=True)
class Listed:
    """Pictures of a table, with who they show and the templates and media they belong to.

    Parameters
    ----------
    names, files
        Each picture once.
    picture
        (n,) index into `names` of each row of the table.
    identity, template, media
        (n,) texts; `template` is unlike for every row, and `media` too, where the table has no such column.
    pooled
        Whether it has templates.
    columns
        {name: (n,)} of other columns.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    picture: NDArray[np.int64]
    identity: NDArray[np.str_]
    template: NDArray[np.str_]
    media: NDArray[np.str_]
    pooled: bool
    columns: dict[str, NDArray[np.str_]]

    def __len__(self) -> int:
        return len(self.picture)


def read_listed(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    *,
    exist: bool,
    need: Sequence[str] = ("file", "identity"),
    more: Sequence[str] = (),
) -> Listed:
    """A table ``file,identity[,template][,media]``; `more` are further columns, taken where they are there.

    Raises
    ------
    MediaNotFound, TableError
        No such table or folder, missing columns, a template of two people, or none of the pictures is there.
    """
    table = Path(path)
    rows = _pairs.read_table(table, need)
    folder = _pairs.folder_of(images, table)
    index: dict[str, int] = {}
    picture = np.array([index.setdefault(row["file"].strip(), len(index)) for row in rows])
    names = tuple(index)
    files = _pairs.existing(folder, names, table) if exist else tuple(folder / name for name in names)
    own = np.array([str(number) for number in range(len(rows))])
    pooled = "template" in rows[0]
    if pooled:
        _pairs.read_table(table, ("template",))
    template = _pairs.column(rows, "template") if pooled else own
    identity = _pairs.column(rows, "identity") if "identity" in rows[0] else template
    mixed = np.unique(np.stack([template, identity], axis=1), axis=0)
    if len(mixed) > len(np.unique(template)):
        twice = mixed[:-1][mixed[1:, 0] == mixed[:-1, 0]][0, 0]
        raise TableError(f"a template of {table.name} shows several people", got=f"template {twice}")
    media = _pairs.column(rows, "media") if "media" in rows[0] else own
    media = np.where(media == "", own, media)
    columns = {name: _pairs.column(rows, name) for name in more if name in rows[0]}
    return Listed(names, files, picture, identity, template, media, pooled, columns)


@dataclass(frozen=True)
class Pooled:
    """Templates of a table, those without a face too.

    Parameters
    ----------
    names
        (t,) sorted.
    identity
        (t,)
    vectors
        (t, d); unit vector along the first axis where there is no face.
    there
        (t,) whether there is a face.
    first
        (t,) a row of the table that belongs to it.
    """

    names: NDArray[np.str_]
    identity: NDArray[np.str_]
    vectors: NDArray[np.float32]
    there: NDArray[np.bool_]
    first: NDArray[np.int64]


def pool(listed: Listed, embedded: Embedded) -> Pooled:
    """Templates of the pictures that show a face: media first, weights as `embedded` has them."""
    names, first, code = np.unique(listed.template, return_index=True, return_inverse=True)
    found = embedded.there[listed.picture]
    weights = embedded.weights[listed.picture]
    # A template whose faces all weigh nothing is one whose faces nobody can tell apart by weight.
    heaviest = np.zeros(len(names))
    np.maximum.at(heaviest, code[found], weights[found])
    weights = np.where(heaviest[code] > 0, weights, 1.0)
    made = metrics.pool_templates(
        embedded.embeddings[listed.picture[found]], listed.template[found],
        media=listed.media[found], weights=weights[found],
    )  # fmt: skip
    at = np.searchsorted(names, made.names)
    vectors = np.zeros((len(names), embedded.embeddings.shape[1]), np.float32)
    vectors[:, 0] = 1
    vectors[at] = made.vectors
    there = np.zeros(len(names), np.bool_)
    there[at] = True
    return Pooled(names, listed.identity[first], vectors, there, first.astype(np.int64))
