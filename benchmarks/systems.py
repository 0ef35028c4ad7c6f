"""mien and its peers behind the same five steps, each run through the code that its own users run.

    decode    bytes of a file -> a picture
    detect    pictures -> the faces of each
    points    -> landmarks (mien: 70 and the pose; dlib: 5)
    embed     -> one vector a face, crops cut on the way
    end to end: paths -> vectors

Peers are used as their documentation says: dlib as in ``face_recognition`` (Pillow decodes, the HOG detector, five
points, a chip of 150 px, the ResNet), facenet-pytorch's MTCNN with its own defaults and all faces kept.
"""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.limits import Call, Work, crop_work, dlib_resnet
from benchmarks.rows import package_version
from mien.errors import MienError

Floats = NDArray[np.float32]

SYSTEMS = ("mien", "dlib", "dlib x2", "mtcnn")
"""What is compared. ``dlib`` looks at pictures as they are, its fastest way; ``dlib x2`` at twice their size, which
finds smaller faces and is the default of ``face_recognition``."""

REFERENCE = "dlib"
"""Ratios are to this one."""


class NotLoadable(Exception):
    """A system that is not here, or does not run with what is installed; the text is the reason."""


@dataclass(frozen=True)
class Network:
    """A network alone: ``make(batch)`` gives a run over so many inputs, `work` what a run must do at least."""

    stage: str
    unit: str
    note: str
    make: Callable[[int], Callable[[], object]]
    work: Callable[[int], Work]


class System(Protocol):
    """What is measured. Pictures and finds are the system's own; nobody else looks into them."""

    name: str
    version: str
    stages: tuple[str, ...]
    note: str
    failed: int
    """Pictures on which it raised; they count as pictures without a face."""

    def decode(self, data: bytes) -> Any:
        """One picture."""
        ...

    def decode_many(self, files: Sequence[bytes]) -> object:
        """Several pictures, in whatever way the system has for several."""
        ...

    def detect(self, pictures: Sequence[Any]) -> Any:
        """The faces of pictures."""
        ...

    def points(self, pictures: Sequence[Any], found: Any) -> Any:
        """The same faces with landmarks as the embedder wants them."""
        ...

    def embed(self, pictures: Sequence[Any], found: Any) -> Floats:
        """(n, d), one row a face."""
        ...

    def end_to_end(self, paths: Sequence[str]) -> object:
        """Everything, from paths, in one call where the system can."""
        ...

    def boxes(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        """Boxes (k, 4) xyxy px of each picture, in the order of the embeddings."""
        ...

    def scores(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        """The detector's scores (k,) of each picture."""
        ...

    def compare(self, first: Floats, second: Floats) -> Floats:
        """Similarity, row by row: higher is more alike."""
        ...

    def work(self, stage: str, pictures: Sequence[Any]) -> Work | None:
        """What one run of a stage over these pictures must do at least; None where no limit is known."""
        ...

    def networks(self) -> list[Network]:
        """Networks that can be run alone."""
        ...


def load(name: str) -> System:
    """A system by its name in `SYSTEMS`.

    Raises
    ------
    NotLoadable
        With the reason, for the results.
    """
    makers: dict[str, Callable[[], System]] = {
        "mien": Mien,
        "dlib": Dlib,
        "dlib x2": lambda: Dlib(upsample=1),
        "mtcnn": Mtcnn,
    }
    try:
        return makers[name]()
    except MienError as error:
        raise NotLoadable(str(error)) from error
    except NotLoadable:
        raise
    except Exception as error:  # a peer beside a torch or numpy it was not made for fails in any way it likes
        raise NotLoadable(f"{type(error).__name__}: {error}") from error


# ------------------------------------------------------------------------------------------------------- mien


class Recorder:
    """A network that remembers the shapes it was given."""

    def __init__(self, network: Callable[[Any], Any]) -> None:
        self.network = network
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, batch: Any) -> Any:
        self.shapes.append(tuple(batch.shape))
        return self.network(batch)


class Counter:
    """Work of a network by the shape of its input, each shape counted once (on a batch of one)."""

    def __init__(self, module: Any) -> None:
        from mien.nn.count import count_parameters

        self.module = module
        self.parameters = count_parameters(module)
        self.macs: dict[tuple[int, ...], int] = {}

    def call(self, shape: tuple[int, ...]) -> Call:
        """One call over an input of `shape` (B, …)."""
        from mien.nn.count import count_macs

        single = shape[1:]
        if single not in self.macs:
            self.macs[single] = count_macs(self.module, (1, *single))
        return Call(shape[0] * self.macs[single], self.parameters)


class Mien:
    """This library, on the CPU, with the bundled weights. Stages are the functions that `mien.embed` is made of."""

    name = "mien"
    stages: tuple[str, ...] = ("decode", "detect", "landmarks", "crop", "embed", "end to end")
    note = ""
    failed = 0

    def __init__(self, **names: str) -> None:
        import mien
        from mien.verbs import _pipeline
        from mien.weights import build

        self.version = mien.__version__
        self.pipeline = _pipeline
        chosen = {"detector": "mien-detector", "landmarks": "mien-landmarks", "embedder": "mien-embedder"} | names
        self.names = chosen
        self.both = _pipeline.Plan(**chosen, device="cpu")  # type: ignore[arg-type]
        self.loaded: Any = _pipeline.Networks(self.both)
        # Counted on networks built anew: what is loaded has been folded, or is no module at all.
        self.counters = {task: Counter(build(name).eval()) for task, name in chosen.items()}

    def decode(self, data: bytes) -> Any:
        return self.pipeline.read_one(data)

    def decode_many(self, files: Sequence[bytes]) -> object:
        from mien.media import read_images

        return list(read_images(list(files)))

    def detect(self, pictures: Sequence[Any]) -> Any:
        return self.pipeline._detect(pictures, self.both, self.loaded)

    def points(self, pictures: Sequence[Any], found: Any) -> Any:
        from dataclasses import replace

        faces = self.pipeline._columns_of(pictures, found, *self._only("landmarks"))
        return replace(found, landmarks5=faces.landmarks5)

    def crop(self, pictures: Sequence[Any], found: Any) -> Any:
        contract = self.loaded.embedder[0].input
        matrices = self.pipeline.crop_matrices(contract, found.boxes, found.landmarks5)
        return self.pipeline.cut(pictures, found.image, matrices, contract.size or 112)

    def embed(self, pictures: Sequence[Any], found: Any) -> Floats:
        return np.asarray(self.pipeline._columns_of(pictures, found, *self._only("embedder")).embeddings)

    def end_to_end(self, paths: Sequence[str]) -> object:
        from mien.verbs.embed import embed

        names = {**self.names, "weights": self.names["embedder"]}
        del names["embedder"]
        source: Any = paths[0] if len(paths) == 1 else list(paths)
        return embed(source, **names, device="cpu", batch_size=len(paths))  # type: ignore[arg-type]

    def boxes(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        return [found.boxes[found.image == index] for index in range(len(pictures))]

    def scores(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        return [found.scores[found.image == index] for index in range(len(pictures))]

    def compare(self, first: Floats, second: Floats) -> Floats:
        from mien.verbs._score import similarity

        return similarity(first, second)

    def work(self, stage: str, pictures: Sequence[Any]) -> Work | None:
        if stage == "decode":
            return Work()  # the decoding time itself is added by whoever measured it
        with self._recording() as seen:
            found = self.detect(pictures)
            if stage != "detect":
                seen.drop()
                found = self.points(pictures, found)
                if stage in ("crop", "embed"):
                    seen.drop()
                if stage == "end to end":
                    seen.recall()
                if stage in ("embed", "end to end"):
                    self.embed(pictures, found)
        calls = Work(tuple(self.counters[task].call(shape) for task, shape in seen.calls()))
        crops = crop_work(len(found.image), self.loaded.embedder[0].input.size or 112)
        landmark_crops = crop_work(len(found.image), self.loaded.landmarks[0].input.size or 112)
        moved = {"crop": crops, "embed": crops, "landmarks": landmark_crops, "end to end": crops + landmark_crops}
        return calls + moved.get(stage, Work())

    def networks(self) -> list[Network]:
        def alone(task: str, side: int | None, stage: str, unit: str) -> Network:
            weights, network = getattr(self.loaded, task)
            shape = (side, side) if side is not None else (480, 640)
            rng = np.random.default_rng(0)

            def make(batch: int) -> Callable[[], object]:
                crops = rng.integers(0, 256, (batch, *shape, 3), np.uint8)
                return lambda: self.pipeline.forward(network, weights.input, crops, self.loaded.device)

            def work(batch: int) -> Work:
                return Work((self.counters[task].call((batch, 3, *shape)),))

            return Network(stage, unit, f"{shape[1]} x {shape[0]} px", make, work)

        sizes = {task: getattr(self.loaded, task)[0].input.size for task in self.counters}
        return [
            alone("detector", sizes["detector"], "detector network", "images/s"),
            alone("landmarks", sizes["landmarks"], "landmark network", "faces/s"),
            alone("embedder", sizes["embedder"], "embedder network", "faces/s"),
        ]

    def _only(self, task: str) -> tuple[Any, Any]:
        """Plan and networks with the detector and one other network."""
        from dataclasses import replace

        others = {name: None for name in ("landmarks", "embedder") if name != task}
        networks = copy.copy(self.loaded)
        for name in others:
            setattr(networks, name, None)
        return replace(self.both, **others), networks  # type: ignore[arg-type]

    @contextmanager
    def _recording(self) -> Iterator[_Seen]:
        recorders = {}
        loaded = self.loaded
        self.loaded = copy.copy(loaded)
        for task in self.counters:
            weights, network = getattr(loaded, task)
            recorders[task] = Recorder(network)
            setattr(self.loaded, task, (weights, recorders[task]))
        try:
            yield _Seen(recorders)
        finally:
            self.loaded = loaded


class _Seen:
    """The calls that recorders have seen, with a marker that earlier ones do not count."""

    def __init__(self, recorders: dict[str, Recorder]) -> None:
        self.recorders = recorders
        self.skipped = dict.fromkeys(recorders, 0)

    def drop(self) -> None:
        self.skipped = {task: len(recorder.shapes) for task, recorder in self.recorders.items()}

    def recall(self) -> None:
        self.skipped = dict.fromkeys(self.recorders, 0)

    def calls(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(task, s) for task, recorder in self.recorders.items() for s in recorder.shapes[self.skipped[task] :]]


# ------------------------------------------------------------------------------------------------------- dlib


class Dlib:
    """dlib's HOG detector, five-point predictor and ResNet, with the files of ``face_recognition_models``."""

    stages: tuple[str, ...] = ("decode", "detect", "landmarks", "embed", "end to end")
    failed = 0

    def __init__(self, *, upsample: int = 0) -> None:
        try:
            import dlib
        except ImportError as error:
            raise NotLoadable("dlib is not installed: pip install dlib-bin") from error
        self.name = "dlib x2" if upsample else "dlib"
        self.note = "HOG at twice the size, the default of face_recognition" if upsample else "HOG at the size given"
        self.version = str(dlib.__version__)
        self.dlib = dlib
        self.upsample = upsample
        self.detector = dlib.get_frontal_face_detector()
        self.predictor, self.resnet = _dlib_models()

    def decode(self, data: bytes) -> Any:
        return _pillow(io.BytesIO(data))

    def decode_many(self, files: Sequence[bytes]) -> object:
        return [self.decode(data) for data in files]

    def detect(self, pictures: Sequence[Any]) -> Any:
        found = []
        for picture in pictures:
            boxes, scores, _ = self.detector.run(picture, self.upsample, 0.0)
            found.append((list(boxes), list(scores)))
        return found

    def points(self, pictures: Sequence[Any], found: Any) -> Any:
        return [
            (boxes, scores, [self.predictor(picture, box) for box in boxes])
            for picture, (boxes, scores, *_) in zip(pictures, found, strict=True)
        ]

    def embed(self, pictures: Sequence[Any], found: Any) -> Floats:
        chips = [
            self.dlib.get_face_chip(picture, shape, 150)
            for picture, (_, _, shapes) in zip(pictures, found, strict=True)
            for shape in shapes
        ]
        if not chips:
            return np.zeros((0, 128), np.float32)
        return np.asarray(self.resnet.compute_face_descriptor(chips), np.float32)

    def end_to_end(self, paths: Sequence[str]) -> object:
        pictures = [_pillow(path) for path in paths]
        return self.embed(pictures, self.points(pictures, self.detect(pictures)))

    def boxes(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        return [
            np.array([[b.left(), b.top(), b.right() + 1, b.bottom() + 1] for b in boxes], np.float32).reshape(-1, 4)
            for boxes, *_ in found
        ]

    def scores(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        return [np.asarray(scores, np.float32) for _, scores, *_ in found]

    def compare(self, first: Floats, second: Floats) -> Floats:
        return np.asarray(-np.linalg.norm(first - second, axis=1), np.float32)

    def work(self, stage: str, pictures: Sequence[Any]) -> Work | None:
        if stage == "decode":
            return Work()
        if stage != "embed":
            return None  # HOG and trees of pixel differences: neither arithmetic nor bandwidth bounds them simply
        faces = sum(len(boxes) for boxes, *_ in self.detect(pictures))
        call = dlib_resnet()
        return Work((Call(faces * call.macs, call.parameters),)) + crop_work(faces, 150)

    def networks(self) -> list[Network]:
        if self.upsample:
            return []  # the same network as without
        call = dlib_resnet()

        def make(batch: int) -> Callable[[], object]:
            chips = list(np.random.default_rng(0).integers(0, 256, (batch, 150, 150, 3), np.uint8))
            return lambda: self.resnet.compute_face_descriptor(chips)

        return [
            Network(
                "embedder network",
                "faces/s",
                "150 x 150 px",
                make,
                lambda n: Work((Call(n * call.macs, call.parameters),)),
            )
        ]


@lru_cache(maxsize=1)
def _dlib_models() -> tuple[Any, Any]:
    """Five-point predictor and ResNet, read once for both ways of detecting."""
    import dlib

    # The package imports pkg_resources, which setuptools no longer has; its files need no import.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise NotLoadable("dlib's models are not installed: pip install face_recognition_models")
    models = Path(spec.submodule_search_locations[0]) / "models"
    return (
        dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat")),
        dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat")),
    )


# ------------------------------------------------------------------------------------------------------ MTCNN


class Mtcnn:
    """facenet-pytorch's MTCNN: boxes and five points. Its package holds no embedder's weights, so it ends there."""

    name = "mtcnn"
    stages: tuple[str, ...] = ("decode", "detect")
    note = "finds boxes and five points; its embedder's weights do not come with the package"

    def __init__(self) -> None:
        try:
            from facenet_pytorch import MTCNN  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise NotLoadable(
                f"facenet-pytorch does not import: {error} (pip install --no-deps facenet-pytorch)"
            ) from error
        self.version = package_version("facenet-pytorch")
        self.model = MTCNN(keep_all=True, device="cpu").eval()
        self.failed = 0
        self.detect([np.zeros((64, 64, 3), np.uint8)])
        self.failed = 0

    def decode(self, data: bytes) -> Any:
        return _pillow(io.BytesIO(data))

    def decode_many(self, files: Sequence[bytes]) -> object:
        return [self.decode(data) for data in files]

    def detect(self, pictures: Sequence[Any]) -> Any:
        """Pictures of one shape go together, as its documentation advises; it cannot batch others."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault(picture.shape, []).append(index)
        found: list[tuple[Floats, Floats]] = [(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))] * len(pictures)
        for members in groups.values():
            try:
                boxes, scores = self.model.detect(np.stack([pictures[index] for index in members]))
            except (RuntimeError, ValueError, IndexError):
                # It concatenates candidates and fails where the first network proposes none; for its users that is a
                # picture without a face and an exception to catch. A group is taken apart to lose no other picture.
                if len(members) > 1:
                    for index in members:
                        found[index] = self.detect([pictures[index]])[0]
                else:
                    self.failed += 1
                continue
            for index, box, score in zip(members, boxes, scores, strict=True):
                if box is not None:
                    found[index] = (np.asarray(box, np.float32), np.asarray(score, np.float32))
        return found

    def points(self, pictures: Sequence[Any], found: Any) -> Any:
        raise NotImplementedError("its points come with its boxes")

    def embed(self, pictures: Sequence[Any], found: Any) -> Floats:
        raise NotImplementedError(self.note)

    def end_to_end(self, paths: Sequence[str]) -> object:
        return self.detect([_pillow(path) for path in paths])  # for time and memory to the first result only

    def boxes(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        return [boxes for boxes, _ in found]

    def scores(self, pictures: Sequence[Any], found: Any) -> list[Floats]:
        return [scores for _, scores in found]

    def compare(self, first: Floats, second: Floats) -> Floats:
        raise NotImplementedError(self.note)

    def work(self, stage: str, pictures: Sequence[Any]) -> Work | None:
        """All calls of the three networks on these pictures: how many there are depends on what they propose."""
        if stage == "decode":
            return Work()
        seen: list[tuple[str, tuple[int, ...]]] = []
        parts = {"pnet": self.model.pnet, "rnet": self.model.rnet, "onet": self.model.onet}
        hooks = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.append((name, tuple(inputs[0].shape))))
            for name, module in parts.items()
        ]
        try:
            self.detect(pictures)
        finally:
            for hook in hooks:
                hook.remove()
        counters = {name: Counter(module) for name, module in parts.items()}
        return Work(tuple(counters[name].call(shape) for name, shape in seen))

    def networks(self) -> list[Network]:
        return []


def _pillow(source: Any) -> NDArray[np.uint8]:
    """A picture as face_recognition's ``load_image_file`` reads it."""
    from PIL import Image

    with Image.open(source) as picture:
        return np.array(picture.convert("RGB"))
