"""Networks without training: they see painted faces and read identities from patterns, by the real calling
rules.

The pipeline, its batches, its geometry and its verdicts are tested with these in the place of trained
weights: what comes out is then known exactly. Tests that need the real weights use them by name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from mien.geometry.similarity import TEMPLATES

if TYPE_CHECKING:
    import torch

    from mien.weights import Weights

settings.register_profile("mien", deadline=None)  # timings never fail a test
settings.load_profile("mien")

# torch, OpenCV and the floors above are imported where they are needed: pytest reads this file for every test, also
# for those that need numpy only.

MAGENTA = (255, 0, 255)
POINTS = (TEMPLATES["arcface112"] - 6) / 100
"""Five points in a painted face, in units of its side."""


def paint(
    canvas: NDArray[np.uint8], x: int, y: int, side: int, *, person: int, shift: float = 0.0
) -> NDArray[np.uint8]:
    """Paints a face: a magenta frame that the detector sees, and a pattern by which the embedder tells
    people."""
    import cv2

    canvas[y : y + side, x : x + side] = MAGENTA
    rng = np.random.default_rng(person)
    pattern = rng.integers(60, 200, (6, 6), np.uint8).astype(np.float32) + shift
    rim = max(2, side // 12)
    inner = side - 2 * rim
    grey = cv2.resize(np.clip(pattern, 0, 255).astype(np.uint8), (inner, inner), interpolation=cv2.INTER_NEAREST)
    canvas[y + rim : y + side - rim, x + rim : x + side - rim] = grey[..., None]
    return canvas


def picture(*faces: tuple[int, int, int, int], height: int = 240, width: int = 320) -> NDArray[np.uint8]:
    """A green picture with painted faces (x, y, side, person)."""
    canvas = np.full((height, width, 3), (20, 120, 60), np.uint8)
    for x, y, side, person in faces:
        paint(canvas, x, y, side, person=person)
    return canvas


class FakeDetector:
    """Sees magenta frames; answers like `mien.nn.detector.Detector`. Remembers the shapes it was called
    with."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        import cv2
        import torch

        from mien.nn.detector import OUTPUTS, STRIDES, cells

        self.calls.append(tuple(images.shape))
        height, width = images.shape[2:]
        centres, strides = cells(height, width)
        raw = torch.zeros(len(images), len(centres), OUTPUTS)
        raw[..., 0] = -10
        rgb = (images * 128 + 127.5).permute(0, 2, 3, 1).numpy()
        for index, image in enumerate(rgb):
            seen = (image[..., 0] > 170) & (image[..., 2] > 170) & (image[..., 1] < 90)
            count, _, stats, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8), connectivity=8)
            for x, y, w, h, _ in stats[1:count]:
                if min(w, h) < 8:
                    continue
                middle = torch.tensor([x + w / 2, y + h / 2])
                at = int(((centres - middle).abs().sum(1) + (strides[:, 0] != STRIDES[0]) * 1e6).argmin())
                row = raw[index, at]
                row[0] = 3.0
                row[1:3] = (middle - centres[at]) / strides[at]
                row[3:5] = torch.tensor([math.log(w / 8), math.log(h / 8)])
                points = torch.from_numpy(POINTS) * torch.tensor([w, h]) + torch.tensor([x, y])
                row[5:15] = ((points - centres[at]) / strides[at]).flatten()
        return raw


class FakeLandmarks:
    """The mean face, whatever it sees, where the crop "box" x 1.2 has a painted face."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        import torch

        from mien.geometry.landmarks import five_from_68
        from mien.geometry.pose import MEAN70
        from mien.geometry.similarity import apply3d, similarity_from_points

        self.calls.append(tuple(crops.shape))
        inner = 112 / 1.2
        target = (POINTS * inner + (112 - inner) / 2).astype(np.float32)
        mean = np.asarray(MEAN70, np.float32)
        fit = similarity_from_points(five_from_68(mean[None, :68, :2]), target)
        placed = torch.from_numpy(np.asarray(apply3d(fit, mean[None]), np.float32))
        return placed.expand(len(crops), -1, -1).clone()


class FakeEmbedder:
    """The pattern in the middle of the crop, less its mean."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        import torch

        self.calls.append(tuple(crops.shape))
        middle = crops[:, :1, 20:92, 20:92]
        small = torch.nn.functional.adaptive_avg_pool2d(middle, 8).flatten(1)
        return (small - small.mean(1, keepdim=True)) * 3 + 1e-3


def declaration(name: str, task: str, **more: Any) -> Weights:
    from mien.weights import Weights

    return Weights(
        name=name, task=task, sha256=hashlib.sha256(name.encode()).hexdigest(), size=1, licence="Apache-2.0",
        source="tests", build="tests.conftest:none", file=str(Path("/nowhere") / f"{name}.safetensors"), **more,
    )  # fmt: skip


def declarations() -> tuple[Weights, ...]:
    """Detector, landmarks and embedder, declared as trained weights are."""
    from mien.weights import EmbeddingContract, InputContract, Operating

    return (
        declaration("fake-detector", "detection", input=InputContract(size=None, multiple_of=32), threshold=0.5),
        declaration("fake-landmarks", "landmarks", input=InputContract(size=112, template="box", margin=1.2)),
        declaration(
            "fake-embedder",
            "embedding",
            input=InputContract(size=112, template="arcface112"),
            embedding=EmbeddingContract(dim=64),
            calibration=(
                Operating(fmr=1e-2, threshold=0.5, low=0.45, high=0.55, fnmr=0.01, data="painted faces"),
                Operating(fmr=1e-3, threshold=0.7, low=0.65, high=0.75, fnmr=0.02, data="painted faces"),
            ),
        ),
    )


class Fakes:
    """The three fakes, with what they were called with; the options that make verbs use them; and their
    pictures."""

    align: ClassVar[dict[str, str]] = {"detector": "fake-detector", "landmarks": "fake-landmarks"}
    embed: ClassVar[dict[str, str]] = {**align, "weights": "fake-embedder"}
    demo: ClassVar[dict[str, str]] = {**align, "embedder": "fake-embedder"}
    analyze: ClassVar[dict[str, Any]] = {**demo, "read": False}
    picture = staticmethod(picture)
    paint = staticmethod(paint)

    def __init__(self) -> None:
        self.detector, self.landmarks, self.embedder = FakeDetector(), FakeLandmarks(), FakeEmbedder()

    def of(self, weights: Weights, device: str, backend: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return {"detection": self.detector, "landmarks": self.landmarks, "embedding": self.embedder}[weights.task]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """Declares "fake-detector", "fake-landmarks" and "fake-embedder", and puts the fakes behind those
    names."""
    from mien.verbs import _pipeline
    from mien.weights import registered

    made = Fakes()
    real = _pipeline._network

    def network(weights: Weights, device: str, backend: str) -> Any:
        return made.of(weights, device, backend) if weights.name.startswith("fake-") else real(weights, device, backend)

    monkeypatch.setattr(_pipeline, "_network", network)
    with registered(*declarations()):
        yield made


@pytest.fixture
def golden() -> Callable[[str], tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """``golden(name)``: state, inputs, outputs (tensors by name) and facts of a file of golden tensors.

    They lie in ``shared/golden`` beside the checkout; where they do not, the test is skipped.
    """

    def read(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        places = [parent / "shared" / "golden" for parent in Path(__file__).resolve().parents]
        folder = next((place for place in places if (place / f"{name}.npz").is_file()), None)
        if folder is None:
            pytest.skip(f"the golden tensors {name} are not beside the checkout (shared/golden)")
        spec = importlib.util.spec_from_file_location("golden", folder / "golden.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found: tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]] = module.load(name)
        return found

    return read
