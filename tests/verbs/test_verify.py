"""Verdicts on painted faces: same, different, and every reason not to judge."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import mien.errors as errors
from mien.verbs.calibrate import Calibration, OperatingPoint
from mien.verbs.verify import Reason, verify


def test_same_and_different(fakes: Any) -> None:
    a, same, other = (fakes.picture((40, 50, side, who)) for side, who in ((100, 1), (130, 1), (100, 2)))
    yes = verify(a, same, quality="components", **fakes.embed)
    assert yes.same is True
    assert yes.similarity is not None
    assert yes.similarity >= yes.threshold == 0.7
    assert (yes.fmr, yes.threshold_low, yes.threshold_high, yes.measured_on) == (
        1e-3,
        0.65,
        0.75,
        "painted faces",
    )
    assert yes.explanation.startswith("The same person")
    assert "fewer than 1 in 1,000" in yes.explanation
    no = verify(a, other, quality="components", **fakes.embed)
    assert no.same is False
    assert "more than 1 in 100" in no.explanation
    assert no.remarks == ()


def test_verify_is_symmetric(fakes: Any) -> None:
    a, b = fakes.picture((40, 50, 100, 1)), fakes.picture((10, 20, 140, 2))
    there, back = verify(a, b, **fakes.embed), verify(b, a, **fakes.embed)
    assert there.similarity == pytest.approx(back.similarity, abs=1e-6)
    assert there.same == back.same


def test_both_pictures_share_one_pass(fakes: Any) -> None:
    verify(fakes.picture((40, 50, 100, 1)), fakes.picture((40, 50, 90, 2)), quality="components", **fakes.embed)
    assert [call[0] for call in fakes.embedder.calls] == [2]


def test_no_face_is_never_the_same(fakes: Any) -> None:
    verdict = verify(fakes.picture((40, 50, 100, 1)), fakes.picture(), **fakes.embed)
    assert verdict.same is None
    assert verdict.similarity is None
    assert verdict.reasons == (Reason.NO_FACE,)
    assert verdict.remarks[0].picture == "b"
    assert verdict.b.index is None
    assert "no face was found in picture b" in verdict.explanation
    nothing = verify(fakes.picture(), fakes.picture(), **fakes.embed)
    assert nothing.same is None
    assert [r.picture for r in nothing.remarks] == ["a", "b"]


def test_several_faces_the_largest_is_taken_and_said(fakes: Any) -> None:
    crowd = fakes.picture((10, 10, 60, 2), (120, 40, 150, 1))
    verdict = verify(fakes.picture((40, 50, 100, 1)), crowd, quality="components", **fakes.embed)
    assert verdict.same is True
    assert verdict.reasons == (Reason.SEVERAL_FACES,)
    assert not verdict.remarks[0].blocks
    assert verdict.b.faces == 2
    assert verdict.b.box is not None
    assert verdict.b.box[0] == pytest.approx(120, abs=2)
    middle = fakes.picture((10, 10, 100, 1), (140, 100, 40, 2))
    verdict = verify(fakes.picture((40, 50, 100, 2)), middle, choose="central", quality="components", **fakes.embed)
    assert verdict.b.box is not None
    assert verdict.b.box[0] == pytest.approx(140, abs=2)


def test_too_small(fakes: Any) -> None:
    tiny = fakes.picture((40, 30, 14, 1), height=60, width=80)
    verdict = verify(fakes.picture((40, 50, 100, 1)), tiny, min_quality=0, quality="components", **fakes.embed)
    assert verdict.same is None
    assert Reason.TOO_SMALL in verdict.reasons
    assert verdict.similarity is not None, "what was measured is still told"


def test_too_blurred_and_low_quality(fakes: Any) -> None:
    import cv2

    image = fakes.picture((40, 50, 150, 1))
    inner = image[56:200, 46:184]  # with the frame's lower edge, which lies in the region that is measured
    inner[:] = cv2.GaussianBlur(inner, (0, 0), 30)
    verdict = verify(fakes.picture((40, 50, 100, 1)), image, quality="components", min_quality=0.99, **fakes.embed)
    assert verdict.same is None
    assert {Reason.TOO_BLURRED, Reason.LOW_QUALITY} <= set(verdict.reasons)
    for remark in verdict.remarks:
        assert remark.value is not None
        assert remark.limit is not None
        assert remark.value < remark.limit


def test_dark_and_burnt_out(fakes: Any) -> None:
    a = fakes.picture((40, 50, 100, 1))
    dark = fakes.paint(np.zeros((240, 320, 3), np.uint8), 40, 50, 100, person=1, shift=-190)
    bright = fakes.paint(np.zeros((240, 320, 3), np.uint8), 40, 50, 100, person=1, shift=190)
    for image, reason in ((dark, Reason.UNDEREXPOSED), (bright, Reason.OVEREXPOSED)):
        verdict = verify(a, image, min_quality=0, quality="components", **fakes.embed)
        assert reason in verdict.reasons, reason


def test_cut_off_and_turned_away(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mien.geometry.pose
    from mien.verbs import quality

    a = fakes.picture((40, 50, 100, 1))
    monkeypatch.setattr(quality, "inside", lambda matrices, sizes: np.full(len(matrices), 0.4, np.float32))
    poses = np.array([[-75, 0, 0], [0, 50, 0]], np.float32)
    monkeypatch.setattr(mien.geometry.pose, "pose_from_landmarks3d", lambda *points: poses)
    verdict = verify(a, a, min_quality=0, quality="components", **fakes.embed)
    assert verdict.same is True
    assert [(r.reason, r.picture) for r in verdict.remarks] == [
        (Reason.EXTREME_POSE, "a"), (Reason.CUT_OFF, "a"), (Reason.EXTREME_POSE, "b"), (Reason.CUT_OFF, "b"),
    ]  # fmt: skip
    assert [r.value for r in verdict.remarks[::2]] == [-75, 50]


def test_threshold_of_ones_own(fakes: Any) -> None:
    a, b = fakes.picture((40, 50, 100, 1)), fakes.picture((40, 50, 100, 2))
    verdict = verify(a, b, threshold=-1, quality="components", **fakes.embed)
    assert verdict.same is True
    assert verdict.fmr is None
    assert verdict.similarity_fmr is not None


def test_a_calibration_of_ones_own(fakes: Any, tmp_path: Any) -> None:
    a, b = fakes.picture((40, 50, 100, 1)), fakes.picture((40, 50, 100, 1))
    bundled = verify(a, b, **fakes.embed)
    assert bundled.contract is not None
    table = Calibration((OperatingPoint(1e-3, 0.25),), bundled.contract, "my office", "2026-01-31")
    table.save(tmp_path / "table.json")
    mine = verify(a, b, calibration=tmp_path / "table.json", **fakes.embed)
    assert (mine.threshold, mine.measured_on, mine.measured) == (0.25, "my office", "2026-01-31")
    foreign = Calibration((OperatingPoint(1e-3, 0.25),), "other@123", "", "")
    with pytest.raises(errors.OptionError, match="other weights"):
        verify(a, b, calibration=foreign, **fakes.embed)


def test_rates_that_were_not_measured(fakes: Any) -> None:
    a = fakes.picture((40, 50, 100, 1))
    with pytest.raises(errors.OptionError, match="outside of what was measured"):
        verify(a, a, fmr=1e-7, **fakes.embed)
    between = verify(a, a, fmr=10**-2.5, **fakes.embed)
    assert between.threshold == pytest.approx(0.6)
    assert between.fmr == pytest.approx(10**-2.5)


@pytest.mark.parametrize("options", [{"threshold": 3}, {"min_quality": 2}, {"choose": "nicest"}, {"quality": "best"}])
def test_options_without_sense(fakes: Any, options: Any) -> None:
    a = fakes.picture((40, 50, 100, 1))
    with pytest.raises(errors.OptionError):
        verify(a, a, **options, **fakes.embed)


def test_several_pictures_are_refused(fakes: Any, tmp_path: Any) -> None:
    a = fakes.picture((40, 50, 100, 1))
    for many in ([a, a], tmp_path):
        with pytest.raises(errors.OptionError, match="one picture"):
            verify(a, many, **fakes.embed)


def test_a_picture_that_cannot_be_read_raises(fakes: Any) -> None:
    with pytest.raises(errors.MediaNotFound):
        verify(fakes.picture((40, 50, 100, 1)), "missing.jpg", **fakes.embed)


def test_json(fakes: Any) -> None:
    verdict = verify(fakes.picture((40, 50, 100, 1)), fakes.picture(), **fakes.embed)
    told = json.loads(verdict.to_json())
    assert told["same"] is None
    assert told["remarks"][0]["reason"] == "no_face"
    assert told == json.loads(json.dumps(verdict.to_dict()))
