"""From pictures to rows of `Faces`: the one path that every verb takes, in batches of pictures and batches of
faces.

    sources -> photos (decoded ahead) -> batches of photos
            -> detector on scaled photos of like size
            -> landmark network on the crops of all faces of the batch
            -> aligned crops of all faces -> embedder, and quality; reader; parser

No network ever sees one face at a time because it came alone: the crops of a whole batch of photos go through
together, and one photo is a batch of one. What comes out does not depend on which photos share a batch.
"""

from __future__ import annotations

import mimetypes
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mien.errors import InputError, OptionError
from mien.faces import Faces, Failure, ImageInfo
from mien.geometry.checks import choice
from mien.geometry.similarity import TEMPLATES
from mien.verbs._score import normalised
from mien.verbs.quality import METHODS, rating

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from mien.media import Photo
    from mien.weights import InputContract, Weights

    Network = Callable[[torch.Tensor], torch.Tensor]
    Crops = NDArray[np.uint8]
    Floats = NDArray[np.float32]

Source = Any
"""A path, folder, glob, array, tensor, PIL image, bytes or file object; or several of them."""

Progress = Callable[[int, int | None, str], None]
"""Called as ``progress(done, total, what)``; `total` is None while nobody knows it (videos)."""

Sink = Callable[["Photo", Faces], None]
"""Called with every photo and its faces, in order, before the photo is let go."""

FACE_BATCH = 64
"""Crops that go through a network together. More brings nothing on a CPU and costs memory."""

PARSE_BATCH = 16
"""Crops that are parsed together: 19 numbers a pixel."""

PASS_PIXELS = 8 * 640 * 480
"""Pixels that go through the detector together. More is slower on a CPU, for want of cache, and costs memory."""

GRID = 32
"""Photos are padded to multiples of this, so that photos of like shape share a batch."""

GREY = 127
"""What the detector sees around photos: the mean, which is zero after scaling."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is wanted of every face. A stage whose weights are None is left out.

    Parameters
    ----------
    detector, landmarks, embedder, reader, parser
        Names of weights.
    threshold
        Least detection score; None is the one declared with the detector.
    size
        Long side, in pixels, at which the detector looks at photos.
    min_face
        Least side of a face's box, pixels of the photo.
    pad
        Grey border that the detector sees around every photo, as a share of its long side: a photo that is cropped
        tightly around a face shows no surroundings by which a detector could tell the face.
    template, crop_size
        Framing and side of `Faces.crops`; None keeps no crops.
    quality
        "norm", "stability", "recognizability" or "components" (see `mien.verbs.quality`); None leaves quality out.
    device, backend
        Where and by what networks run.
    batch_size
        Photos that are held and looked at together.
    """

    detector: str = "mien-detector"
    landmarks: str | None = None
    embedder: str | None = None
    reader: str | None = None
    parser: str | None = None
    threshold: float | None = None
    size: int = 640
    min_face: float = 10.0
    pad: float = 0.0
    template: str | None = None
    crop_size: int = 112
    quality: str | None = None
    device: str = "auto"
    backend: str = "torch"
    batch_size: int = 8

    def __post_init__(self) -> None:
        def need(good: bool, name: str, got: object, expected: str) -> None:
            if not good:
                raise OptionError(f"the option {name} has no usable value", got=got, expected=expected)

        need(
            self.threshold is None or 0 <= self.threshold < 1,
            "threshold",
            self.threshold,
            "a score, 0 to below 1",
        )
        need(self.size >= GRID, "size", self.size, f"pixels, at least {GRID}")
        need(self.min_face >= 0, "min_face", self.min_face, "pixels, at least 0")
        need(0 <= self.pad <= 4, "pad", self.pad, "a share of the long side, 0 to 4")
        need(self.batch_size >= 1, "batch_size", self.batch_size, "photos at a time, at least 1")
        need(self.crop_size >= 8, "crop_size", self.crop_size, "pixels, at least 8")
        choice("backend", self.backend, ("torch", "onnx"))
        if self.quality is not None:
            choice("quality", self.quality, METHODS)
        if self.template is not None:
            choice("template", self.template, tuple(TEMPLATES))


def run(
    source: Source,
    plan: Plan,
    *,
    recursive: bool = False,
    every_s: float | None = None,
    progress: Progress | None = None,
    sink: Sink | None = None,
) -> Faces:
    """All faces of all pictures of `source`, with the columns that `plan` asks for.

    One picture that cannot be read raises its error; among several, it lands in `Faces.failures`.
    """
    networks = Networks(plan)  # before the first picture is read: missing weights or devices are told at once
    failures: list[Failure] = []
    parts: list[Faces] = []
    done = 0
    stream, total = _photos(source, recursive=recursive, every_s=every_s)
    for batch in chunks(_without_failures(stream, failures), plan.batch_size):
        part = _faces_of(batch, plan, networks)
        parts.append(part)
        if sink is not None:
            for index, photo in enumerate(batch):
                sink(photo, part.of_image(index))
        done += len(batch)
        if progress is not None:
            progress(done + len(failures), total, "pictures")
    joined = Faces.concat(parts) if parts else networks.nothing(plan)
    return with_failures(joined, failures)


def run_photos(photos: Sequence[Photo], plan: Plan) -> Faces:
    """All faces of photos that are in memory already, as one batch."""
    return _faces_of(photos, plan, Networks(plan))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def with_failures(faces: Faces, failures: Sequence[Failure]) -> Faces:
    """`faces` with more failures."""
    return Faces.concat([faces, Faces.empty(failures=failures)]) if failures else faces


# ---------------------------------------------------------------------------------------------- pictures


def several(source: Source) -> bool:
    """Whether `source` stands for many pictures (a list, a folder, a glob, a stack of arrays) rather than for
    one."""
    if isinstance(source, str | Path):
        # os.path rather than pathlib: it says "no" to names that no system can have, where pathlib raises.
        return os.path.isdir(source) or (any(c in str(source) for c in "*?[") and not os.path.lexists(source))
    if isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read"):
        return False
    if hasattr(source, "shape"):
        return len(source.shape) == 4
    return isinstance(source, Iterable)


def _photos(source: Source, *, recursive: bool, every_s: float | None) -> tuple[Iterator[Photo | Failure], int | None]:
    """Photos and failures in order, and how many there will be (None with videos among them)."""
    from mien.media import expand_sources, read_images

    if not several(source):
        return _alone(source, every_s), 1
    if isinstance(source, str | Path):
        items: list[Any] = list(expand_sources(source, recursive=recursive))
        return read_images(items, every_s=every_s), len(items)
    items = []
    for one in source:
        # A folder or glob among several sources may be missing without harm to the others.
        if isinstance(one, str | Path) and several(one):
            try:
                items.extend(expand_sources(one, recursive=recursive))
            except InputError as error:
                items.append(Failure.of(str(one), error))
        else:
            items.append(one)
    return _keeping_failures(items, every_s), len(items)


def _keeping_failures(items: list[Any], every_s: float | None) -> Iterator[Photo | Failure]:
    """Photos of `items`, in which failures known already stand at their places."""
    from mien.media import read_images

    known = [index for index, item in enumerate(items) if isinstance(item, Failure)]
    start = 0
    for stop in [*known, len(items)]:
        if stop > start:
            yield from read_images(items[start:stop], every_s=every_s)
        if stop < len(items):
            yield items[stop]
        start = stop + 1


def _alone(source: Source, every_s: float | None) -> Iterator[Photo | Failure]:
    """The one picture (or video) that was asked for; what is wrong with it is raised, not collected."""
    from mien.media import open_video, read_images

    kind = mimetypes.guess_type(source)[0] if isinstance(source, str | Path) else None
    if kind is not None and kind.startswith("video/") and os.path.exists(source):
        open_video(source)  # raises what `read_images` would collect
        yield from read_images([source], every_s=every_s)
    else:
        yield read_one(source)


def read_one(source: Source, name: str = "picture") -> Photo:
    """One picture; `name` stands for what has no path."""
    from mien.media import Photo, load_image

    image = load_image(source)
    height, width = image.shape[:2]
    return Photo(image, ImageInfo(str(source) if isinstance(source, str | Path) else name, width, height))


def _without_failures(stream: Iterable[Photo | Failure], failures: list[Failure]) -> Iterator[Photo]:
    for item in stream:
        if isinstance(item, Failure):
            failures.append(item)
        else:
            yield item


# ---------------------------------------------------------------------------------------------- networks


@lru_cache(maxsize=16)
def _network(weights: Weights, device: str, backend: str) -> Network:
    from mien.weights import load

    network: Network = load(weights.name, device=device, backend=backend)
    return network


class Networks:
    """The networks that a plan needs, loaded once for each process, with their contracts."""

    def __init__(self, plan: Plan) -> None:
        from mien.weights import device, info

        self.device = str(device(plan.device, backend=plan.backend))

        def get(name: str | None, task: str) -> tuple[Weights, Network] | None:
            if name is None:
                return None
            weights = info(name)
            if weights.task != task:
                raise OptionError(
                    f"{name} are weights for another task",
                    got=weights.task,
                    expected=task,
                    hint="`mien weights list`",
                )
            return weights, _network(weights, self.device, plan.backend)

        detector = get(plan.detector, "detection")
        assert detector is not None
        self.detector = detector
        self.landmarks = get(plan.landmarks, "landmarks")
        self.embedder = get(plan.embedder, "embedding")
        if plan.quality == "recognizability" and self.embedder is not None:
            rating(self.embedder[1], self.embedder[0].name)
        self.reader = get(plan.reader, "reading")
        self.parser = get(plan.parser, "parsing")

    def nothing(self, plan: Plan) -> Faces:
        """No faces, with all columns of the plan."""
        return _columns_of([], _no_detections(poses=self.detector[0].decode is not None), plan, self)


def forward(network: Network, contract: InputContract, crops: Crops, device: str, *, mirror: bool = False) -> Floats:
    """The network's outputs (n, …) for crops (n, size, size, 3) uint8, in batches; with `mirror`, the mean of those for
    a crop and for its mirror image."""
    import torch

    out = []
    # Crop and mirror image go in together: of a single face that is one pass of two and not two of one, which waste
    # a third of their time.
    size = FACE_BATCH // 2 if mirror else FACE_BATCH
    with torch.inference_mode():
        for start in range(0, len(crops), size):
            batch = contract.tensor(crops[start : start + size], device=device)
            if mirror:
                both = torch.cat([batch, batch.flip(3)]).contiguous(memory_format=torch.channels_last)
                plain, mirrored = network(both).float().chunk(2)
                out.append(((plain + mirrored) / 2).cpu().numpy())
            else:
                out.append(network(batch).float().cpu().numpy())
    return np.concatenate(out)


def answered(network: Network, contract: InputContract, crops: Crops, device: str, *, mirror: bool = False) -> Floats:
    """`forward`, also of no crops at all: since only the network knows what it gives, it then sees a black one."""
    seen = crops if len(crops) else np.zeros((1, *crops.shape[1:]), np.uint8)
    return forward(network, contract, seen, device, mirror=mirror)[: len(crops)]


# ---------------------------------------------------------------------------------------------- detection


@dataclass(frozen=True)
class _Detections:
    image: NDArray[np.int32]
    boxes: Floats
    scores: Floats
    landmarks5: Floats
    pose: Floats | None = None


def _no_detections(*, poses: bool) -> _Detections:
    return _Detections(
        np.zeros(0, np.int32),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros((0, 5, 2), np.float32),
        np.zeros((0, 3), np.float32) if poses else None,
    )


def _scaled(image: Crops, size: int, pad: float) -> tuple[Crops, Floats, Floats]:
    """The photo as the detector wants to see it, and the way back: photo px = (seen px - offset) * factor (2,)."""
    import cv2

    from mien.nn.detector import fit_scale

    height, width = image.shape[:2]
    border = round(pad * max(height, width))
    scale = fit_scale(height + 2 * border, width + 2 * border, size=size)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    if new != (width, height):
        kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, new, interpolation=kind), np.uint8)
    rim = round(border * scale)
    if rim:
        image = np.pad(image, ((rim, rim), (rim, rim), (0, 0)), constant_values=GREY)
    return image, np.array([rim, rim], np.float32), np.array([width / new[0], height / new[1]], np.float32)


def _detect(photos: Sequence[Photo], plan: Plan, networks: Networks) -> _Detections:
    """Faces of a batch of photos: photos of like size share a forward pass; two scales, one suppression."""
    import torch

    from mien.nn.detector import detect
    from mien.weights import decoder

    weights, network = networks.detector
    find = decoder(weights) or detect
    threshold = plan.threshold if plan.threshold is not None else weights.threshold
    groups: dict[tuple[int, int], list[tuple[int, Crops, Floats, Floats]]] = defaultdict(list)
    for index, photo in enumerate(photos):
        small, offset, factor = _scaled(photo.image, plan.size, plan.pad)
        height, width = small.shape[:2]
        groups[height + -height % GRID, width + -width % GRID].append((index, small, offset, factor))

    found: dict[int, tuple[Floats, ...]] = {}
    for (height, width), group in groups.items():
        for members in chunks(group, max(1, PASS_PIXELS // (height * width))):
            canvas = np.full((len(members), height, width, 3), GREY, np.uint8)
            for row, (_, small, _, _) in zip(canvas, members, strict=True):
                row[: small.shape[0], : small.shape[1]] = small
            with torch.inference_mode():
                batch = weights.input.tensor(canvas, device=networks.device)
                results = find(network, batch, threshold=0.5 if threshold is None else threshold)
            for (index, _, offset, factor), result in zip(members, results, strict=True):
                found[index] = (
                    (result.boxes.cpu().numpy() - np.tile(offset, 2)) * np.tile(factor, 2),
                    result.scores.cpu().numpy(),
                    (result.landmarks5.cpu().numpy() - offset) * factor,
                    *([] if result.pose is None else [result.pose.cpu().numpy()]),
                )

    rows = [_plausible(photos[index].image.shape[:2], plan.min_face, *found[index]) for index in range(len(photos))]
    columns = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    counts = [len(scores) for _, scores, *_ in rows]
    return _Detections(np.repeat(np.arange(len(photos), dtype=np.int32), counts), *columns)


def _plausible(
    shape: tuple[int, ...], min_face: float, boxes: Floats, scores: Floats, points: Floats, *more: Floats
) -> tuple[Floats, ...]:
    """Detections of a photo that can be faces of it: large enough and not beyond all measure, centred inside, with
    points that span something."""
    side = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre >= 0) & (centre <= np.array(shape[1::-1], np.float32))).all(1)
    spread = points.std(axis=1).max(axis=1) if len(points) else np.zeros(0, np.float32)
    keep = (side >= max(min_face, 1e-3)) & (side <= 4 * max(shape[:2])) & inside & (spread > 0.01 * side)
    keep &= np.isfinite(boxes).all(1) & np.isfinite(points).all((1, 2))
    return tuple(column[keep].astype(np.float32) for column in (boxes, scores, points, *more))


# ---------------------------------------------------------------------------------------------- faces


def _faces_of(photos: Sequence[Photo], plan: Plan, networks: Networks) -> Faces:
    return _columns_of(photos, _detect(photos, plan, networks), plan, networks)


def crop_matrices(contract: InputContract, boxes: Floats, points: Floats) -> Floats:
    """From photo to crop (n, 2, 3) as a network's contract wants it: by five points, or by the box."""
    from mien.geometry import similarity

    size = contract.size or 112
    if contract.template != "box":
        return similarity.similarity_from_points(points, similarity.template(contract.template, size=size))
    side = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) * contract.margin
    scale = size / side
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    centre[:, 1] -= contract.up * (boxes[:, 3] - boxes[:, 1])
    matrices = np.zeros((len(boxes), 2, 3), np.float32)
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    # Box edges lie between pixels; warps count from pixel centres, hence the halves.
    matrices[:, :, 2] = size / 2 - 0.5 - scale[:, None] * (centre - 0.5)
    return matrices


def cut(photos: Sequence[Photo], image: NDArray[np.int32], matrices: Floats, size: int) -> Crops:
    """Crops (n, size, size, 3) of the faces of several photos."""
    from mien.geometry.warp import warp_images

    crops = np.empty((len(image), size, size, 3), np.uint8)
    for index in np.unique(image):
        mine = image == index
        crops[mine] = warp_images(photos[index].image, matrices[mine], size)
    return crops


def _columns_of(photos: Sequence[Photo], found: _Detections, plan: Plan, networks: Networks) -> Faces:
    """The columns that `plan` asks for, of all faces of a batch of photos."""
    from mien.geometry import similarity
    from mien.geometry.landmarks import five_from_68
    from mien.geometry.pose import MEAN70, pose_from_landmarks3d

    columns: dict[str, Any] = {
        "image": found.image, "boxes": found.boxes, "scores": found.scores, "landmarks5": found.landmarks5,
    }  # fmt: skip
    if found.pose is not None:
        columns["pose"] = found.pose
    points, contract, crops = found.landmarks5, None, None

    if networks.landmarks is not None:
        weights, network = networks.landmarks
        matrices = crop_matrices(weights.input, found.boxes, points)
        crops = cut(photos, found.image, matrices, weights.input.size or 112)
        local = answered(network, weights.input, crops, networks.device)
        back = similarity.invert(matrices)
        if local.shape[2] == 3:
            dense = similarity.apply3d(back, local).astype(np.float32)
            columns["landmarks3d"] = dense
            shape = MEAN70[: dense.shape[1]]
            columns["pose"] = pose_from_landmarks3d(dense, shape) if len(dense) else np.zeros((0, 3), np.float32)
        else:
            dense = similarity.apply(back, local).astype(np.float32)
        points = five_from_68(dense[:, :68, :2]).astype(np.float32) if len(dense) else points
        columns |= {"landmarks": dense[..., :2], "landmarks5": points}

    if plan.template is not None:
        matrices = similarity.similarity_from_points(points, similarity.template(plan.template, size=plan.crop_size))
        columns["crops"] = cut(photos, found.image, matrices, plan.crop_size)

    features = None
    if networks.embedder is not None:
        weights, network = networks.embedder
        assert weights.embedding is not None
        matrices = crop_matrices(weights.input, found.boxes, points)
        crops = cut(photos, found.image, matrices, weights.input.size or 112)
        features = embed_crops(networks, crops)
        columns["embeddings"] = normalised(features)
        contract = weights.embedding.id

    if plan.quality is not None:
        columns |= _quality_of(photos, found, points, columns, features, crops, plan, networks)

    if networks.reader is not None:
        columns |= _read(photos, found, points, networks)
    if networks.parser is not None:
        columns |= _parsed(photos, found, points, networks)

    return Faces(**columns, images=[photo.info for photo in photos], contract=contract)


AGE_CENTRES = (25.0, 35.0, 45.0, 55.0, 65.0, 75.0)
"""Years that stand for each age group."""


def _read(photos: Sequence[Photo], found: _Detections, points: Floats, networks: Networks) -> dict[str, Floats]:
    """The columns that the reader fills: of the bundled one all from age to covers."""
    assert networks.reader is not None
    weights, network = networks.reader
    matrices = crop_matrices(weights.input, found.boxes, points)
    crops = cut(photos, found.image, matrices, weights.input.size or 112)
    return answers(weights, answered(network, weights.input, crops, networks.device, mirror=weights.mirror))


def answers(weights: Weights, raw: Floats) -> dict[str, Floats]:
    """What a reader's numbers (n, k) say, as columns of `Faces`: calibrated probabilities, years, -1 to 1."""
    from mien.faces import AFFECT, AGES, APPEARANCE, COVERS, EXPRESSIONS
    from mien.weights import decoder

    if (decode := decoder(weights)) is not None:
        return {name: np.asarray(value, np.float32) for name, value in decode(raw, weights.temperatures).items()}
    groups = {"age": AGES, "expression": EXPRESSIONS, "affect": AFFECT, "appearance": APPEARANCE, "covers": COVERS}
    columns: dict[str, Floats] = {}
    start = 0
    for name, names in groups.items():  # whatever else the network tells comes behind these
        part = raw[:, start : start + len(names)]
        start += len(names)
        scaled = part / np.float32(weights.temperatures.get(name, 1.0))
        if name == "affect":
            columns[name] = np.clip(part, -1, 1)
        elif name in ("appearance", "covers"):
            columns[name] = 1 / (1 + np.exp(-np.clip(scaled, -60, 60)))
        else:
            power = np.exp(scaled - scaled.max(1, keepdims=True, initial=-np.inf))
            columns["age_groups" if name == "age" else "expressions"] = power / power.sum(1, keepdims=True)
    columns["age"] = columns["age_groups"] @ np.array(AGE_CENTRES, np.float32)
    return {name: np.asarray(value, np.float32) for name, value in columns.items()}


def _parsed(photos: Sequence[Photo], found: _Detections, points: Floats, networks: Networks) -> dict[str, Any]:
    """The columns parsing and parsing_matrix."""
    import torch

    from mien.nn.parser import both_ways

    assert networks.parser is not None
    weights, network = networks.parser
    size = weights.input.size or 128
    matrices = crop_matrices(weights.input, found.boxes, points)
    crops = cut(photos, found.image, matrices, size)
    classes = np.zeros((len(crops), size, size), np.uint8)
    for start in range(0, len(crops), PARSE_BATCH):
        part = slice(start, start + PARSE_BATCH)
        with torch.inference_mode():
            images = weights.input.tensor(crops[part], device=networks.device)
            scores = both_ways(network, images) if weights.mirror else network(images)
            classes[part] = scores.argmax(1).to(torch.uint8).cpu().numpy()
    return {"parsing": classes, "parsing_matrix": np.asarray(matrices, np.float32)}


def embed_crops(networks: Networks, crops: Crops) -> Floats:
    """Features (n, d), not normalised, of crops framed for the embedder; the mean with the mirror image's
    where the contract says so."""
    assert networks.embedder is not None
    weights, network = networks.embedder
    assert weights.embedding is not None
    if not len(crops):
        return np.zeros((0, weights.embedding.dim), np.float32)
    return forward(network, weights.input, crops, networks.device, mirror=weights.embedding.flip)


def _quality_of(
    photos: Sequence[Photo],
    found: _Detections,
    points: Floats,
    columns: dict[str, Any],
    features: Floats | None,
    crops: Crops | None,
    plan: Plan,
    networks: Networks,
) -> dict[str, Any]:
    """The columns `quality` and `quality_components`."""
    from mien.geometry import similarity
    from mien.verbs import quality

    assert plan.quality is not None
    matrices = np.asarray(similarity.similarity_from_points(points, similarity.template(quality.TEMPLATE)), np.float32)
    sizes = np.array([photo.image.shape[1::-1] for photo in photos], np.float32).reshape(-1, 2)[found.image]
    seen = cut(photos, found.image, matrices, quality.SIDE)
    recognisability = None
    if features is not None and crops is not None and networks.embedder is not None:
        name = networks.embedder[0].name
        if plan.quality == "norm":
            recognisability = quality.from_norm(np.linalg.norm(features, axis=1), name)
        elif plan.quality == "recognizability":
            rate, contract = rating(networks.embedder[1], name), networks.embedder[0].input
            index = forward(rate, contract, crops, networks.device) if len(crops) else np.zeros(0, np.float32)
            recognisability = quality.from_index(index)
        elif plan.quality == "stability":
            recognisability = quality.from_stability(features, lambda worse: embed_crops(networks, worse), crops)
    components = quality.components(
        seen,
        points,
        pose=columns.get("pose"),
        inside=quality.inside(matrices, sizes),
        recognisability=recognisability,
    )
    return {"quality": quality.unified(components), "quality_components": components}
