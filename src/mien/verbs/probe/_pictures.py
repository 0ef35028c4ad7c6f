"""Networks and pictures for `probe`: whole photos, boxes in them, or aligned faces, as squares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mien.errors import NoFaceFound, OptionError, TableError
from mien.faces import Failure
from mien.geometry.checks import choice
from mien.verbs import _choose, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Faces, ImageInfo
    from mien.media import Photo
    from mien.papers.cnn_off_the_shelf import Backbone, Recipe

CROPS = ("auto", "photo", "face", "box")
DEFAULT_NETWORK = "mien-embedder"


def network_of(
    network: str | None, weights: str | None, pretrained: bool, random: bool, side: int | None, seed: int, device: str
) -> Backbone:
    from mien.papers.cnn_off_the_shelf import backbone

    if network is None:
        name = weights or DEFAULT_NETWORK
        return backbone(name, pretrained=pretrained, random=random, size=side, seed=seed, device=device)
    return backbone(network, weights=weights, pretrained=pretrained, random=random, size=side, seed=seed, device=device)


def crop_of(asked: str, source: Backbone, boxed: bool) -> str:
    """What of a picture is looked at."""
    choice("crop", asked, CROPS)
    if asked == "box" and not boxed:
        raise OptionError("the table has no boxes", got=asked, expected="columns xmin,ymin,xmax,ymax")
    if asked != "auto":
        return asked
    if source.input.template != "photo":
        return "face"
    return "box" if boxed else "photo"


class Seen(NamedTuple):
    """Crops (n, S, S, 3), the numbers of the pictures they are of, and what went wrong."""

    crops: NDArray[np.uint8]
    rows: NDArray[np.int64]
    names: list[str]
    failures: tuple[Failure, ...]
    faceless: int


def pictures(
    source: Source,
    recipe: Recipe,
    network: Backbone,
    boxes: NDArray[np.float32] | None,
    choose: str,
    device: str,
    batch_size: int,
    progress: Progress | None,
    *,
    recursive: bool = False,
) -> Seen:
    """Crops of all pictures that can be read: squares, 1.5 times as large as the network's input where it is jittered,
    so that a part of two thirds has all the pixels that the network can see."""
    side = network.size if len(recipe.views) == 1 else round(1.5 * network.size)
    if recipe.crop == "face":
        return _aligned(source, network, side, choose, device, batch_size, progress, recursive)
    stream, total = _pipeline._photos(source, recursive=recursive, every_s=None)
    place = _places(source)
    crops, rows, names, failures = [], [], [], []
    for number, photo in enumerate(stream, 1):
        if isinstance(photo, Failure):
            failures.append(photo)
            place(photo.source)
        elif (row := place(photo.info.source)) is not None:
            box = None if boxes is None or recipe.crop != "box" else boxes[row]
            crops.append(_squashed(photo.image, box, recipe.margin, side))
            rows.append(row)
            names.append(_called(photo.info))
        if progress is not None:
            progress(number, total, "pictures")
    stack = np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)
    return Seen(stack, np.asarray(rows, np.int64), names, tuple(failures), 0)


def _places(source: Source) -> Callable[[str], int | None]:
    """A function from what was read, in its order, to the row it belongs to.

    Rows of a list are those of its files, each mention on its own; of a video among them the first frame counts. What
    was found in folders has no other rows than its own.
    """
    if not isinstance(source, list):
        counter = itertools.count()
        return lambda name: next(counter)
    open_rows: dict[str, list[int]] = {}
    for row, file in enumerate(source):
        open_rows.setdefault(str(file), []).append(row)

    def place(name: str) -> int | None:
        rows = open_rows.get(name)
        return rows.pop(0) if rows else None

    return place


def _called(info: ImageInfo) -> str:
    return info.source if info.time_s is None else f"{info.source}@{info.time_s:.3f}"


def _squashed(image: NDArray[np.uint8], box: NDArray[np.float32] | None, margin: float, side: int) -> NDArray[np.uint8]:
    """A picture, or the square of a box in it, as a square of `side` pixels."""
    import cv2

    from mien.geometry import boxes as geometry

    if box is not None:
        height, width = image.shape[:2]
        wide = geometry.clip(geometry.expand(box, margin), width, height)
        left, top = np.floor(wide[:2]).astype(int)
        right, bottom = np.ceil(wide[2:]).astype(int)
        if right <= left or bottom <= top:
            raise TableError("a box lies outside of its picture", got=box.tolist(), expected=f"{width} x {height} px")
        image = image[top:bottom, left:right]
    kind = cv2.INTER_AREA if min(image.shape[:2]) > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=kind), np.uint8)


def _aligned(
    source: Source,
    network: Backbone,
    side: int,
    choose: str,
    device: str,
    batch_size: int,
    progress: Progress | None,
    recursive: bool,
) -> Seen:
    """The chosen face of every picture, cut as the network's contract says: by five points, or about its box."""
    contract = network.input
    template = contract.template if contract.template not in ("photo", "box") else "arcface112"
    plan = Plan(landmarks="mien-landmarks", template=template, crop_size=side, device=device, batch_size=batch_size)
    if contract.template == "box":
        return _boxed(source, network, side, choose, plan, progress, recursive)
    listed = source if _pipeline.several(source) else [source]
    faces = _pipeline.run(listed, plan, recursive=recursive, progress=progress)
    return _of_faces(source, faces.images, _choose.one_of_each(faces, choose), faces.crops, faces.failures)


def _boxed(
    source: Source, network: Backbone, side: int, choose: str, plan: Plan, progress: Progress | None, recursive: bool
) -> Seen:
    """As `_aligned`, for contracts that want an upright square about the box."""
    from mien.weights import InputContract

    contract = InputContract(size=side, template="box", margin=network.input.margin)
    infos: list[ImageInfo] = []
    crops: list[NDArray[np.uint8]] = []
    chosen: list[int] = []

    def take(photo: Photo, faces: Faces) -> None:
        row = _choose.choose(faces, choose)
        infos.append(photo.info)
        chosen.append(-1 if row is None else len(crops))
        if row is not None:
            matrix = _pipeline.crop_matrices(contract, faces.boxes[row : row + 1], faces.landmarks5[row : row + 1])
            crops.append(_pipeline.cut([photo], np.zeros(1, np.int32), matrix, side)[0])

    listed = source if _pipeline.several(source) else [source]
    found = _pipeline.run(listed, plan, recursive=recursive, progress=progress, sink=take)
    stack = np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)
    return _of_faces(source, infos, np.asarray(chosen, np.int64), stack, found.failures)


def _of_faces(
    source: Source,
    infos: Sequence[ImageInfo],
    chosen: NDArray[np.int64],
    crops: NDArray[np.uint8],
    failures: tuple[Failure, ...],
) -> Seen:
    """The chosen face of each picture (-1: none), with the row of `source` that it belongs to."""
    place = _places(source)
    picked, rows, names, bare = [], [], [], []
    for info, face in zip(infos, chosen.tolist(), strict=True):
        row = place(info.source)
        if face < 0:
            bare.append(Failure.of(_called(info), NoFaceFound("there is no face in it")))
        elif row is not None:
            picked.append(face)
            rows.append(row)
            names.append(_called(info))
    return Seen(crops[picked], np.asarray(rows, np.int64), names, (*failures, *bare), len(bare))


def told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    listener = progress
    return lambda done, total: listener(done, total, what)
