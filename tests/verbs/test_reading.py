"""What a reader and a parser add to `analyze`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mien
from mien.data import heads
from mien.errors import OptionError
from mien.faces import AGES, EXPRESSIONS, PARSING, Faces
from mien.geometry.warp import warp_images
from mien.nn.detector import Detections
from mien.nn.reader import OUTPUTS, reader_base
from mien.train.checkpoint import save_weights
from mien.verbs._pipeline import answers, crop_matrices
from mien.weights import Weights, info, load, register, registered
from mien.weights.declare import WEIGHTS, InputContract


@pytest.fixture(scope="module")
def picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    one = heads.sample(1, seed=9, occluder="none", pose=(0, 0, 0), glasses="none", hat="none")
    return np.asarray(heads.render(one, size=256).image[0])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Weights]:
    """Weights of a reader that was not trained, under a name of their own."""
    import hashlib

    torch.manual_seed(0)
    file = tmp_path / "reader.safetensors"
    save_weights(file, reader_base())
    declared = Weights(
        name="made-up-reader", task="reading", file=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size=file.stat().st_size, licence="Apache-2.0", source="a test", build="mien.nn.reader:reader_base",
        input=InputContract(size=112, template="chip112"), temperatures={"age": 2.0},
    )  # fmt: skip
    register(declared)
    yield declared
    WEIGHTS.pop(declared.name, None)


def test_the_mirror_image_is_asked_where_the_declaration_says_so(picture: np.ndarray, reader: Weights) -> None:  # type: ignore[type-arg]
    twice = replace(reader, name="asked-twice", mirror=True)
    assert not reader.mirror
    assert info("mien-reader").mirror
    assert info("mien-parser").mirror

    once = mien.analyze(picture, reader=reader.name)
    with registered(twice):
        mean = mien.analyze(picture, reader=twice.name)
    assert len(once) == len(mean) == 1
    contract = reader.input
    crops = warp_images(picture, crop_matrices(contract, once.boxes, once.landmarks5), contract.size or 0)
    seen = contract.tensor(crops)
    with torch.no_grad():
        plain, flipped = (load(reader.name, device="cpu")(some) for some in (seen, seen.flip(3)))
    for faces, raw in ((once, plain), (mean, (plain + flipped) / 2)):
        affect = answers(reader, raw.numpy())["affect"]
        np.testing.assert_allclose(faces.affect, affect, atol=2e-6)
    assert np.abs(once.affect - mean.affect).max() > 2e-5


def test_a_parser_tells_the_part_of_each_pixel(picture: np.ndarray, tmp_path: Path) -> None:  # type: ignore[type-arg]
    faces = mien.analyze(picture, parse=True, quality="components", out=str(tmp_path / "out.png"))
    assert len(faces) == 1
    assert faces.parsing.shape == (1, 128, 128)
    mask = mien.media.parsing_mask(faces, 0, height=256, width=256)
    nose = faces.landmarks[0, 30].round().astype(int)
    assert PARSING[mask[nose[1], nose[0]]] == "nose"
    eyes = faces.landmarks5[0, :2].round().astype(int)
    assert {PARSING[mask[y - 2 : y + 3, x - 4 : x + 5].max()] for x, y in eyes} & {"l_eye", "r_eye", "l_brow", "r_brow"}
    assert PARSING.index("hair") in mask
    assert Faces.from_json(faces.to_json()) == faces
    assert (tmp_path / "out.png").exists()


def test_no_face_gives_empty_columns(reader: Weights) -> None:
    faces = mien.analyze(np.full((64, 64, 3), 127, np.uint8), parse=True, reader=reader.name)
    assert len(faces) == 0
    assert faces.parsing.shape == (0, 128, 128)
    assert faces.expressions.shape == (0, 8)
    assert faces.age.shape == (0,)


def test_a_reader_gives_probabilities(picture: np.ndarray, reader: Weights) -> None:  # type: ignore[type-arg]
    faces = mien.analyze([picture, picture], reader=reader.name, quality="components")
    assert faces.age_groups.sum(1) == pytest.approx(np.ones(2), abs=1e-5)
    assert faces.expressions.sum(1) == pytest.approx(np.ones(2), abs=1e-5)
    assert ((faces.age >= 25) & (faces.age <= 75)).all()
    shown = faces.to_dict()["faces"][0]
    assert set(shown["expressions"]) == set(EXPRESSIONS)
    assert set(shown["age_groups"]) == set(AGES)
    assert Faces.from_dict(faces.to_dict()) == faces
    if __import__("importlib.util").util.find_spec("pandas"):
        assert {"valence", "arousal", "expressions_neutral"} <= set(faces.to_pandas().columns)


def test_a_temperature_softens(reader: Weights) -> None:
    raw = np.random.default_rng(0).normal(0, 3, (4, sum(map(len, OUTPUTS.values())))).astype(np.float32)
    soft = answers(reader, raw)
    assert info(reader.name).temperatures["age"] == 2.0
    z = raw[:, : len(AGES)] / 2
    wanted = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert soft["age_groups"] == pytest.approx(wanted, abs=1e-6)
    assert soft["affect"].min() >= -1


def years(raw: np.ndarray, temperatures: Mapping[str, float]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """What a declaration may name to read the numbers of a network that is not mien's own."""
    return {"age": np.clip(raw[:, 0] / temperatures["age"], 0, 120), "affect": np.tanh(raw[:, 1:3])}


def test_a_declaration_may_name_how_its_numbers_are_read(reader: Weights) -> None:
    declared = replace(reader, decode=f"{__name__}:years")
    assert Weights.from_dict(declared.to_dict()) == declared
    raw = np.array([[60.0, 0.0, 9.0], [500.0, -9.0, 0.0]], np.float32)
    read = answers(declared, raw)
    assert set(read) == {"age", "affect"}
    np.testing.assert_allclose(read["age"], [30, 120])
    np.testing.assert_allclose(read["affect"], [[0, 1], [-1, 0]], atol=1e-4)


def leaning(network: object, images: torch.Tensor, *, threshold: float) -> list[Detections]:
    """A detector that tells poses: one face in the middle of every picture that is not black."""
    found = []
    for image in images:
        n = int(float(image.amax()) > threshold)
        height, width = image.shape[1:]
        box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
        points = box[:, :2, None].transpose(1, 2) + torch.tensor([[[9, 9], [40, 9], [25, 20], [12, 40], [38, 40]]])
        pose = torch.tensor([[10.0, -5.0, 3.0]])
        found.append(Detections(box[:n], torch.full((n,), 0.9), points[:n].float(), pose[:n]))
    return found


def test_a_detector_may_tell_poses(picture: np.ndarray) -> None:  # type: ignore[type-arg]
    declared = replace(info("mien-detector"), name="made-up-detector", decode=f"{__name__}:leaning", threshold=0.5)
    blank = np.zeros((256, 256, 3), np.uint8)
    with registered(declared):
        faces = mien.detect([picture, blank], weights=declared.name)
        none = mien.detect(blank, weights=declared.name)
    assert faces.image.tolist() == [0]
    np.testing.assert_allclose(faces.pose, [[10, -5, 3]])
    assert none.pose.shape == (0, 3)


def test_a_box_crop_may_reach_further_up() -> None:
    level, higher = (InputContract(size=64, template="box", margin=2.0, up=up) for up in (0.0, 0.12))
    box, points = np.array([[10, 20, 30, 60]], np.float32), np.zeros((1, 5, 2), np.float32)
    shift = crop_matrices(higher, box, points) - crop_matrices(level, box, points)
    np.testing.assert_allclose(shift, [[[0, 0, 0], [0, 0, 0.12 * 40 * 64 / 80]]], atol=1e-4)
    assert "0.12 of its height up" in higher.text


def test_weights_of_another_task_are_no_reader(picture: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(OptionError, match="another task"):
        mien.analyze(picture, reader="mien-embedder")
