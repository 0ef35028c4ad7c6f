"""The folders of LFW and CFP as their owners publish them, with their pairs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mien.data.formats._text import bad_row, lines_of, numbers, wrong_count
from mien.data.formats.folders import pictures_below
from mien.data.formats.samples import Files, Samples, Tell, numbered, picked, strict, unique_rows
from mien.data.sets import Pairs
from mien.errors import MediaNotFound, MienError, TableError

__all__ = ["read_cfp", "read_lfw"]

PAIR_LISTS = {"pairs.txt": "view2", "pairsDevTrain.txt": "dev_train", "pairsDevTest.txt": "dev_test"}


# ------------------------------------------------------------------------------------------- LFW


def find_lfw(path: Path) -> list[Path]:
    """`path`, if pairs.txt (or a development list) is in it in LFW's own form."""
    return [path] if any(_is_pair_list(path / name) for name in PAIR_LISTS) else []


def _is_pair_list(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            first = opened.readline(200).split()
    except OSError:
        return False
    return 1 <= len(first) <= 2 and all(word.isdigit() for word in first)


def read_lfw(path: str | os.PathLike[str], *, tell: Tell = strict) -> Samples:
    """LFW: ``Name/Name_0001.jpg`` (at `path`, or one folder below), and pairs.txt: ten folds of 300 and 300.

    `pairs` holds "view2" and, where their lists are there, "dev_train" and "dev_test" (fold 0).

    Raises
    ------
    MediaNotFound
        There are no pictures, or no list.
    TableError
        A list is not as it says, or names a picture that is not there.
    """
    path = Path(path)
    home = next((folder for folder in [path, *sorted(path.iterdir())] if _has_people(folder)), None)
    lists = [path / name for name in PAIR_LISTS if (path / name).is_file()]
    if home is None or not lists:
        raise MediaNotFound("this is no LFW", got=path, expected="folders Name/Name_0001.jpg and pairs.txt")
    files = [file for file in pictures_below(home, depth=1) if file.parent != home]
    keys = [file.relative_to(home).as_posix() for file in files]
    labels, names = numbered([file.parent.name for file in files])
    row = {key.rpartition(".")[0]: number for number, key in enumerate(keys)}
    return Samples(
        format="lfw", root=path, keys=keys, coded=Files([str(file) for file in files]), labels=labels,
        label_names=names, pairs={PAIR_LISTS[file.name]: _lfw_pairs(file, row, tell) for file in lists},
    )  # fmt: skip


def _has_people(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    people = (entry for entry in folder.iterdir() if entry.is_dir())
    return any(next(person.glob(f"{person.name}_[0-9]*.*"), None) is not None for person in list(people)[:50])


def _lfw_pairs(file: Path, row: dict[str, int], tell: Tell) -> Pairs:
    lines = lines_of(file)
    counts = numbers((lines[0] if lines else "").split(), int)
    if not counts or len(counts) > 2 or min(counts) < 1:
        raise TableError(f"{file.name} does not begin as it should", got=lines[0] if lines else "nothing",
                         expected="the numbers of folds and of pairs")  # fmt: skip
    folds, each = (counts[0], counts[1]) if len(counts) == 2 else (1, counts[0])
    if len(lines) - 1 != 2 * folds * each:
        tell("wrong_count", file.name, wrong_count(file, "pairs", len(lines) - 1, 2 * folds * each))
    found: list[tuple[int, int, bool, int]] = []
    seen = set[tuple[str, ...]]()
    for number, line in enumerate(lines[1:], 2):
        words = line.split("\t") if "\t" in line else line.split()
        fold, within = divmod(number - 2, 2 * each)
        if len(words) == 3:
            two = (words[0], words[1], words[0], words[2])
        else:
            two = (words[0], words[1], words[2], words[3]) if len(words) == 4 else ("", "", "", "")
        if not (two[1].isdigit() and two[3].isdigit()):
            tell(
                "row",
                f"{file.name} line {number}",
                bad_row(file, number, line, "name, two numbers; or name, number, twice"),
            )
            continue
        if (len(words) == 3) != (within < each):
            error = TableError(f"{file.name} line {number} is in the wrong half of its fold", got=line,
                               expected=f"{each} pairs of one person, then {each} of two")  # fmt: skip
            tell("wrong_count", f"{file.name} line {number}", error)
        names = tuple(f"{name}/{name}_{int(count):04d}" for name, count in ((two[0], two[1]), (two[2], two[3])))
        missing = [name for name in names if name not in row]
        for name in missing:
            tell(
                "missing_file",
                f"{file.name} line {number}",
                MediaNotFound("a pair names a picture that is not there", got=name),
            )
        if names in seen:
            tell("duplicate", f"{file.name} line {number}", TableError("a pair is listed twice", got=line))
        seen.add(names)
        if not missing:
            found.append((row[names[0]], row[names[1]], len(words) == 3, fold))
    return _pairs(found)


def _pairs(found: list[tuple[int, int, bool, int]]) -> Pairs:
    table = np.array(found, np.int64).reshape(-1, 4)
    return Pairs(table[:, 0], table[:, 1], table[:, 2] == 1, table[:, 3])


# ------------------------------------------------------------------------------------------- CFP


def find_cfp(path: Path) -> list[Path]:
    """`path` or the folder `cfp-dataset` in it, if it has the protocol's two lists."""
    homes = (path, path / "cfp-dataset")
    return [home for home in homes if (home / "Protocol" / "Pair_list_F.txt").is_file()][:1]


def read_cfp(path: str | os.PathLike[str], *, tell: Tell = strict) -> Samples:
    """CFP: ``Data/Images/NNN/{frontal,profile}/NN.jpg``, ``Protocol/Pair_list_{F,P}.txt`` and ``Protocol/Split``.

    `pairs` holds "FF" and "FP" in ten folds; `points` are the 30 fiducials, where their files are there; the column
    `profile` tells the pose.

    Raises
    ------
    MediaNotFound
        A list or a picture is not there.
    TableError
        A list is not as it should be.
    """
    path = Path(path)
    protocol = path / "Protocol"
    listed: dict[str, dict[int, str]] = {}
    for letter in "FP":
        listed[letter] = _numbered_paths(protocol / f"Pair_list_{letter}.txt", tell)
    names = [name for letter in "FP" for name in listed[letter].values()]
    profile = np.repeat([False, True], [len(listed[letter]) for letter in "FP"])
    # The lists' paths start at the folder of the lists, ../Data/Images/…
    files = [Path(os.path.normpath(protocol / name)) for name in names]
    keep = unique_rows(names, protocol / "Pair_list_F.txt", tell)
    keep[keep] = picked([files[k] for k in np.flatnonzero(keep)], [names[k] for k in np.flatnonzero(keep)], tell)
    place = np.where(keep, np.cumsum(keep) - 1, -1).tolist()
    frontal = dict(zip(listed["F"], place[: len(listed["F"])], strict=True))
    turned = dict(zip(listed["P"], place[len(listed["F"]) :], strict=True))
    pairs = {
        name: _cfp_pairs(protocol / "Split" / name, frontal, second, tell)
        for name, second in (("FF", frontal), ("FP", turned))
        if (protocol / "Split" / name).is_dir()
    }
    kept = [files[k] for k in np.flatnonzero(keep)]
    labels, people = numbered([file.parent.parent.name for file in kept])
    return Samples(
        format="cfp", root=path, keys=[file.as_posix().rpartition("/Images/")[2] for file in kept],
        coded=Files([str(file) for file in kept]), labels=labels, label_names=_cfp_names(path, people), pairs=pairs,
        points=_fiducials(path, kept, tell), columns={"profile": profile[keep]},
    )  # fmt: skip


def _numbered_paths(file: Path, tell: Tell) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, line in enumerate(lines_of(file), 1):
        index, _, name = line.strip().partition(" ")
        if not index.isdigit() or not name.strip():
            tell("row", f"{file.name} line {number}", bad_row(file, number, line, "number and path"))
        elif int(index) in found:
            tell("duplicate", f"{file.name} line {number}", TableError("a number is given twice", got=line))
        else:
            found[int(index)] = name.strip()
    return found


def _cfp_pairs(folder: Path, first: dict[int, int], second: dict[int, int], tell: Tell) -> Pairs:
    found: list[tuple[int, int, bool, int]] = []
    splits = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    for fold, split in enumerate(splits):
        for name in ("same", "diff"):
            file = split / f"{name}.txt"
            where = f"{folder.name}/{split.name}/{file.name}"
            try:
                lines = lines_of(file)
            except MienError as error:
                tell("missing_file", where, error)
                continue
            for number, line in enumerate(lines, 1):
                two = numbers(line.split(","), int)
                if two is None or len(two) != 2 or two[0] not in first or two[1] not in second:
                    tell("row", f"{where} line {number}", bad_row(file, number, line, "two numbers of the pair lists"))
                elif first[two[0]] >= 0 and second[two[1]] >= 0:  # the missing picture has been told
                    found.append((first[two[0]], second[two[1]], name == "same", fold))
    return _pairs(found)


def _cfp_names(path: Path, people: tuple[str, ...]) -> tuple[str, ...]:
    listed = path / "Data" / "list_name.txt"
    if not listed.is_file():
        return people
    names = [line.strip() for line in lines_of(listed)]
    fits = all(person.isdigit() and 1 <= int(person) <= len(names) for person in people)
    return tuple(names[int(person) - 1] for person in people) if fits else people


def _fiducials(path: Path, files: list[Path], tell: Tell) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    if not (path / "Data" / "Fiducials").is_dir():
        return None
    found = np.full((len(files), 30, 2), np.nan, np.float32)
    for row, picture in enumerate(files):
        file = Path(str(picture).replace("Images", "Fiducials")).with_suffix(".txt")
        try:
            table = [numbers(line.split(",")) for line in lines_of(file)]
        except MienError as error:
            tell("missing_file", str(file.relative_to(path)), error)
            continue
        if len(table) != 30 or any(line is None or len(line) != 2 for line in table):
            error_ = TableError("a file of fiducials is not as it should be", got=file, expected="30 lines x,y")
            tell("row", str(file.relative_to(path)), error_)
            continue
        found[row] = np.array(table, np.float32)
    return found
