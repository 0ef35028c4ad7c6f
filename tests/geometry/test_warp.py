"""Warps: OpenCV and torch agree with each other and with sampling by hand; gradients flow; crops go back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError
from mien.geometry import apply, compose, invert, paste_back, warp_images, warp_tensor
from mien.geometry.similarity import identity

Array = NDArray[np.float64]


def smooth_photo(height: int = 150, width: int = 200) -> NDArray[np.uint8]:
    """Coloured waves: every pixel differs from its neighbours, but by little."""
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 13)]
    return np.stack([(c + 1) * 127 for c in channels], -1).astype(np.uint8)


def similarity(scale: float, angle: float, centre: tuple[float, float], side: int) -> Array:
    """The crop of `side` pixels about `centre` of the photo."""
    c, s = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    turn = np.array([[c, -s], [s, c]])
    return np.column_stack([turn, np.array([side / 2, side / 2]) - turn @ centre])


def bilinear(image: NDArray[np.uint8], matrix: Array, side: int) -> Array:
    """Sampling by hand, black outside: the definition that both warps are held to."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    height, width = image.shape[:2]
    out = np.zeros((side, side, 3))
    for v in range(side):
        for u in range(side):
            x, y, _ = inverse @ [u, v, 1]
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            for i, j, weight in (
                (x0, y0, (x0 + 1 - x) * (y0 + 1 - y)),
                (x0 + 1, y0, (x - x0) * (y0 + 1 - y)),
                (x0, y0 + 1, (x0 + 1 - x) * (y - y0)),
                (x0 + 1, y0 + 1, (x - x0) * (y - y0)),
            ):
                if 0 <= i < width and 0 <= j < height:
                    out[v, u] += weight * image[j, i]
    return out


def by_torch(image: NDArray[np.uint8], matrix: Array, size: int | tuple[int, int], **options: object) -> Array:
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    out = warp_tensor(tensor, torch.from_numpy(matrix)[None], size, **options)  # type: ignore[arg-type]
    return np.asarray(out[0].permute(1, 2, 0))


@pytest.mark.parametrize("scale", [0.6, 1.0, 2.3])
@pytest.mark.parametrize("angle", [0, 25, -140])
@pytest.mark.parametrize("centre", [(100, 75), (3, 140)])
def test_both_are_bilinear_sampling(scale: float, angle: float, centre: tuple[float, float]) -> None:
    photo, matrix = smooth_photo(), similarity(scale, angle, centre, 24)
    expected = bilinear(photo, matrix, 24)
    np.testing.assert_allclose(by_torch(photo, matrix, 24), expected, atol=1e-6)
    # OpenCV rounds coordinates to 1/32 px: at the black border half of that times 255 can show.
    np.testing.assert_allclose(warp_images(photo, matrix[None], 24)[0], expected, atol=5)
    assert np.abs(warp_images(photo, matrix[None], 24)[0] - expected).mean() < 0.6


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.05, 3),
    st.floats(-180, 180),
    st.tuples(st.floats(-20, 220), st.floats(-20, 170)),
    st.sampled_from(["constant", "replicate"]),
)
def test_opencv_and_torch_agree(scale: float, angle: float, centre: tuple[float, float], border: str) -> None:
    photo, matrix = smooth_photo(), similarity(scale, angle, centre, 40)
    ours = warp_images(photo, matrix[None], 40, border=border, fill=90)[0].astype(float)
    theirs = by_torch(photo, matrix, 40, border=border, fill=90)
    assert np.abs(ours - theirs).mean() < 0.7
    assert np.abs(ours - theirs).max() < 6


@pytest.mark.parametrize("border", ["constant", "replicate"])
def test_bounded_work_gives_what_the_whole_photo_gives(border: str) -> None:
    mode = cv2.BORDER_CONSTANT if border == "constant" else cv2.BORDER_REPLICATE
    photo = smooth_photo()
    for centre in ((100, 75), (0, 0), (199, 149), (-30, 75), (100, 400)):
        matrix = similarity(0.8, 33, centre, 32)
        whole = cv2.warpAffine(photo, matrix, (32, 32), borderMode=mode, borderValue=(50,) * 4)
        ours = warp_images(photo, matrix[None], 32, border=border, fill=50)[0]
        assert np.abs(ours.astype(int) - whole).max() <= 6
        assert np.abs(ours.astype(int) - whole).mean() < 0.3


def test_shrinking_averages_instead_of_skipping() -> None:
    """A fine chessboard is grey from afar; sampled without averaging it is noise or all one colour."""
    board = ((np.indices((400, 400)).sum(0) % 2) * 255).astype(np.uint8)
    matrix = similarity(0.1, 7, (200, 200), 30)[None]
    calm = warp_images(board, matrix, 30)[0]
    assert np.abs(calm.astype(float) - 127.5).max() < 3
    assert warp_images(board, matrix, 30, antialias=False)[0].std() > 20


def test_shrinking_keeps_the_place() -> None:
    """Averaging must not shift: the centre of gravity of a blob lands where the matrix says."""
    y, x = np.mgrid[:300, :300]
    blob = (255 * np.exp(-((x - 140.3) ** 2 + (y - 161.8) ** 2) / (2 * 8**2))).astype(np.float32)
    for scale in (0.5, 0.34, 0.2, 0.11):
        matrix = similarity(scale, 20, (150, 150), 60)
        crop = warp_images(blob, matrix[None], 60)[0]
        v, u = np.mgrid[:60, :60]
        found = np.array([(u * crop).sum(), (v * crop).sum()]) / crop.sum()
        np.testing.assert_allclose(found, apply(matrix, [[140.3, 161.8]])[0], atol=0.05)


def test_many_crops_are_single_crops() -> None:
    photo = smooth_photo()
    matrices = np.stack([similarity(s, a, (90, 60), 20) for s, a in ((1, 0), (0.3, 50), (2, -10))])
    together = warp_images(photo, matrices, 20)
    for i in range(3):
        np.testing.assert_array_equal(together[i], warp_images(photo, matrices[i : i + 1], 20)[0])
    tensor = torch.rand(3, 2, 50, 60, dtype=torch.float64)
    batch = warp_tensor(tensor, torch.from_numpy(matrices), 20)
    for i in range(3):
        one = warp_tensor(tensor[i : i + 1], torch.from_numpy(matrices[i : i + 1]), 20)
        torch.testing.assert_close(batch[i : i + 1], one)


def test_shapes_and_dtypes() -> None:
    photo = smooth_photo()
    assert warp_images(photo, np.zeros((0, 2, 3)), 16).shape == (0, 16, 16, 3)
    assert warp_images(photo[..., 0], identity(2), (8, 12)).shape == (2, 8, 12)
    assert warp_images(photo[..., :1], identity(1), 8).shape == (1, 8, 8, 1)
    assert warp_images(photo.astype(np.float32), identity(1), 8).dtype == np.float32
    np.testing.assert_array_equal(warp_images(photo, identity(1), (150, 200))[0], photo)
    half = warp_tensor(torch.zeros(1, 3, 9, 9, dtype=torch.bfloat16), torch.eye(2, 3)[None], (5, 6))
    assert (half.shape, half.dtype) == ((1, 3, 5, 6), torch.bfloat16)
    assert warp_tensor(torch.zeros(0, 3, 9, 9), torch.zeros(0, 2, 3), 4).shape == (0, 3, 4, 4)


def test_photos_wider_than_opencv_allows() -> None:
    wide = np.zeros((4, 40_000), np.uint8)
    wide[:, 39_990:] = 200
    crop = warp_images(wide, [[[1, 0, -39_980], [0, 1, 0]]], (4, 20))[0]
    np.testing.assert_array_equal(crop[:, :10], 0)
    np.testing.assert_array_equal(crop[:, 10:], 200)


def test_gradients_of_pixels_and_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 12, 14, dtype=torch.float64, generator=generator, requires_grad=True)
    # The second one shrinks more than twice, so the averaging is in the path too.
    first, second = similarity(1.1, 20, (7, 6), 5), similarity(0.37, -30, (7, 6), 5)
    matrices = torch.tensor(np.stack([first, second]), requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, m: warp_tensor(i, m, 5), (images, matrices), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_a_crop_pasted_back_changes_nothing_but_a_painted_one_shows(scale: float) -> None:
    photo = smooth_photo()
    matrix = similarity(scale, 15, (100, 75), 32)[None]
    crop = warp_images(photo, matrix, 32)
    same = paste_back(photo, crop, matrix).astype(int)
    if scale >= 1:  # a crop that was made smaller has lost detail
        assert np.abs(same - photo).max() <= 4
    painted = paste_back(photo, np.full_like(crop, 255), matrix)
    assert (painted[75, 100] == 255).all()
    np.testing.assert_array_equal(painted[:3], photo[:3])
    corners = apply(invert(matrix[0]), [[-3, -3], [35, -3], [-3, 35], [35, 35]])
    outside = cv2.fillConvexPoly(
        np.ones(photo.shape[:2], np.uint8), cv2.convexHull(corners.astype(np.float32)).astype(int), 0
    )
    np.testing.assert_array_equal(painted[outside > 0], photo[outside > 0])


def test_masks_rims_and_order() -> None:
    photo = np.zeros((40, 40), np.uint8)
    crops = np.stack([np.full((20, 20), 100, np.uint8), np.full((20, 20), 200, np.uint8)])
    matrices = np.array([[[1, 0, -5], [0, 1, -5]], [[1, 0, -10], [0, 1, -10]]])
    hard = paste_back(photo, crops, matrices, feather=0)
    assert hard[6, 6] == 100
    assert hard[15, 15] == 200  # the later crop lies on top
    assert hard[5, 5] == 100
    assert hard[4, 4] == 0
    soft = paste_back(photo, crops[:1], matrices[:1], feather=0.3)
    assert 0 < soft[5, 15] < soft[7, 15] < soft[14, 15] == 100
    masks = np.zeros((1, 20, 20))
    np.testing.assert_array_equal(paste_back(photo, crops[:1], matrices[:1], masks=masks), photo)
    beside = np.array([[[1, 0, -500], [0, 1, 0]]])
    np.testing.assert_array_equal(paste_back(photo, crops[:1], beside), photo)
    assert photo.sum() == 0  # the photo itself is untouched


def test_composed_warps_are_one_warp() -> None:
    photo = smooth_photo()
    a, b = similarity(1.3, 10, (100, 75), 100), similarity(1.0, -30, (50, 50), 40)
    twice = warp_images(warp_images(photo, a[None], 100)[0], b[None], 40)[0].astype(int)
    once = warp_images(photo, compose(a, b)[None], 40)[0].astype(int)
    assert np.abs(twice - once).mean() < 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda p: warp_images(p[0, 0], identity(1), 8), ShapeError),
        (lambda p: warp_images(p[:0], identity(1), 8), ShapeError),
        (lambda p: warp_images(np.zeros((5, 5, 7), np.uint8), identity(1), 8), ShapeError),
        (lambda p: warp_images(p, identity(1)[0], 8), ShapeError),
        (lambda p: warp_images(p.astype(np.int64), identity(1), 8), DtypeError),
        (lambda p: warp_images(p, identity(1), 0), ValueRangeError),
        (lambda p: warp_images(p, np.zeros((1, 2, 3)), 8), ValueRangeError),
        (lambda p: warp_images(p, np.full((1, 2, 3), np.nan), 8), ValueRangeError),
        (lambda p: warp_images(p, identity(1), 8, border="wrap"), OptionError),
        (lambda p: paste_back(p, p[None, :8, :8, 0], identity(1)), ShapeError),
        (lambda p: paste_back(p, p[None, :8, :8].astype(np.float32), identity(1)), DtypeError),
        (lambda p: paste_back(p, p[None, :8, :8], identity(1), masks=np.zeros((1, 4, 4))), ShapeError),
        (
            lambda p: paste_back(p, p[None, :8, :8], identity(1), masks=np.full((1, 8, 8), 2.0)),
            ValueRangeError,
        ),
        (lambda p: paste_back(p, p[None, :8, :8], identity(1), feather=0.9), ValueRangeError),
        (lambda p: warp_tensor(torch.zeros(1, 3, 8, 8), torch.zeros(2, 2, 3), 8), ShapeError),
        (lambda p: warp_tensor(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 3), 8), ValueRangeError),
        (
            lambda p: warp_tensor(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.eye(2, 3)[None], 8),
            DtypeError,
        ),
    ],
)
def test_bad_input(call: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(smooth_photo())  # type: ignore[operator]
