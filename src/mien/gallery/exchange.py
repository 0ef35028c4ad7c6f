"""Out to a file, and in from one: everything about people and faces but the log, in a table that others can read.

One row a face. `.npz` (numpy alone) and `.parquet` (extra ``tables``) have the same columns:

    identity            name of the person
    source, sha256      the picture and the hash of its bytes
    width, height       of the picture, px; 0 where unknown
    xmin … ymax         box, px; NaN where unknown
    score, quality      0 to 1; NaN where unknown
    created             when it was enrolled, UTC
    retain_until        last day of the face; "" for none
    person_until        last day of the person; "" for none
    basis               legal basis or note of consent
    crop                JPEG of the aligned face, empty where none is kept (.npz: `crops`, all bytes one after another,
                        and `crop_ends`)
    embedding           float32, length one (.npz: `embeddings`)
    contract            of the embeddings: one for the file

So ``mien evaluate`` reads an export as a file of embeddings, and what others computed can be imported: `identity`,
`embedding` and `contract` are enough.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import ContractMismatch, MediaNotFound, MissingExtra, OptionError, TableError
from mien.gallery.base import new_run
from mien.gallery.records import Batch, Face
from mien.media.files import write_whole

if TYPE_CHECKING:
    from mien.gallery.base import Gallery

    Advance = Callable[[int, int | None, str], None]

TEXTS = ("identity", "source", "sha256", "created", "retain_until", "person_until", "basis")
NUMBERS = ("width", "height", "xmin", "ymin", "xmax", "ymax", "score", "quality")
WHOLE = ("width", "height")

BATCH = 1024
"""Faces that are imported in one transaction."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Parameters
    ----------
    file
        Where.
    people, faces
        How many.
    size_mb
        Of the file, MB (10^6 bytes).
    """

    file: str
    people: int
    faces: int
    size_mb: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ImportedFaces:
    """What was taken over.

    Parameters
    ----------
    gallery
        Where to.
    faces, people
        New ones.
    already
        Faces that were there.
    """

    gallery: str
    faces: int
    people: int
    already: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def export_gallery(
    gallery: Gallery, path: str | os.PathLike[str], *, note: str = "", progress: Advance | None = None
) -> Exported:
    """Writes everything about people and faces to a `.npz` or `.parquet` file, which appears whole or not at all.

    Memory stays flat however large the gallery is.

    Raises
    ------
    OptionError
        Another kind of file.
    MissingExtra
        `.parquet` without pyarrow.
    MediaError
        It cannot be written.
    """
    target = Path(path)
    _check_suffix(target)
    people = {person.id: person for person in gallery.people()}
    until = {number: person.retain_until or "" for number, person in people.items()}
    total = len(gallery)
    count = 0

    def batches() -> Iterator[dict[str, Any]]:
        nonlocal count
        for rows in gallery.export_rows():
            count += len(rows)
            yield _columns(rows, until)
            if progress is not None:
                progress(min(count, total), total, "faces")

    write = _to_npz if target.suffix.lower() == ".npz" else _to_parquet
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, lambda part: write(part, batches(), gallery.contract.id, gallery.contract.dim))
    gallery._log("export", count=count, note=note)
    return Exported(file=str(target), people=len(people), faces=count, size_mb=round(target.stat().st_size / 1e6, 3))


def import_gallery(
    gallery: Gallery, path: str | os.PathLike[str], *, trust: bool = False, note: str = "",
    progress: Advance | None = None,
) -> ImportedFaces:  # fmt: skip
    """Takes over the faces of a file that `export_gallery`, or somebody else, wrote. Doing it again does no harm.

    Nothing is judged: neither quality nor whether somebody looks like somebody else.

    Parameters
    ----------
    trust
        Take embeddings that bear no contract for those of the gallery.

    Raises
    ------
    ContractMismatch
        The embeddings are others, or bear no contract and are not trusted.
    MediaNotFound, TableError
        There is no such file, or it lacks the columns.
    """
    source = Path(path)
    _check_suffix(source)
    if not source.is_file():
        raise MediaNotFound("there is no such file", got=source)
    contract, total, batches = (_of_npz if source.suffix.lower() == ".npz" else _of_parquet)(source)
    if contract:
        gallery.check(contract)
    elif not trust:
        raise ContractMismatch(
            "the file does not say of what weights its embeddings are", got=source, expected=gallery.contract.id,
            hint="if you know that they are the gallery's, give trust=True (--trust)",
        )  # fmt: skip
    run, faces, people, already, done = new_run(), 0, 0, 0, 0
    until: dict[str, str] = {}
    for columns in batches:
        batch = _batch(columns)
        added = gallery.add(batch, run=run, action="import", note=note)
        new = int((added.ids >= 0).sum())
        faces, people, already = faces + new, people + added.new_people, already + len(batch) - new
        for name, last in zip(batch.people, columns.get("person_until", ()), strict=False):
            if last:
                until[name] = str(last)
        done += len(batch)
        if progress is not None:
            progress(done, total, "faces")
    for person in gallery.people() if until else ():
        if person.name in until and person.retain_until is None:
            gallery.retain(person.name, until[person.name], note="as imported")
    return ImportedFaces(gallery=gallery.address, faces=faces, people=people, already=already)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".npz", ".parquet"):
        raise OptionError("galleries are exchanged as .npz or .parquet", got=path, expected=".npz, .parquet")


def _columns(rows: Sequence[tuple[Face, Any, bytes | None, tuple[int, int] | None]], until: dict[int, str]) -> Any:
    faces = [row[0] for row in rows]
    sizes = [row[3] or (0, 0) for row in rows]
    boxes = [face.box or (np.nan,) * 4 for face in faces]
    return {
        "identity": [face.person for face in faces],
        "source": [face.source for face in faces],
        "sha256": [face.sha256 for face in faces],
        "created": [face.created for face in faces],
        "retain_until": [face.retain_until or "" for face in faces],
        "person_until": [until.get(face.person_id, "") for face in faces],
        "basis": [face.basis for face in faces],
        "width": np.array([size[0] for size in sizes], np.int32),
        "height": np.array([size[1] for size in sizes], np.int32),
        **{name: np.array([box[at] for box in boxes], np.float32) for at, name in enumerate(NUMBERS[2:6])},
        "score": np.array([np.nan if face.score is None else face.score for face in faces], np.float32),
        "quality": np.array([np.nan if face.quality is None else face.quality for face in faces], np.float32),
        "crop": [row[2] or b"" for row in rows],
        "embedding": np.stack([row[1] for row in rows]).astype(np.float32),
    }


def _batch(columns: dict[str, Any]) -> Batch:
    n = len(columns["embedding"])
    box = [columns[name] for name in NUMBERS[2:6]] if "xmin" in columns else None
    boxes = None if box is None or np.isnan(np.stack(box)).any() else np.stack(box, axis=1)
    size = np.stack([columns["width"], columns["height"]], axis=1) if "width" in columns else None

    def known(name: str) -> Any:
        return columns[name] if name in columns and not np.isnan(columns[name]).any() else None

    crops = columns.get("crop")
    return Batch(
        people=[str(name) for name in columns["identity"]],
        embeddings=columns["embedding"],
        sources=[str(one) for one in columns.get("source", [""] * n)],
        sha256=[str(one) for one in columns.get("sha256", [""] * n)],
        sizes=None if size is None or (size == 0).any() else size,
        boxes=boxes,
        qualities=known("quality"),
        scores=known("score"),
        crops=None if crops is None or not any(crops) else [crop or None for crop in crops],
        retain_until=[str(one) or None for one in columns.get("retain_until", [""] * n)],
        basis=[str(one) for one in columns.get("basis", [""] * n)],
        created=[str(one) for one in columns["created"]] if "created" in columns else None,
    )


# ------------------------------------------------------------------------------------------- .npz


def _to_npz(path: Path, batches: Iterator[dict[str, Any]], contract: str, dim: int) -> None:
    """Columns are collected in files of their own, since a zip takes them one after another and text needs a width."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mien-export-") as place, ExitStack() as stack:
        raw = {
            name: stack.enter_context(open(Path(place) / name, "w+b"))
            for name in (*TEXTS, *NUMBERS, "crop", "embedding")
        }
        ends: list[int] = []
        count, crop_bytes = 0, 0
        widths = dict.fromkeys(TEXTS, 1)
        for columns in batches:
            count += len(columns["embedding"])
            for name in TEXTS:
                widths[name] = max(widths[name], *(len(text) for text in columns[name]))
                # A text with a line break would be two; JSON has none.
                raw[name].writelines(json.dumps(text).encode() + b"\n" for text in columns[name])
            for name in (*NUMBERS, "embedding"):
                raw[name].write(np.ascontiguousarray(columns[name]).tobytes())
            for crop in columns["crop"]:
                raw["crop"].write(crop)
                crop_bytes += len(crop)
                ends.append(crop_bytes)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name in TEXTS:
                _text_column(archive, name, raw[name], count, widths[name])
            for name in NUMBERS:
                kind = np.dtype(np.int32 if name in WHOLE else np.float32)
                _raw_column(archive, name, raw[name], (count,), kind)
            _raw_column(archive, "embeddings", raw["embedding"], (count, dim), np.dtype(np.float32))
            if crop_bytes:
                _raw_column(archive, "crops", raw["crop"], (crop_bytes,), np.dtype(np.uint8))
                _array(archive, "crop_ends", np.array(ends, np.int64))
            _array(archive, "contract", np.array(contract))


def _raw_column(archive: zipfile.ZipFile, name: str, file: Any, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    header = {"descr": kind.str, "fortran_order": False, "shape": shape}
    file.seek(0)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
        np.lib.format.write_array_header_1_0(out, header)
        while part := file.read(1 << 22):
            out.write(part)


def _text_column(archive: zipfile.ZipFile, name: str, file: Any, count: int, width: int) -> None:
    file.seek(0)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
        header = {"descr": np.dtype(f"<U{width}").str, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(out, header)
        while lines := list(itertools.islice(file, 8192)):
            out.write(np.array([json.loads(line) for line in lines], f"<U{width}").tobytes())


def _array(archive: zipfile.ZipFile, name: str, array: Any) -> None:
    with archive.open(f"{name}.npy", "w") as out:
        np.lib.format.write_array(out, array, allow_pickle=False)


def _of_npz(path: Path) -> tuple[str, int, Iterator[dict[str, Any]]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise TableError("this is not a .npz file of arrays", got=f"{path}: {error}") from error
    columns = {{"embeddings": "embedding", "person": "identity"}.get(name, name): a for name, a in columns.items()}
    _check_columns(path, columns)
    total = len(columns["embedding"])
    contract = str(columns.pop("contract", ""))
    ends, blob = columns.pop("crop_ends", None), columns.pop("crops", None)
    if ends is not None and blob is not None:
        data, starts = blob.tobytes(), np.append(0, ends[:-1])
        columns["crop"] = [data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    used = {name: columns[name] for name in (*TEXTS, *NUMBERS, "crop", "embedding") if name in columns}
    wrong = [name for name, column in used.items() if len(column) != total]
    if wrong:
        raise TableError("columns of different length", got=f"{path}: {', '.join(wrong)}", expected=f"{total} rows")

    def batches() -> Iterator[dict[str, Any]]:
        for start in range(0, total, BATCH):
            yield {name: column[start : start + BATCH] for name, column in used.items()}

    return contract, total, batches()


# ------------------------------------------------------------------------------------------- .parquet


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="tables") from error
    return pyarrow, parquet


def _to_parquet(path: Path, batches: Iterator[dict[str, Any]], contract: str, dim: int) -> None:
    pa, parquet = _arrow()
    schema = pa.schema(
        [
            *((name, pa.string()) for name in TEXTS),
            *((name, pa.int32() if name in WHOLE else pa.float32()) for name in NUMBERS),
            ("crop", pa.binary()),
            ("embedding", pa.list_(pa.float32(), dim)),
        ],
        metadata={"mien.contract": contract},
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for columns in batches:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(columns["embedding"].ravel()), dim)
            arrays = [
                vectors if field.name == "embedding" else pa.array(columns[field.name], field.type) for field in schema
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _of_parquet(path: Path) -> tuple[str, int, Iterator[dict[str, Any]]]:
    pa, parquet = _arrow()
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise TableError("this is not a Parquet file", got=f"{path}: {error}") from error
    names = {"embeddings": "embedding", "person": "identity"}
    there = {names.get(name, name): name for name in file.schema_arrow.names}
    _check_columns(path, there)
    contract = (file.schema_arrow.metadata or {}).get(b"mien.contract", b"").decode()
    used = [name for name in (*TEXTS, *NUMBERS, "crop", "embedding") if name in there]

    def batches() -> Iterator[dict[str, Any]]:
        for part in file.iter_batches(BATCH, columns=[there[name] for name in used]):
            columns: dict[str, Any] = {}
            for name in used:
                column = part.column(there[name])
                if name == "embedding":
                    flat = column.flatten().to_numpy(zero_copy_only=False)
                    columns[name] = np.asarray(flat, np.float32).reshape(len(column), -1)
                elif name in NUMBERS:
                    columns[name] = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
                else:
                    empty: Any = b"" if name == "crop" else ""
                    columns[name] = [value or empty for value in column.to_pylist()]
            yield columns

    return contract, file.metadata.num_rows, batches()


def _check_columns(path: Path, columns: Any) -> None:
    missing = [name for name in ("identity", "embedding") if name not in columns]
    if missing:
        raise TableError(
            f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            got=", ".join(sorted(columns)), expected="identity, embedding, and contract",
        )  # fmt: skip
