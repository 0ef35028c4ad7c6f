"""Hugging Face's image tables: Parquet with a column ``image`` of {bytes, path}, and labels beside it.

The names of a ``ClassLabel`` are in the file's metadata. Pictures are read by row group, which is the least that a
Parquet file gives: whoever wants rows in a shuffled order shuffles groups, and rows inside a few of them.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.formats.samples import Bytes, Ints, Kept, Rows, Samples, Tell, _whole, numbered, strict
from mien.errors import CorruptMedia, MediaNotFound, MienError, MissingExtra, OptionError, TableError
from mien.media.files import of_os_error

__all__ = ["RowGroups", "read_parquet"]

LABELS = ("label", "labels", "identity", "person", "subject", "id")
GROUP = 100
"""Pictures in a row group that is written: half a megabyte of aligned faces, as Hugging Face's tools do."""
KEPT = 16
"""Row groups that are kept: twice those that `Batches` shuffles together, since one window runs into the next."""


def pyarrow() -> Any:
    """pyarrow.parquet, or the error that says how to get it."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra("pyarrow", extra="tables") from None
    return parquet


def find_parquet(path: Path) -> list[Path]:
    """`path`, if it is a Parquet file or has some (in it, or in its folder `data`)."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return [path] if _files(path) else []


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))


class RowGroups:
    """The pictures of row groups of Parquet files.

    Parameters
    ----------
    files
        The files.
    column
        Column of the pictures: of {bytes, path}, or of bytes.
    groups
        (g, 2) file and number in it of every row group.
    blocks
        (g + 1,) first row of every group, and the number of rows.
    rows
        Rows that are left; None for all.
    """

    def __init__(self, files: Sequence[str], column: str, groups: Ints, blocks: Ints, rows: Ints | None = None) -> None:
        self.files, self.column, self.groups, self.all_blocks, self.rows = tuple(files), column, groups, blocks, rows
        self._begin()

    def _begin(self) -> None:
        self._kept = Kept(self._group, KEPT)
        self._open = threading.local()  # a reader is not for two threads

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_kept", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __len__(self) -> int:
        return int(self.all_blocks[-1]) if self.rows is None else len(self.rows)

    @property
    def blocks(self) -> Ints:
        if self.rows is None:
            return self.all_blocks
        # Where the group changes from one row to the next.
        group = np.searchsorted(self.all_blocks, self.rows, "right")
        return np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1, [len(self.rows)]]).astype(np.int64)

    def take(self, rows: Ints) -> RowGroups:
        chosen = rows if self.rows is None else self.rows[rows]
        return RowGroups(self.files, self.column, self.groups, self.all_blocks, chosen)

    def fetch(self, rows: Rows) -> list[Bytes]:
        index = np.asarray(rows, np.int64)
        index = index if self.rows is None else self.rows[index]
        group = np.searchsorted(self.all_blocks, index, "right") - 1
        within = (index - self.all_blocks[group]).tolist()
        # Each group once, whatever the order of the rows is.
        order = np.argsort(group, kind="stable").tolist()
        found: list[Bytes] = [np.zeros(0, np.uint8)] * len(index)
        number, pictures = -1, list[Bytes]()
        for place in order:
            if group[place] != number:
                number = int(group[place])
                pictures = self._kept(number)
            found[place] = pictures[within[place]]
        return found

    def _group(self, number: int) -> list[Bytes]:
        import pyarrow as pa

        part, within = self.groups[number].tolist()
        try:
            opened = self._open.__dict__
            if part not in opened:
                opened[part] = pyarrow().ParquetFile(self.files[part], memory_map=True)
            table = opened[part].read_row_group(within, columns=[self.column], use_threads=False)
            column = table.column(0).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            got = f"{self.files[part]}, group {within}: {error}"
            raise CorruptMedia("a row group cannot be read", got=got) from error
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        if not pa.types.is_struct(column.type):
            return _views(column, [None] * len(column), Path(self.files[part]).parent)
        names = [field.name for field in column.type]
        data = column.field("bytes") if "bytes" in names else pa.nulls(len(column), pa.binary())
        paths = column.field("path").to_pylist() if "path" in names else [None] * len(column)
        return _views(data, paths, Path(self.files[part]).parent)


def _views(column: Any, paths: Sequence[str | None], home: Path) -> list[Bytes]:
    """Views of the bytes of a binary column; where there are none, the file at the path is read."""
    import pyarrow as pa

    if pa.types.is_null(column.type):
        column = column.cast(pa.binary())
    wide = pa.types.is_large_binary(column.type)
    if not (wide or pa.types.is_binary(column.type)):
        raise TableError("the column of pictures does not hold bytes", got=str(column.type), expected="binary")
    _, offsets, data = column.buffers()
    count = len(column)
    stops = np.frombuffer(offsets, np.int64 if wide else np.int32)[column.offset : column.offset + count + 1].tolist()
    whole = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    found = [whole[a:b] for a, b in itertools.pairwise(stops)]
    for row in [row for row, part in enumerate(found) if not len(part)]:
        path = paths[row]
        if path and (home / path).is_file():
            found[row] = _whole(str(home / path))
    return found


def read_parquet(path: str | os.PathLike[str], *, split: str | None = None, tell: Tell = strict) -> Samples:
    """A Parquet file, or all in a folder (or in its folder `data`), one after the other.

    `labels` is the first ``ClassLabel``, or the column `label`, `identity` …; its names are those of the metadata.
    Other columns of numbers, text, and lists of equal length are columns; `points`, of (k, 2), are points.

    Parameters
    ----------
    path
        File or folder.
    split
        Only files whose name begins so: "train", "test" …

    Raises
    ------
    MissingExtra
        pyarrow is not installed.
    CorruptMedia
        A file is broken.
    TableError
        There is no column of pictures, or files have different columns.
    """
    parquet = pyarrow()
    import pyarrow as pa

    path = Path(path)
    files = [file for file in _files(path) if split is None or file.name.startswith(split)]
    if not files:
        raise MediaNotFound("there is no such Parquet file", got=path, expected=f"files {split or '*'}….parquet")
    groups, counts, tables, used = list[tuple[int, int]](), list[int](), list[Any](), list[str]()
    column, labelled, names = "", "", tuple[str, ...]()
    for file in files:
        try:
            opened = parquet.ParquetFile(file, memory_map=True)
            schema = opened.schema_arrow
            here = _picture_column(schema, file)
            if not used:
                column = here
                labelled, names = _label_column(schema)
            if here != column or (labelled and labelled not in schema.names):
                raise TableError("files of one set have different columns", got=f"{file.name}: {schema.names}")
            others = [name for name in schema.names if name != column]
            tables.append(opened.read(columns=others))
        except (pa.ArrowException, OSError) as error:
            broken = of_os_error(error, file) if isinstance(error, OSError) and error.errno else CorruptMedia(
                "this is no whole Parquet file", got=f"{file}: {error}")  # fmt: skip
            tell("truncated", file.name, broken)
            continue
        except MienError as error_:
            tell("row", file.name, error_)
            continue
        for number in range(opened.num_row_groups):
            groups.append((len(used), number))
            counts.append(opened.metadata.row_group(number).num_rows)
        used.append(str(file))
    blocks = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    try:
        table = pa.concat_tables(tables, promote_options="permissive") if tables else None
    except pa.ArrowException as error:
        raise TableError("files of one set have different columns", got=str(error)) from error
    total = int(blocks[-1])
    columns = {} if table is None else _columns(table)
    labels, label_names = _labels(table, labelled, names, total, tell) if table is not None else (None, ())
    columns.pop(labelled, None)
    points = columns.pop("points", None)
    if points is not None and not (points.ndim == 3 and points.shape[2] == 2):
        columns["points"], points = points, None
    return Samples(
        format="parquet", root=path, keys=_keys(used, groups, counts),
        coded=RowGroups(used, column, np.array(groups, np.int64).reshape(-1, 2), blocks),
        labels=labels, label_names=label_names, columns=columns,
        points=None if points is None else points.astype(np.float32),
    )  # fmt: skip


def _keys(files: Sequence[str], groups: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[str]:
    seen = [0] * len(files)
    keys = []
    for (part, _), count in zip(groups, counts, strict=True):
        name = Path(files[part]).name
        keys += [f"{name}:{row}" for row in range(seen[part], seen[part] + count)]
        seen[part] += count
    return keys


def _picture_column(schema: Any, file: Path) -> str:
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and _binary(field.type) for field in kind)
        return _binary(kind)

    fitting = [field.name for field in schema if holds(field.type)]
    if not fitting:
        raise TableError(f"{file.name} has no column of pictures", got=schema.names, expected="image: {bytes, path}")
    return next((name for name in ("image", "img", "picture", "jpg") if name in fitting), fitting[0])


def _binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_column(schema: Any) -> tuple[str, tuple[str, ...]]:
    """Name of the column of labels ("" for none), and the names of the labels."""
    import pyarrow as pa

    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        kinds = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError):
        kinds = {}
    classes = [name for name, kind in kinds.items() if kind.get("_type") == "ClassLabel" and name in schema.names]
    if classes:
        names = kinds[classes[0]].get("names") or ()
        return classes[0], tuple(map(str, names))
    there = [name for name in LABELS if name in schema.names]
    plain = [n for n in there if pa.types.is_integer(schema.field(n).type) or pa.types.is_string(schema.field(n).type)]
    return (plain[0] if plain else ""), ()


def _labels(
    table: Any, name: str, names: tuple[str, ...], total: int, tell: Tell
) -> tuple[Ints | None, tuple[str, ...]]:
    if not name:
        return None, ()
    column = table.column(name)
    values = column.to_pylist()
    if any(isinstance(value, str) for value in values):
        return numbered(["" if value is None else str(value) for value in values])
    labels = np.array([-1 if value is None else value for value in values], np.int64)
    beyond = int(np.count_nonzero(labels >= len(names))) if names else 0
    if beyond:
        error = TableError("labels have no name", got=f"{beyond} of {total} rows", expected=f"0 to {len(names) - 1}")
        tell("wrong_count", name, error)
    return labels, names


def _columns(table: Any) -> dict[str, NDArray[Any]]:
    """Columns that are arrays: numbers, text, booleans, and (nested) lists of equal length."""
    import pyarrow as pa

    found: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        inner = kind
        while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
            inner = inner.value_type
        plain = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)
        column = table.column(name)
        if inner is kind and plain and not column.null_count:
            found[name] = np.asarray(column.to_numpy())
        elif inner is kind and pa.types.is_string(kind):
            found[name] = np.array(["" if value is None else value for value in column.to_pylist()], str)
        elif inner is not kind and plain and not column.null_count:
            try:
                found[name] = np.array(column.to_pylist())
            except ValueError:  # lists of different lengths are no array
                continue
            if found[name].dtype == object:
                del found[name]
    return found


# ------------------------------------------------------------------------------------------- writing


def write_parquet(
    samples: Samples, target: Path, rows: Iterable[tuple[int, bytes]], *, shard: int, group: int = GROUP
) -> None:
    """``train-00000-of-00003.parquet`` … in the folder `target`, `shard` pictures a file, with the tools' metadata."""
    parquet = pyarrow()
    import pyarrow as pa

    count = max(1, -(-len(samples) // shard))
    schema, features = _schema(samples)
    about = json.dumps({"info": {"features": features}})
    schema = schema.with_metadata({"huggingface": about})
    left = iter(rows)
    written, writer, number = 0, None, 0
    try:
        # A row group ends with its file, so that no file has more pictures than were asked for.
        while batch := list(itertools.islice(left, min(group, shard - written % shard))):
            if written % shard == 0:
                if writer is not None:
                    writer.close()
                file = target / f"train-{number:05d}-of-{count:05d}.parquet"
                # Pictures are compressed already, and no two are the same.
                writer = parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False)
                number += 1
            assert writer is not None
            writer.write_table(pa.table(_arrays(samples, batch), schema=schema), row_group_size=group)
            written += len(batch)
    finally:
        if writer is not None:
            writer.close()
    for part in range(number):  # fewer than foreseen, where pictures could not be read
        if number != count:
            name = target / f"train-{part:05d}-of-{count:05d}.parquet"
            name.rename(target / f"train-{part:05d}-of-{number:05d}.parquet")


def kept_columns(samples: Samples) -> dict[str, NDArray[Any]]:
    """Columns that tables and JSON can hold, with the points among them."""
    columns = {name: column for name, column in samples.columns.items() if column.dtype.kind in "biufUS"}
    return columns | ({"points": samples.points} if samples.points is not None else {})


def _schema(samples: Samples) -> tuple[Any, dict[str, Any]]:
    import pyarrow as pa

    fields: list[Any] = [pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if samples.labels is not None:
        fields.append(pa.field("label", pa.int64()))
        # A name for each number, or none: Hugging Face's tools take the list for the range of the labels.
        named = len(samples.label_names) > int(samples.labels.max(initial=-1))
        features["label"] = (
            {"_type": "ClassLabel", "names": list(samples.label_names)}
            if samples.label_names and named
            else {"_type": "Value", "dtype": "int64"}
        )
    for name, column in kept_columns(samples).items():
        if name in features:
            raise OptionError("a column bears a name that the format needs", got=name)
        kind = pa.string() if column.dtype.kind in "US" else pa.from_numpy_dtype(column.dtype)
        feature: Any = {"_type": "Value", "dtype": "string" if column.dtype.kind in "US" else str(column.dtype)}
        for _ in column.shape[1:]:
            kind, feature = pa.list_(kind), {"_type": "List", "feature": feature}
        fields.append(pa.field(name, kind))
        features[name] = feature
    return pa.schema(fields), features


def _arrays(samples: Samples, batch: list[tuple[int, bytes]]) -> dict[str, Any]:
    index = [row for row, _ in batch]
    arrays: dict[str, Any] = {"image": [{"bytes": data, "path": samples.keys[row]} for row, data in batch]}
    if samples.labels is not None:
        arrays["label"] = samples.labels[index]
    for name, column in kept_columns(samples).items():
        arrays[name] = column[index].tolist()
    return arrays
