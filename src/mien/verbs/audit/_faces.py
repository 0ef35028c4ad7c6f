"""Faces for audits of models that each want their own crop: every picture is looked at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import NoFaceFound, OptionError, TableError
from mien.faces import EXPRESSIONS, Failure
from mien.verbs import _choose, _pipeline
from mien.verbs._pipeline import Plan, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Faces
    from mien.media import Photo
    from mien.papers.fer_xai import ExpressionModel
    from mien.weights import InputContract


def model_of(given: Any, device: str) -> ExpressionModel:
    """A model from the name of weights, an `ExpressionModel`, or a function of pictures.

    Raises
    ------
    OptionError
        It is nothing of that, or the weights read no expressions.
    UnknownWeights, DeviceUnavailable
        No such weights, or no such device.
    """
    from mien.papers.fer_xai import ExpressionModel

    if isinstance(given, ExpressionModel):
        return given
    if callable(given):
        return ExpressionModel(name=str(getattr(given, "__name__", type(given).__name__)), predict=given)
    if not isinstance(given, str):
        raise OptionError("not a model", got=type(given).__name__, expected="a name of weights, or a function")
    from mien.weights import device as device_of
    from mien.weights import info

    weights = info(given)
    if weights.task != "reading":
        raise OptionError(f"{given} are weights for another task", got=weights.task, expected="reading")
    contract, place = weights.input, str(device_of(device))
    network = _pipeline._network(weights, place, "torch")

    def predict(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        read = _pipeline.answers(weights, _pipeline.forward(network, contract, pictures, place))
        if "expressions" not in read:
            raise OptionError(f"{given} reads no expressions", got=sorted(read), expected="expressions")
        return read["expressions"]

    return ExpressionModel(
        name=given, predict=predict, classes=EXPRESSIONS, size=contract.size or 112, template=contract.template,
        margin=contract.margin, up=contract.up,
    )  # fmt: skip


@dataclass
class Cuts:
    """The faces of a set, as one kind of crop shows them: crops (n, S, S, 3) and landmarks (n, 68, 2) in them."""

    contract: InputContract
    crops: list[NDArray[np.uint8]] = field(default_factory=list)
    points: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, photo: Photo, faces: Faces, row: int) -> None:
        """Cuts one face."""
        import cv2

        from mien.geometry import similarity

        size = self.contract.size or 112
        points = faces.landmarks[row : row + 1, :68]
        if self.contract.template == "photo":
            height, width = photo.image.shape[:2]
            scale = np.array([size / width, size / height], np.float32)
            kind = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
            self.crops.append(np.asarray(cv2.resize(photo.image, (size, size), interpolation=kind), np.uint8))
            self.points.append(((points[0] + 0.5) * scale - 0.5).astype(np.float32))
            return
        matrix = _pipeline.crop_matrices(self.contract, faces.boxes[row : row + 1], faces.landmarks5[row : row + 1])
        self.crops.append(_pipeline.cut([photo], np.zeros(1, np.int32), matrix, size)[0])
        self.points.append(similarity.apply(matrix, points)[0].astype(np.float32))

    def stacked(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Crops and landmarks as arrays."""
        size = self.contract.size or 112
        if not self.crops:
            return np.zeros((0, size, size, 3), np.uint8), np.zeros((0, 68, 2), np.float32)
        return np.stack(self.crops), np.stack(self.points)


def contract_of(model: ExpressionModel, crop: str) -> InputContract:
    """How faces are cut for a model: as it wants, or the whole picture."""
    from mien.weights import InputContract

    template = "photo" if crop == "photo" else model.template
    return InputContract(size=model.size, template=template, margin=model.margin, up=model.up)


@dataclass(frozen=True)
class Seen:
    """What became of the pictures: names of those with a face, crops by contract, what failed, how many had no face."""

    names: list[str]
    cuts: dict[InputContract, Cuts]
    failures: tuple[Failure, ...]
    faceless: int


def look(
    path: str | Sequence[str],
    contracts: Sequence[InputContract],
    *,
    plan: Plan,
    choose: str,
    recursive: bool,
    progress: Progress | None,
) -> Seen:
    """The chosen face of every picture, cut by each contract."""
    cuts = {contract: Cuts(contract) for contract in contracts}
    names: list[str] = []
    bare: list[Failure] = []

    def take(photo: Photo, faces: Faces) -> None:
        row = _choose.choose(faces, choose)
        if row is None:
            bare.append(Failure.of(photo.info.source, NoFaceFound("there is no face in it")))
            return
        names.append(photo.info.source)
        for one in cuts.values():
            one.add(photo, faces, row)

    listed: Any = path if _pipeline.several(path) else [path]
    found = _pipeline.run(listed, plan, recursive=recursive, progress=progress, sink=take)
    return Seen(names, cuts, (*found.failures, *bare), len(bare))


def by_expression(path: str | Sequence[str]) -> bool:
    """Whether that is a folder with folders named after expressions."""
    from mien.papers.fer_xai import expression

    if not isinstance(path, str | Path) or not Path(path).is_dir():
        return False
    return any(child.is_dir() and expression(child.name) in EXPRESSIONS for child in Path(path).iterdir())


def truth_of(names: Sequence[str], root: Path, labels: str | None) -> list[str]:
    """What each picture shows: by a table, else by the name of its folder; "" where nobody knows.

    Raises
    ------
    TableError
        The table cannot be read, or has not the columns file and expression.
    """
    from mien.papers.fer_xai import expression

    if labels is None:
        folders = [expression(Path(name).parent.name) for name in names]
        return [one if one in EXPRESSIONS else "" for one in folders]
    import csv

    try:
        with Path(labels).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError("the table cannot be read", got=error, expected="a CSV file with file,expression") from error
    if not rows or not {"file", "expression"} <= rows[0].keys():
        raise TableError(
            "the table has not the columns that are needed", got=list(rows[0]) if rows else "no rows",
            expected="file,expression",
        )  # fmt: skip
    known = {os_path(root / row["file"]): expression(row["expression"] or "") for row in rows}
    return [known.get(os_path(Path(name)), "") for name in names]


def os_path(path: Path) -> str:
    """A path that compares equal however it was written."""
    return str(path.absolute())
