"""Rendered heads: determinism, independence of the controls, and ground truth that agrees with itself."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.data.heads import (
    AFFECT,
    ATTRIBUTES,
    EVERYTHING,
    EXPRESSIONS,
    IDENTITY,
    PARSING,
    PARTS,
    UNITS,
    HeadParameters,
    affect_units,
    expression_units,
    render,
    sample,
)
from mien.data.heads.chance import normal, uniform
from mien.data.heads.raster import NOTHING, interpolate, rasterise, weights_at
from mien.data.heads.shade import linear_from_lab, skin_lab
from mien.data.heads.template import template
from mien.errors import MissingColumn, OptionError, ShapeError, ValueRangeError
from mien.geometry.landmarks import FLIP68
from mien.geometry.pose import pose_from_landmarks3d, rotation_from_euler

SIZE = 64


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain() -> HeadParameters:
    """One head at rest, nothing in front of it."""
    return sample(
        1, seed=3, expression="neutral", occluder="none", glasses="none", hat="none", pose=(0, 0, 0),
        hair_style="short",
        face_share=0.5, shift=(0, 0), hair_fringe=0.0, camera_noise=0.0, beard_style="none",
    )  # fmt: skip


# --- Controls --------------------------------------------------------------------------------------------------------


def test_rows_depend_on_seed_and_number_only() -> None:
    whole, part = sample(12, seed=5, per_identity=3), sample(5, seed=5, start=4, per_identity=3)
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(whole, name)[4:9], getattr(part, name))
    assert (sample(12, seed=6).shape != whole.shape).any()


def test_people_share_what_makes_them() -> None:
    drawn = sample(12, seed=1, identities=3, per_identity=2)
    assert drawn.identity.tolist() == [0, 0, 1, 1, 2, 2] * 2
    for name in IDENTITY:
        column = getattr(drawn, name)
        np.testing.assert_array_equal(column[:6], column[6:])
    assert len({tuple(pose) for pose in drawn.pose.tolist()}) == 12


def test_names_and_single_values_are_taken() -> None:
    drawn = sample(3, seed=1, glasses="round", pose=[30, 0, 0], hair_style=["bob", "long", "bald"])
    assert drawn.to_dict()[1]["glasses"] == "round"
    assert [row["hair_style"] for row in drawn.to_dict()] == ["bob", "long", "bald"]
    assert drawn.pose.tolist() == [[30, 0, 0]] * 3
    assert len(drawn[1:]) == 2
    assert HeadParameters.concat([drawn, drawn[:1]]).hair_style.tolist()[-1] == drawn.hair_style[0]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"glases": 1}, OptionError),
        ({"glasses": "oval"}, OptionError),
        ({"pose": [1, 2]}, ShapeError),
        ({"skin_ita": 90}, ValueRangeError),
        ({"exposure": math.nan}, ValueRangeError),
    ],
)
def test_wrong_controls_are_told(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        sample(2, **given)


def test_expressions_and_affect_agree() -> None:
    for number, name in enumerate(EXPRESSIONS):
        units = expression_units([number], [1.0])[0]
        if name == "neutral":
            assert not units.any()
            continue
        blended = affect_units(*np.array(AFFECT[name])[:, None])[0]
        cosine = blended @ units / np.linalg.norm(blended) / np.linalg.norm(units)
        assert cosine > 0.85, name
    assert not affect_units([0.0], [0.0]).any()


def test_skin_has_the_angle_asked_for() -> None:
    ita = torch.linspace(-60, 60, 25)
    lab = skin_lab(ita, torch.zeros(25), torch.zeros(25))
    found = torch.rad2deg(torch.atan2(lab[:, 0] - 50, lab[:, 2]))
    torch.testing.assert_close(found, ita, atol=1e-3, rtol=0)
    colour = linear_from_lab(lab)
    assert (colour > 0.001).all()
    assert (colour < 1).all()
    luminance = colour @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (luminance.diff() > 0).all()


# --- Mesh and rasteriser ---------------------------------------------------------------------------------------------


def test_the_template_is_symmetrical_and_whole() -> None:
    head = template()
    np.testing.assert_allclose(head.points[head.mirror] * [-1, 1, 1], head.points, atol=1e-9)
    assert 3000 < len(head.points) < 8000
    np.testing.assert_array_equal(head.mirror[head.landmarks], head.landmarks[FLIP68])
    # Closed but for eyes, mouth and the hem: no edge belongs to three triangles.
    edges = np.sort(
        head.weld[np.concatenate([head.triangles[:, [0, 1]], head.triangles[:, [1, 2]], head.triangles[:, [2, 0]]])], 1
    )
    # At the crown, where all sections end, thin triangles fall together.
    edges = edges[(edges[:, 0] != edges[:, 1]) & (head.plane[edges, 1].min(1) > 1e-6)]
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert count.max() <= 2


def naive(points: np.ndarray, triangles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest triangle of every pixel by trying all."""
    found, best = np.full((height, width), NOTHING), np.full((height, width), np.inf)
    for number, corners in enumerate(triangles):
        (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = points[corners].astype(np.float64)
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area >= 0:
            continue
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        a = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) / area
        b = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) / area
        depth = 1 / ((1 - a - b) / z0 + a / z1 + b / z2)
        better = (a >= 0) & (b >= 0) & (a + b <= 1) & (depth < best)
        found[better], best[better] = number, depth[better]
    return found


def test_the_rasteriser_agrees_with_a_naive_one() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-6, 30, (2, 40, 2)), rng.uniform(5, 50, (2, 40, 1))], -1).astype(np.float32)
    triangles = rng.integers(0, 40, (60, 3))
    drawn = rasterise(torch.from_numpy(points).permute(2, 0, 1).contiguous(), torch.from_numpy(triangles), 20, 26)
    for row in range(2):
        wanted = naive(points[row], triangles, 20, 26)
        assert (drawn.triangle[row].numpy() != wanted).mean() < 0.01  # edges are a hair's breadth wider
    assert torch.isinf(drawn.depth[drawn.triangle < 0]).all()


def test_weights_find_the_pixel_again() -> None:
    rng = np.random.default_rng(1)
    flat = np.concatenate([rng.uniform(0, 40, (1, 3, 2)), np.full((1, 3, 1), 7.0)], -1).astype(np.float32)
    points = torch.from_numpy(flat).permute(2, 0, 1).contiguous()
    x, y = torch.tensor([float(flat[0, :, 0].mean())]), torch.tensor([float(flat[0, :, 1].mean())])
    corners, weights = weights_at(points, torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([0]), x, y)
    found = interpolate(points.view(3, -1), corners, weights)
    torch.testing.assert_close(found[:, 0], torch.stack([x[0], y[0], torch.tensor(7.0)]), atol=1e-4, rtol=0)


def test_chance_is_a_function_of_its_arguments() -> None:
    seeds = torch.tensor([3, 4, 3])
    values = uniform(seeds, 7, 4000)
    assert torch.equal(values[0], values[2])
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(uniform(seeds, 8, 4000)[0], values[0])
    assert abs(float(values.mean()) - 0.5) < 0.02
    noise = normal(seeds, 7, 4000)
    assert abs(float(noise.mean())) < 0.06
    assert abs(float(noise.std()) - 1) < 0.05


# --- Pictures --------------------------------------------------------------------------------------------------------


def test_the_same_bits_whatever_the_batch() -> None:
    drawn = sample(5, seed=8)
    together = render(drawn, size=SIZE, what=EVERYTHING, batch=5)
    again = render(drawn, size=SIZE, what=EVERYTHING, batch=5)
    alone = render(drawn, size=SIZE, what=EVERYTHING, batch=1)
    for name, value in together.maps.items():
        np.testing.assert_array_equal(again.maps[name], value)
        other = alone.maps[name]
        if value.dtype == np.uint8:
            difference = np.abs(value.astype(int) - other.astype(int))
            assert (difference > 1).mean() < 1e-3, name
        elif value.dtype == np.bool_:
            np.testing.assert_array_equal(other, value)
        else:
            assert np.isclose(other, value, atol=1e-3, equal_nan=True).mean() > 0.999, name


def test_shapes_and_what_was_not_asked_for(plain: HeadParameters) -> None:
    heads = render(plain, size=(48, 40), what=("image", "uv"))
    assert heads.image.shape == (1, 48, 40, 3)
    assert heads.uv.shape == (1, 48, 40, 2)
    assert heads.attributes.shape == (1, len(ATTRIBUTES))
    with pytest.raises(MissingColumn):
        _ = heads.depth
    with pytest.raises(AttributeError):
        _ = heads.nonsense
    with pytest.raises(OptionError):
        render(plain, what=("colour",))
    assert len(render(plain[:0], size=32)) == 0


CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "skin": ({"skin_ita": -40.0}, {"image"}),
    "light": ({"key_direction": (80, 10), "key_share": 0.8}, {"image"}),
    "freckles": ({"freckles": 1.0}, {"image"}),
    "lipstick": ({"lipstick": 1.0, "eyeshadow": 0.8}, {"image"}),
    "wrinkles": ({"wrinkles": 1.0}, {"image"}),
    "grey": ({"grey": 1.0}, {"image"}),
    "background": ({"scene": "city", "scene_light": 0.9}, {"image"}),
    "noise": ({"camera_noise": 10.0}, {"image"}),
    "air": ({"air_celsius": 5.0}, {"celsius", "thermal"}),
    "gaze": ({"gaze": (20, 5)}, {"image", "normals", "depth", "uv", "celsius", "thermal", "parsing", "parts"}),
    "hair": ({"hair_style": "long"}, set(EVERYTHING) | {"celsius", "visible"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_control_changes_its_own_and_nothing_else(plain: HeadParameters, name: str) -> None:
    columns, may = CHANGES[name]
    before = render(plain, size=SIZE, what=EVERYTHING)
    after = render(plain.with_(**columns), size=SIZE, what=EVERYTHING)
    changed = {
        key
        for key, value in before.maps.items()
        if not np.array_equal(value, after.maps[key], equal_nan=value.dtype.kind == "f")
    }
    assert changed <= may, changed
    assert changed
    np.testing.assert_array_equal(before.landmarks_2d, after.landmarks_2d)


def test_pose_is_that_of_the_landmarks(plain: HeadParameters) -> None:
    angles = np.array([(0, 0, 0), (25, 0, 0), (-40, 10, 0), (0, -20, 15), (70, 5, -10), (90, 0, 0)], np.float32)
    drawn = HeadParameters.concat([plain] * len(angles)).with_(pose=angles, distance=1000.0)
    heads = render(drawn, size=SIZE, what=("landmarks",))
    rest = heads.landmarks_3d[0] - heads.landmarks_3d[0].mean(0)
    for row, angle in enumerate(angles):
        turned = rest @ rotation_from_euler(angle).T
        here = heads.landmarks_3d[row] - heads.landmarks_3d[row].mean(0)
        assert np.abs(here - turned).max() < 1.0  # a weak perspective is left, pixels
    found = pose_from_landmarks3d(heads.landmarks_3d, rest)
    assert np.abs(found - angles).max() < 2.5
    # By the mean face of photographs the frontal head looks ahead.
    assert np.abs(pose_from_landmarks3d(heads.landmarks_3d[:1], heads_mean())[0, [0, 2]]).max() < 3


def heads_mean() -> np.ndarray:
    from mien.geometry.pose import MEAN70

    return np.asarray(MEAN70[:68])


def test_landmarks_lie_on_the_drawn_surface(plain: HeadParameters) -> None:
    heads = render(plain, size=256, what=("landmarks", "depth", "parsing"))
    points, depth, classes = heads.landmarks_2d[0], heads.depth[0], heads.parsing[0]
    scale = 0.5 * 256 / 13
    for k in range(17, 68):
        x, y = np.rint(points[k]).astype(int)
        window = depth[y - 1 : y + 2, x - 1 : x + 2]
        z = heads.landmarks_3d[0, k, 2] / scale + plain.distance[0]
        assert np.abs(window - z).min() < 0.5, k
    x, y = np.rint(points[30]).astype(int)
    assert PARSING[classes[y, x]] == "nose"
    for eye, name in ((slice(36, 42), "l_eye"), (slice(42, 48), "r_eye")):
        x, y = np.rint(points[eye].mean(0)).astype(int)
        assert PARSING[classes[y, x]] == name
    for brow, name in ((slice(17, 22), "l_brow"), (slice(22, 27), "r_brow")):
        low, high = np.rint(points[brow].min(0)).astype(int), np.rint(points[brow].max(0)).astype(int)
        assert (classes[low[1] - 3 : high[1] + 8, low[0] : high[0]] == PARSING.index(name)).any()
    # A symmetrical head is mirrored by the flip of its landmarks; this one is nearly so.
    assert heads.visible[0].mean() > 0.9


def test_what_is_hidden_is_not_visible(plain: HeadParameters) -> None:
    rows = HeadParameters.concat([plain] * 4).with_(
        pose=[(0, 0, 0), (80, 0, 0), (-80, 0, 0), (0, 0, 0)], occluder=["none", "none", "none", "mask"]
    )
    seen = render(rows, size=112, what=("landmarks",)).visible
    left, right = list(range(36, 40)), list(range(44, 48))
    assert seen[0, left + right].all()
    # The face turned to the picture's right side hides the eye there.
    assert not seen[1, right].any()
    assert not seen[2, left[:3]].any()
    assert not seen[3, 48:].any()
    assert seen[3, left + right].all()


def test_depth_normals_and_parsing_cover_the_same(plain: HeadParameters) -> None:
    drawn = HeadParameters.concat([plain, sample(5, seed=4, occluder="none")])
    heads = render(drawn, size=SIZE, what=EVERYTHING)
    covered = np.isfinite(heads.depth)
    np.testing.assert_array_equal(covered, heads.parts != 255)
    np.testing.assert_array_equal(covered, np.isfinite(heads.uv).all(-1))
    np.testing.assert_array_equal(covered, np.linalg.norm(heads.normals, axis=-1) > 0.5)
    assert ((heads.parsing > 0) <= covered).all()
    assert ((heads.parsing > 0) == covered).mean() > 0.999
    assert set(np.unique(heads.parsing)) <= set(range(len(PARSING)))
    eyes = heads.parts == PARTS.index("eye_left")
    assert (heads.parsing[eyes] == PARSING.index("l_eye")).all()
    # What is seen faces the camera.
    facing = heads.normals[..., 2][covered]
    assert (facing < 0.2).mean() > 0.99


def test_the_infrared_picture_is_that_of_a_person(plain: HeadParameters) -> None:
    heads = render(plain.with_(air_celsius=20.0, skin_celsius=34.5), size=112, what=("parsing", "thermal", "landmarks"))
    celsius, classes = heads.celsius[0], heads.parsing[0]
    mean = {
        name: float(celsius[classes == number].mean())
        for number, name in enumerate(PARSING)
        if (classes == number).any()
    }
    assert abs(mean["background"] - 20) < 1.5
    assert 32 < mean["skin"] < 35.5
    assert mean["nose"] < mean["skin"]
    assert mean["hair"] < mean["skin"] - 3
    dark = plain.with_(occluder="sunglasses", air_celsius=20.0)
    glasses = render(dark, size=112, what=("parts", "thermal"))
    lens = glasses.parts[0] == PARTS.index("lens")
    assert glasses.celsius[0][lens].mean() < 26


def test_attributes_follow_the_controls(plain: HeadParameters) -> None:
    def has(name: str, **columns: Any) -> bool:
        return bool(render(plain.with_(**columns), size=16, what=()).attributes[0, ATTRIBUTES.index(name)])

    smile = np.zeros(len(UNITS))
    smile[list(UNITS).index("lip_corner_puller")] = 1
    for name, columns in {
        "Bald": {"hair_style": 0},
        "Eyeglasses": {"glasses": 2},
        "Goatee": {"beard_style": 3},
        "Gray_Hair": {"grey": 0.9},
        "Smiling": {"units": smile},
        "Wearing_Hat": {"hat": 1},
        "Wearing_Lipstick": {"lipstick": 0.9},
    }.items():
        assert has(name, **columns), name
        assert not has(name), name
    assert has("No_Beard")


def test_a_smile_lifts_the_corners_and_surprise_opens_the_mouth(plain: HeadParameters) -> None:
    names = ("neutral", "happiness", "surprise", "anger")
    units = expression_units([EXPRESSIONS.index(name) for name in names], np.ones(4))
    points = render(HeadParameters.concat([plain] * 4).with_(units=units), size=112, what=("landmarks",)).landmarks_2d
    rest, smile, surprise, anger = points
    assert smile[48, 1] < rest[48, 1]
    assert smile[54, 0] - smile[48, 0] > rest[54, 0] - rest[48, 0]
    assert surprise[66, 1] - surprise[62, 1] > 4
    assert surprise[19, 1] < rest[19, 1] < anger[21, 1]
    shut = np.zeros((1, len(UNITS)), np.float32)
    shut[0, list(UNITS).index("eye_closure_left")] = 1
    closed = render(plain.with_(units=shut), size=112, what=("landmarks",)).landmarks_2d[0]

    def opening(points: np.ndarray, top: int, low: int) -> float:
        return float(np.linalg.norm(points[top] - points[low]))

    assert opening(closed, 37, 41) < 0.5 * opening(rest, 37, 41)
    assert opening(closed, 44, 46) > 0.9 * opening(rest, 44, 46)


# --- On disk ---------------------------------------------------------------------------------------------------------


def test_a_shard_holds_what_was_drawn(tmp_path: Path) -> None:
    from PIL import Image

    from mien.data.heads.shards import Plan, write_shard

    plan = Plan(count=3, seed=2, size=48, truth=("depth", "landmarks", "parsing", "thermal"), encoding="png", shard=2)
    assert plan.shards == 2
    assert write_shard(plan, tmp_path, 0) == 2
    assert write_shard(plan, tmp_path, 1) == 1
    assert not list(tmp_path.glob("*.partial"))
    heads = render(sample(3, seed=2), size=48, what=("image", "landmarks", "parsing", "depth"))
    with tarfile.open(tmp_path / "heads-000001.tar") as tar:
        names = tar.getnames()
        held = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert names == [f"000000002.{end}" for end in ("png", "json", "parsing.png", "thermal.png", "npz")]
    picture = np.asarray(Image.open(io.BytesIO(held["000000002.png"])))
    assert (np.abs(picture.astype(int) - heads.image[2].astype(int)) > 1).mean() < 1e-3
    about = json.loads(held["000000002.json"])
    np.testing.assert_allclose(about["points"], heads.landmarks_2d[2], atol=1e-2)
    assert about["attributes"].keys() == set(ATTRIBUTES)
    assert "nobody" in about["mark"]
    assert about["parameters"]["seed"] == int(sample(3, seed=2).seed[2])
    arrays = np.load(io.BytesIO(held["000000002.npz"]))
    assert set(arrays) == {"depth", "celsius"}
