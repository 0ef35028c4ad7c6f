"""Pictures of results: what is drawn lies where the numbers say, and nothing else is touched."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from mien.errors import EmptyMedia, ImageTooLarge, OptionError, ShapeError
from mien.faces import Faces, ImageInfo
from mien.geometry.landmarks import IBUG68, five_from_68
from mien.geometry.pose import MEAN70, rotation_from_euler
from mien.media import annotate, contact_sheet, draw

ACCENT = np.array([0x5C, 0xF2, 0xC3])


def face(x: float = 200, y: float = 150, side: float = 160, *, pose: tuple[float, float, float] = (0, 0, 0)) -> Any:
    """All columns of one face whose box has its corner at (x, y)."""
    points = MEAN70 @ rotation_from_euler(np.array(pose, float)).T * side / 1.8
    points += np.array([x + side / 2, y + side / 2, 0])
    return {
        "image": [0],
        "boxes": [[x, y, x + side, y + side]],
        "scores": [0.98],
        "landmarks5": five_from_68(points[None, :68, :2]),
        "landmarks": points[None, :, :2],
        "landmarks3d": points[None],
        "pose": [list(pose)],
        "quality": [0.8],
    }


def faces(*columns: dict[str, Any], images: int = 1, only: tuple[str, ...] | None = None) -> Faces:
    every = columns or (face(),)
    names = [name for name in every[0] if only is None or name in only or name == "image"]
    joined = {name: np.concatenate([np.asarray(each[name]) for each in every]) for name in names}
    return Faces(**joined, images=[ImageInfo(f"{index}.png", 600, 480) for index in range(images)])


def ground(value: int = 90, *, height: int = 480, width: int = 600) -> Any:
    return np.full((height, width, 3), value, np.uint8)


def test_without_faces_the_picture_comes_back_as_a_copy() -> None:
    image = ground()
    drawn = annotate(image, Faces.empty(images=[ImageInfo("a", 600, 480)]))
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_the_picture_given_is_not_changed() -> None:
    image = ground()
    drawn = annotate(image, faces())
    assert (image == 90).all()
    assert (drawn != 90).any()
    assert drawn.dtype == np.uint8
    assert drawn.shape == image.shape


NAMES = [name for name in face() if name != "image"]


@pytest.mark.parametrize("only", [(), *[(name,) for name in NAMES], *combinations(NAMES, 2), tuple(NAMES)])
def test_whatever_columns_there_are_is_drawn_and_nothing_is_complained_about(only: tuple[str, ...]) -> None:
    drawn = annotate(ground(), faces(only=only))
    somewhere = {"boxes", "landmarks5", "landmarks", "landmarks3d"} & set(only)
    assert (drawn != 90).any() == bool(somewhere)


def test_corners_of_the_box_have_the_accent_where_the_box_is() -> None:
    drawn = annotate(ground(), faces(only=("boxes",)))
    # Box edges lie between pixels: the line at x = 200 runs over the columns 199 and 200.
    for y, x in ((150, 230), (150, 330), (310, 230), (310, 330), (180, 200), (280, 200), (180, 360), (280, 360)):
        both = drawn[y - 1 : y + 1, x] if y in (150, 310) else drawn[y, x - 1 : x + 1]
        assert np.abs(both.astype(int) - ACCENT).max() < 60, (y, x, both)
    assert (drawn[190:270, 240:320] == 90).all()  # inside
    assert (drawn[:100] == 90).all()  # far away
    assert (drawn[:, 420:] == 90).all()


def test_colour_is_the_callers() -> None:
    for colour in ("#ff2000", "rgb(255, 32, 0)", (255, 32, 0)):
        drawn = annotate(ground(), faces(only=("boxes",)), colour=colour)
        assert np.abs(drawn[149:151, 230].astype(int) - (255, 32, 0)).max() < 60


def test_parts_choose() -> None:
    skin = np.ones((1, 128, 128), np.uint8)
    whole = faces().with_columns(parsing=skin, parsing_matrix=[[[1, 0, -200], [0, 1, -150]]])
    drawn = {part: annotate(ground(), whole, parts=[part]) for part in draw.PARTS}
    changed = {part: np.argwhere((picture != 90).any(-1)) for part, picture in drawn.items()}
    assert all(len(places) for places in changed.values())
    assert changed["captions"][:, 0].min() > 310  # below the box
    assert (drawn["boxes"][200:260, 250:310] == 90).all()
    eye = whole.landmarks5[0, 0].round().astype(int)
    assert np.abs(drawn["points"][eye[1], eye[0]].astype(int) - ACCENT).max() < 25
    np.testing.assert_array_equal(annotate(ground(), whole, parts=[]), ground())
    np.testing.assert_array_equal(annotate(ground(), whole, parts="boxes"), drawn["boxes"])
    # By default the five points give way to the landmarks, which show the same.
    np.testing.assert_array_equal(
        annotate(ground(), whole),
        annotate(ground(), whole, parts=("parsing", "boxes", "landmarks", "pose", "captions")),
    )


@pytest.mark.parametrize("value", [0, 255])
def test_lines_can_be_seen_on_black_and_on_white(value: int) -> None:
    drawn = annotate(ground(value), faces(), parts=["landmarks"]).astype(int).mean(-1)
    for row in (0, 8, 21, 30, 48, 57):  # jaw, brow, nose, lips
        x, y = faces().landmarks[0, row].round().astype(int)
        near = drawn[y - 5 : y + 6, x - 5 : x + 6]
        assert near.max() - near.min() > 60, (row, near)


def test_edges_are_smooth() -> None:
    drawn = annotate(ground(0), faces(), parts=["landmarks"])
    levels = np.unique(drawn[..., 0])
    assert len(levels) > 60  # a hard edge would know 0 and 255 only


def test_contours_are_the_parts_of_the_landmark_scheme() -> None:
    assert {row for rows in draw.CONTOURS for row in rows} == set(range(68))
    open_parts = ("jaw", "left_brow", "right_brow", "nose_bridge", "nostrils")
    for name in open_parts:
        assert IBUG68[name] in draw.CONTOURS
    for name in ("left_eye", "right_eye", "outer_lips", "inner_lips"):
        rows = [each for each in draw.CONTOURS if set(each) <= set(IBUG68[name])]
        assert set().union(*rows) == set(IBUG68[name])
        assert rows[0][-1] == rows[1][0]  # drawn round, from corner to corner
        assert rows[1][-1] == rows[0][0]
    assert [lids for _, lids in draw.EYES] == [IBUG68["left_eye"], IBUG68["right_eye"]]


def test_axes_are_the_rotation_of_the_pose() -> None:
    for angles in ((0, 0, 0), (30, 0, 0), (0, 20, 0), (0, 0, 40), (-50, 25, 10), (80, -60, 170)):
        rotation = rotation_from_euler(np.array(angles, float))
        right, down, forward = draw._axes(angles)
        np.testing.assert_allclose(right, rotation[:2, 0], atol=1e-12)
        np.testing.assert_allclose(down, rotation[:2, 1], atol=1e-12)
        np.testing.assert_allclose(forward, -rotation[:2, 2], atol=1e-12)


@pytest.mark.parametrize(("pose", "way"), [((45, 0, 0), (1, 0)), ((-45, 0, 0), (-1, 0)), ((0, 45, 0), (0, -1))])
def test_forward_points_where_the_face_looks(pose: tuple[float, float, float], way: tuple[int, int]) -> None:
    drawn = annotate(ground(), faces(face(pose=pose), only=("boxes", "pose")), parts=["pose"])
    middle, length = np.array([280, 230]), 0.34 * 160 * np.sin(np.radians(45))
    x, y = (middle + length * np.array(way)).round().astype(int)
    assert np.abs(drawn[y, x].astype(int) - ACCENT).max() < 40
    x, y = (middle - 0.8 * length * np.array(way)).round().astype(int)
    assert (np.abs(drawn[y, x].astype(int) - ACCENT).max() > 60) or way == (0, -1)  # the down axis runs there


def test_curves_run_through_their_points_and_do_not_overshoot() -> None:
    points = np.array([[0, 0], [10, 0], [11, 8], [30, 9], [30.5, 9]], float)
    curve = draw._smooth(points)
    for point in points:
        assert np.abs(curve - point).max(1).min() < 1e-9
    assert curve.min() > -3
    assert curve.max() < 34
    straight = draw._smooth(np.array([[0, 0], [1, 1], [5, 5], [6, 6]], float))
    np.testing.assert_allclose(straight[:, 0], straight[:, 1])
    assert np.isfinite(draw._smooth(np.zeros((4, 2)))).all()  # points that coincide


def test_scale_enlarges_picture_and_faces_alike() -> None:
    drawn = annotate(ground(), faces(only=("boxes",)), scale=2)
    assert drawn.shape == (960, 1200, 3)
    assert np.abs(drawn[300, 460].astype(int) - ACCENT).max() < 60
    assert annotate(ground(), faces(), scale=0.5).shape == (240, 300, 3)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (40, 30), (2000, 50)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    for side in (0.0, 1.0, 20.0, 5000.0):
        drawn = annotate(ground(height=height, width=width), faces(face(-3, -2, side or 1e-3)))
        assert drawn.shape == (height, width, 3)


def test_faces_outside_and_far_outside() -> None:
    far = annotate(ground(), faces(face(1e6, 1e6), face(-1e6, 0)))
    np.testing.assert_array_equal(far, ground())
    assert (annotate(ground(), faces(face(-80, -80))) != 90).any()
    assert annotate(ground(), faces(face(-1e6, -1e6, 3e6))).shape == (480, 600, 3)


def test_the_caption_goes_where_there_is_room() -> None:
    def rows(picture: Any) -> Any:
        return np.flatnonzero((picture != 90).any((1, 2)))

    assert rows(annotate(ground(), faces(face(200, 100)), parts=["captions"])).min() > 260  # below
    assert rows(annotate(ground(), faces(face(200, 310)), parts=["captions"])).max() < 310  # above
    assert rows(annotate(ground(), faces(face(60, 2, 476)), parts=["captions"])).min() > 240  # inside, at the foot
    tiny = annotate(ground(height=40, width=40), faces(face(2, 2, 36)), parts=["captions"])
    np.testing.assert_array_equal(tiny, ground(height=40, width=40))  # rather none than one over the face


def test_captions_do_not_hide_other_faces() -> None:
    # Right below the upper face is the lower one: the caption of the upper goes above, that of the lower below.
    drawn = annotate(ground(), faces(face(200, 100, 150), face(200, 255, 150)), parts=["captions"])
    rows = np.flatnonzero((drawn != 90).any((1, 2)))
    assert rows.min() < 95
    assert rows.max() > 410
    assert (drawn[100:405, 200:350] == 90).all()


def test_a_crowd_of_small_faces_is_not_buried_in_captions() -> None:
    crowd = [face(x, y, 18) for x in range(10, 580, 40) for y in range(10, 460, 40)]
    np.testing.assert_array_equal(annotate(ground(), faces(*crowd), parts=["captions"]), ground())
    assert (annotate(ground(), faces(*crowd)) != 90).any()


def test_landmarks_of_other_schemes_are_dots() -> None:
    columns = face()
    columns["landmarks"] = columns["landmarks"][:, :21]
    drawn = annotate(ground(0), faces(columns, only=("landmarks",)))
    for x, y in columns["landmarks"][0].round().astype(int):
        assert drawn[y, x, 0] > 120


def test_annotate_refuses_what_would_make_a_wrong_picture() -> None:
    two = face()
    two["image"] = [1]
    with pytest.raises(OptionError, match="several pictures") as caught:
        annotate(ground(), faces(face(), two, images=2))
    assert "of_image" in str(caught.value.hint)
    with pytest.raises(OptionError, match="landmarks"):
        annotate(ground(), faces(), parts=["landmark"])
    for colour in ("greenish", (1, 2), (1, 2, 256), (0.1, 0.2, 0.3)):
        with pytest.raises(OptionError, match="colour"):
            annotate(ground(), faces(), colour=colour)  # type: ignore[arg-type]
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="scale"):
            annotate(ground(), faces(), scale=scale)
    with pytest.raises(ImageTooLarge):
        annotate(ground(), faces(), scale=1000)
    with pytest.raises(ShapeError):
        annotate(np.zeros((4, 4, 7), np.uint8), faces())


# ------------------------------------------------------------------------------------------ contact sheets


def test_pictures_lie_in_rows_and_keep_their_shape() -> None:
    images = [np.full((50, 100, 3), value, np.uint8) for value in (10, 60, 110, 160, 210)]
    sheet = contact_sheet(images, columns=2, size=40, gap=10)
    # Rows are as high as their pictures: 20 pixels. Height 10 + 3 (20 + 10), width 10 + 2 (40 + 10).
    assert sheet.shape == (100, 110, 3)
    for index, value in enumerate((10, 60, 110, 160, 210)):
        y, x = 10 + index // 2 * 30 + 10, 10 + index % 2 * 50 + 20
        assert (sheet[y - 5 : y + 5, x - 15 : x + 15] == value).all()
    assert (sheet[75:95, 65:95] == 255).all()  # the sixth place stays empty
    assert (sheet[10, 10] != 10).all()  # corners are round


def test_cover_cuts_a_square_out_of_the_middle() -> None:
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, 30:60] = 200
    sheet = contact_sheet([image], size=60, gap=0, cover=True)
    assert sheet.shape == (60, 60, 3)
    assert (sheet[5:55, 5:55] == 200).all()


@pytest.mark.parametrize(("background", "ink"), [("#ffffff", 0), ("#101418", 255)])
def test_captions_stand_below_their_pictures(background: str, ink: int) -> None:
    images = [ground(120, height=64, width=64)] * 3
    plain = contact_sheet(images, columns=3, size=64, gap=8, background=background)
    sheet = contact_sheet(images, columns=3, size=64, gap=8, background=background, captions=["one", "", "Zoë 中 " * 9])
    assert sheet.shape[0] > plain.shape[0]
    np.testing.assert_array_equal(sheet[:72], plain[:72])
    below = sheet[72:-8].astype(int)
    parts = [below[:, 8 + index * 72 : 72 + index * 72] for index in range(3)]
    assert np.abs(parts[0] - ink).min() < 40
    assert (parts[1] == below[0, 0]).all()
    assert np.abs(parts[2] - ink).min() < 40
    assert (below[:, 72:80] == below[0, 0]).all()  # a long one is cut, and keeps to its picture
    assert (below[:, 144:152] == below[0, 0]).all()


def test_letters_that_the_font_lacks() -> None:
    assert draw._writable("Zoë Müller-Łódź 中 12°") == "Zoe Muller-?odz ? 12°"
    font = draw._font(12)
    cut = draw._fitted("a rather long name of a file.jpg", font, 60)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 60
    assert draw._fitted("short", font, 60) == "short"


def test_contact_sheets_refuse() -> None:
    with pytest.raises(EmptyMedia):
        contact_sheet([])
    with pytest.raises(OptionError, match="captions"):
        contact_sheet([ground()], captions=["a", "b"])
    for options in ({"columns": 0}, {"size": 2}, {"gap": -1}, {"columns": 1.5}, {"background": "nothing"}):
        with pytest.raises(OptionError):
            contact_sheet([ground()], **options)  # type: ignore[arg-type]
    with pytest.raises(ImageTooLarge):
        contact_sheet([ground(height=8, width=8)] * 8, size=4000)
