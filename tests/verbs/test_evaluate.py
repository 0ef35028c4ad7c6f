"""Evaluations on painted faces whose errors are known, every figure derived again from what lies open."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mien.errors as errors
from mien.geometry.landmarks import IBUG68
from mien.verbs import evaluate
from mien.verbs._pairs import read_pairs, read_table
from mien.verbs.analyze import analyze
from mien.verbs.detect import detect

FAST: dict[str, Any] = {"repeats": 60, "size": 180}


def save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def album(tmp_path: Path, fakes: Any) -> Path:
    """Twelve people, two pictures each, and pairs in the columns' order of LFW; two rows say what is not so."""
    rows = []
    for who in range(12):
        for turn in range(2):
            save(
                tmp_path / f"{who:02d}_{turn}.png",
                fakes.picture((20 + 20 * turn, 20, 80 + 20 * turn, who), height=140, width=180),
            )
        group = ("young", "old")[who % 2]
        rows.append(f"{who % 3},{int(who != 4)},{who:02d}_0.png,{who:02d}_1.png,{group}")
        rows.append(f"{who % 3},{int(who == 7)},{who:02d}_0.png,{(who + 1) % 12:02d}_1.png,{group}")
    write(tmp_path / "pairs.csv", "fold,same,a,b,age", rows)
    return tmp_path


def open_pairs(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
    """Similarity (-1 where there is none), same, fold and judgement of the written table."""
    rows = list(csv.DictReader(path.open()))
    scores = np.array([np.float32(row["similarity"] or -1) for row in rows])
    same = np.array([row["same"] == "1" for row in rows])
    fold = np.array([int(row["fold"]) for row in rows])
    return scores, same, fold, np.array([row["judged_same"] == "1" for row in rows])


# ------------------------------------------------------------------------------------------- verification


def test_verification_is_what_one_counts_by_hand(fakes: Any, album: Path) -> None:
    told = evaluate.verification(
        pairs=album / "pairs.csv", fmrs=[0.1, 1e-4], out=album / "new" / "scores.csv", **FAST, **fakes.embed
    )
    scores, same, fold, judged = open_pairs(album / "new" / "scores.csv")
    assert (told.same, told.different) == (int(same.sum()), int((~same).sum())) == (12, 12)
    assert (told.pictures, told.faceless, told.failure_to_acquire, told.pairs_without_face) == (24, 0, 0, 0)

    # The k-fold protocol, naively: every threshold that makes a difference on the other folds.
    accuracies = []
    for k, row in zip(range(3), told.folds, strict=True):
        held = fold == k
        levels = np.append(np.sort(scores[~held]), 2)
        best = max(((scores[~held] >= float(level)) == same[~held]).mean() for level in levels)
        assert ((scores[~held] >= row.threshold) == same[~held]).mean() == best
        accuracies.append(((scores[held] >= row.threshold) == same[held]).mean())
        np.testing.assert_array_equal(judged[held], scores[held] >= row.threshold)
        assert (row.fold, row.pairs, row.accuracy) == (str(k), 8, pytest.approx(accuracies[-1]))
    assert told.accuracy == pytest.approx(np.mean(accuracies))
    assert told.standard_error == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(3))
    assert told.folds_from == "table"
    assert told.accuracy < 1, "two rows say what is not so"

    wins = np.mean([(g > i) + (g == i) / 2 for g in scores[same] for i in scores[~same]])
    assert told.auc == pytest.approx(wins, abs=1e-6)
    assert told.auc_low <= told.auc <= told.auc_high
    assert [point.fmr for point in told.at_fmr] == [0.1], "1e-4 needs 10,000 pairs of different people"
    (point,) = told.at_fmr
    assert (scores[~same] >= point.threshold).sum() == point.false_matches == 1
    assert point.fnmr == pytest.approx((scores[same] < point.threshold).mean())
    assert point.threshold_low <= point.threshold <= point.threshold_high


def test_pairs_without_a_face_count_three_ways(fakes: Any, album: Path) -> None:
    save(album / "00_0.png", fakes.picture())  # in one pair of either kind, both in fold 0
    (album / "05_1.png").unlink()  # likewise, in folds 2 (same) and 1 (different)
    told = evaluate.verification(pairs=album / "pairs.csv", fmrs=[0.1], out=album / "s.csv", **FAST, **fakes.embed)
    scores, same, fold, judged = open_pairs(album / "s.csv")
    there = scores > -1
    assert told.pairs_without_face == int((~there).sum()) == 4
    assert (told.faceless, told.unreadable) == (1, 1)
    assert told.failure_to_acquire == pytest.approx(2 / 24)
    assert told.faceless_pictures == ("00_0.png",)
    assert [Path(failure.source).name for failure in told.failures] == ["05_1.png"]
    assert not judged[~there].any(), "a missing face is never the same"
    right = judged == same
    by_fold = [fold == k for k in range(3)]
    assert told.accuracy == pytest.approx(np.mean([right[f].mean() for f in by_fold]))
    assert told.accuracy_missing_wrong == pytest.approx(np.mean([(right & there)[f].mean() for f in by_fold]))
    assert told.accuracy_missing_wrong < told.accuracy < told.accuracy_missing_left_out
    # FMR and FNMR are of comparisons that took place.
    (point,) = told.at_fmr
    assert point.fnmr == pytest.approx((scores[same & there] < point.threshold).mean())


def test_folds_are_dealt_out_where_the_table_has_none(fakes: Any, album: Path) -> None:
    rows = [line.split(",")[1:4] for line in (album / "pairs.csv").read_text().split()[1:]]
    write(album / "plain.csv", "same,a,b", [",".join(row) for row in rows])
    told = evaluate.verification(pairs=album / "plain.csv", fmrs=[0.1], **FAST, **fakes.embed)
    assert told.folds_from == "rows"
    assert sorted(fold.pairs for fold in told.folds) == [2] * 8 + [4] * 2
    write(album / "few.csv", "same,a,b", ["1,00_0.png,00_1.png", *(f"0,00_0.png,{i:02d}_1.png" for i in range(12))])
    with pytest.raises(errors.TableError, match="one pair of a kind"):
        evaluate.verification(pairs=album / "few.csv", fmrs=[0.1], **FAST, **fakes.embed)


def test_figures_by_group_and_groups_that_are_too_small(fakes: Any, album: Path) -> None:
    told = evaluate.verification(
        pairs=album / "pairs.csv", groups=["age"], fmrs=[0.1], out=album / "s.csv", **FAST, **fakes.embed
    )
    _, same, _, judged = open_pairs(album / "s.csv")
    young = np.array([line.endswith("young") for line in (album / "pairs.csv").read_text().split()[1:]])
    by_name = {row.group: row for row in told.groups}
    assert {row.figure for row in told.groups} == {"accuracy"}
    for name, mine in (("young", young), ("old", ~young)):
        assert by_name[name].count == 12
        assert by_name[name].value == pytest.approx((judged == same)[mine].mean())
    (spread,) = told.spreads
    assert spread.difference == pytest.approx(abs(by_name["young"].value - by_name["old"].value))
    # Six or so pairs of a kind in each group are too few for FMR and FNMR, which is said.
    assert len(told.left_out) == 4
    assert any(name.startswith("age=old: ") and name.endswith(" rows of fmr") for name in told.left_out)
    with pytest.raises(errors.TableError, match="lacks the column gender"):
        evaluate.verification(pairs=album / "pairs.csv", groups="gender", **FAST, **fakes.embed)


def test_people_are_redrawn_where_the_table_names_them(fakes: Any, album: Path) -> None:
    rows = list(csv.reader((album / "pairs.csv").open()))[1:]
    named = [",".join([*row[:4], row[2][:2], row[3][:2]]) for row in rows]
    write(album / "named.csv", "fold,same,a,b,person_a,person_b", named)
    told = evaluate.verification(pairs=album / "named.csv", fmrs=[0.1], **FAST, **fakes.embed)
    plain = evaluate.verification(pairs=album / "pairs.csv", fmrs=[0.1], **FAST, **fakes.embed)
    assert (told.redrawn, plain.redrawn) == ("people", "comparisons")
    assert told.auc == plain.auc
    assert (told.auc_low, told.auc_high) != (plain.auc_low, plain.auc_high)


@pytest.mark.parametrize(
    "options", [{"repeats": 0}, {"fmrs": [2.0]}, {"pad": -1}, {"pad": 9}, {"choose": "nicest"}, {"size": 3}]
)
def test_options_without_sense(fakes: Any, album: Path, options: Any) -> None:
    with pytest.raises(errors.OptionError):
        evaluate.verification(pairs=album / "pairs.csv", **{**fakes.embed, **options})


def test_too_few_pairs_and_missing_tables(fakes: Any, album: Path) -> None:
    with pytest.raises(errors.TableError, match="too few pairs"):
        evaluate.verification(pairs=album / "pairs.csv", fmrs=[1e-3], **FAST, **fakes.embed)
    with pytest.raises(errors.MediaNotFound):
        evaluate.verification(pairs=album / "nowhere.csv", **fakes.embed)
    with pytest.raises(errors.TableError, match="none of the pictures"):
        evaluate.verification(pairs=album / "pairs.csv", images=album.parent, **fakes.embed)


# ------------------------------------------------------------------------------------------- the border


def test_a_border_changes_nothing_but_what_the_detector_sees(fakes: Any, tmp_path: Path) -> None:
    from mien.verbs._pipeline import Plan, run

    wide = fakes.picture((40, 50, 100, 1))
    tight = fakes.picture((0, 0, 110, 1), height=112, width=112)
    for name, image in (("wide", wide), ("tight", tight)):
        save(tmp_path / f"{name}.png", image)
        networks = {"detector": "fake-detector", "landmarks": "fake-landmarks", "embedder": "fake-embedder"}
        plans = [Plan(**networks, pad=pad) for pad in (0, 0.5, 1.3)]
        fakes.detector.calls.clear()
        bare, *padded = [run(str(tmp_path / f"{name}.png"), plan) for plan in plans]
        seen = [call[2:] for call in fakes.detector.calls if max(call[2:]) > 160]
        assert len(set(seen)) > 1, "the detector sees a larger picture"
        for faces in padded:
            assert (faces.images[0].width, faces.images[0].height) == (image.shape[1], image.shape[0])
            np.testing.assert_allclose(faces.boxes, bare.boxes, atol=2.5)
            np.testing.assert_allclose(faces.landmarks5, bare.landmarks5, atol=2.5)
            assert float(faces.embeddings[0] @ bare.embeddings[0]) > 0.98


def test_a_tight_crop_is_found_once_it_has_a_border(fakes: Any, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a detector that, like a trained one, knows no face that fills the whole picture."""
    see = fakes.detector.__class__.__call__

    def wants_surroundings(self: Any, images: Any) -> Any:
        raw = see(self, images)
        wide = raw[..., 3].exp() * 8 > 0.8 * min(images.shape[2:])
        raw[..., 0][wide] = -10
        return raw

    monkeypatch.setattr(fakes.detector.__class__, "__call__", wants_surroundings)
    for who in range(12):
        for turn in range(2):
            save(album / f"{who:02d}_{turn}.png", fakes.picture((0, 0, 112, who), height=112, width=112))
    with pytest.raises(errors.TableError, match="too few pairs"):
        evaluate.verification(pairs=album / "pairs.csv", fmrs=[0.1], **FAST, **fakes.embed)
    told = evaluate.verification(pairs=album / "pairs.csv", fmrs=[0.1], pad=0.5, **FAST, **fakes.embed)
    assert told.failure_to_acquire == 0


# ------------------------------------------------------------------------------------------- detection


@pytest.fixture
def scenes(tmp_path: Path, fakes: Any) -> Path:
    """Four pictures: two faces, one of them not boxed; one face and a box of nothing; no face; one face not boxed."""
    save(tmp_path / "pictures" / "two.png", fakes.picture((40, 50, 100, 1), (200, 120, 80, 2)))
    save(tmp_path / "pictures" / "below" / "one.png", fakes.picture((100, 60, 120, 3)))
    save(tmp_path / "pictures" / "none.png", fakes.picture())
    save(tmp_path / "pictures" / "stray.png", fakes.picture((10, 10, 60, 4)))
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    write(
        tmp_path / "boxes.csv", "file,xmin,ymin,xmax,ymax,label",
        ["two.png,40,50,140,150,plain", "below/one.png,100,60,220,180,masked", "./below/one.png,0,0,30,30,masked"],
    )  # fmt: skip
    return tmp_path


def test_detection_is_what_one_counts_by_hand(fakes: Any, scenes: Path) -> None:
    told = evaluate.detection(images=scenes / "pictures", boxes=scenes / "boxes.csv", weights="fake-detector", **FAST)
    assert (told.pictures, told.faces, told.detections) == (4, 3, 4)
    assert (told.recall, told.precision) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    # All scores are alike, so the curve has one point: the area under it is recall times precision.
    assert told.average_precision == pytest.approx(2 / 3 * 2 / 4)
    assert told.average_precision_low is not None
    assert told.average_precision_low <= told.average_precision <= (told.average_precision_high or 0)
    assert told.false_faces_per_picture == pytest.approx(2 / 4)
    assert (told.pictures_without_faces, told.false_faces_per_picture_without_faces) == (2, pytest.approx(1 / 2))
    assert {row.label: (row.faces, row.recall) for row in told.labels} == {"plain": (1, 1.0), "masked": (2, 0.5)}
    assert {row.false_faces_per_picture: row.recall for row in told.recall_at} == {
        0.01: 0, 0.1: 0, 1: pytest.approx(2 / 3),
    }  # fmt: skip
    # Nine rates from 0.01 to 1: the only point of the curve has half a false face per picture, below 10^-0.25 and 1.
    rates = np.geomspace(0.01, 1, 9)
    missed = np.where(rates >= 0.5, 1 / 3, 1.0)
    assert told.log_average_miss_rate == pytest.approx(np.exp(np.log(missed).mean()))
    assert told.central_found is None


def test_small_faces_need_not_be_found(fakes: Any, scenes: Path) -> None:
    told = evaluate.detection(
        images=scenes / "pictures", boxes=scenes / "boxes.csv", min_face=50, weights="fake-detector", **FAST
    )
    assert (told.faces, told.recall) == (2, 1.0), "the box of 30 px with nothing in it does not count"
    assert {row.label: row.faces for row in told.labels} == {"plain": 1, "masked": 1}


def test_a_folder_without_faces(fakes: Any, scenes: Path) -> None:
    told = evaluate.detection(images=scenes / "pictures", weights="fake-detector", **FAST)
    assert told.false_faces_per_picture == pytest.approx(4 / 4)
    assert told.pictures_without_faces == 4
    assert (told.average_precision, told.recall, told.faces) == (None, None, 0)
    assert told.false_faces_per_picture_low is not None
    assert told.false_faces_per_picture_low < 1 < (told.false_faces_per_picture_high or 0)


def test_chosen_pictures_and_groups(fakes: Any, tmp_path: Path) -> None:
    rows = []
    for i in range(24):  # in half of the second group the face lies beside the centre
        x = 200 if i % 4 == 3 else 110
        save(tmp_path / f"{i:02d}.png", fakes.picture((x, 70, 100, i)))
        rows.append(f"{i:02d}.png,{'ab'[i % 2]}")
    save(tmp_path / "other.png", fakes.picture())
    write(tmp_path / "list.csv", "file,kind", rows)
    told = evaluate.detection(
        images=tmp_path, pictures=tmp_path / "list.csv", one_central=True, groups=["kind"], weights="fake-detector",
        **FAST,
    )  # fmt: skip
    assert told.pictures == 24
    assert told.central_found == pytest.approx(18 / 24)
    assert set(told.central_missing) == {f"{i:02d}.png" for i in range(3, 24, 4)}
    assert told.false_faces_per_picture is None, "what else is in the pictures nobody has said"
    assert {row.group: row.value for row in told.groups} == {"a": 1.0, "b": 0.5}
    assert (told.spreads[0].lowest, told.spreads[0].difference) == ("b", 0.5)
    boxed = write(tmp_path / "b.csv", "file,xmin,ymin,xmax,ymax", ["00.png,110,70,210,170", "other.png,1,1,50,50"])
    with_boxes = evaluate.detection(
        images=tmp_path, boxes=boxed, pictures=tmp_path / "list.csv", weights="fake-detector", **FAST
    )
    assert (with_boxes.faces, with_boxes.recall) == (1, 1.0), "boxes of pictures that were not chosen are left out"


def test_unreadable_pictures_are_told_and_left_out(fakes: Any, scenes: Path) -> None:
    (scenes / "pictures" / "below" / "one.png").write_text("no picture")
    with (scenes / "boxes.csv").open("a") as table:
        table.write("gone.png,1,1,50,50,plain\n")
    told = evaluate.detection(images=scenes / "pictures", boxes=scenes / "boxes.csv", weights="fake-detector", **FAST)
    assert (told.pictures, told.faces, told.recall) == (3, 1, 1.0)
    assert sorted(Path(failure.source).name for failure in told.failures) == ["gone.png", "one.png"]


BAD_BOXES = {
    "corners": ("file,xmin,ymin,xmax,ymax\ntwo.png,140,50,40,150\n", "without area"),
    "columns": ("file,x,y,w,h\ntwo.png,1,2,3,4\n", "lacks the columns"),
    "number": ("file,xmin,ymin,xmax,ymax\ntwo.png,left,50,40,150\n", "xmin is not a number"),
    "elsewhere": ("file,xmin,ymin,xmax,ymax\nfar.png,1,2,30,40\n", "none of the pictures"),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_tables_of_boxes_that_cannot_be_used(fakes: Any, scenes: Path, kind: str) -> None:
    text, told = BAD_BOXES[kind]
    (scenes / "bad.csv").write_text(text)
    with pytest.raises(errors.TableError, match=told):
        evaluate.detection(images=scenes / "pictures", boxes=scenes / "bad.csv", weights="fake-detector")


def test_detection_options_without_sense(fakes: Any, scenes: Path) -> None:
    for options in ({"iou": 0}, {"lowest": 0}, {"threshold": 2}, {"groups": ["kind"]}):
        with pytest.raises(errors.OptionError):
            evaluate.detection(images=scenes / "pictures", weights="fake-detector", **options)
    with pytest.raises(errors.MediaNotFound):
        evaluate.detection(images=scenes / "nowhere", weights="fake-detector")


# ------------------------------------------------------------------------------------------- landmarks


def points_table(
    path: Path, rows: list[tuple[str, NDArray[Any]]], more: str = "", cells: list[str] | None = None
) -> Path:
    header = "file" + more + "".join(f",x{i},y{i}" for i in range(68))
    lines = []
    for number, (name, points) in enumerate(rows):
        extra = f",{cells[number]}" if cells else ""
        lines.append(f"{name}{extra}," + ",".join(f"{v:.4f}" for v in points.ravel()))
    return write(path, header, lines)


@pytest.fixture
def portraits(tmp_path: Path, fakes: Any) -> tuple[Path, list[tuple[str, NDArray[Any]]]]:
    """Six pictures of one face and one of two, with the points that are found there, 3 px further to the right."""
    rows = []
    for i in range(6):
        save(tmp_path / f"{i}.png", fakes.picture((40 + 10 * i, 50, 100 + 5 * i, i)))
    save(tmp_path / "two.png", fakes.picture((20, 30, 110, 8), (180, 90, 120, 9)))
    files = [*(tmp_path / f"{i}.png" for i in range(6)), tmp_path / "two.png"]
    faces = analyze(files, size=FAST["size"], **fakes.analyze)
    for row in range(len(faces)):
        name = Path(faces.images[faces.image[row]].source).name
        rows.append((name, faces.landmarks[row, :68] + np.array([3.0, 0.0])))
    return tmp_path, rows


def test_landmarks_are_what_one_counts_by_hand(fakes: Any, portraits: Any) -> None:
    folder, rows = portraits
    eyes = np.array([np.linalg.norm(points[45] - points[36]) for _, points in rows])
    table = points_table(folder / "points.csv", rows)
    told = evaluate.landmarks(points=table, weights="fake-landmarks", detector="fake-detector", **FAST)
    assert (told.faces, told.missed, told.redrawn) == (8, 0, "faces")
    assert told.nme == pytest.approx((3 / eyes).mean(), rel=1e-3)
    assert told.nme_low <= told.nme <= told.nme_high
    assert told.nme_median == pytest.approx(np.median(3 / eyes), rel=1e-3)
    assert told.auc == pytest.approx(np.mean(np.maximum(0, 1 - 3 / eyes / 0.08)), abs=1e-3)
    assert told.failure_rate == pytest.approx(np.mean(3 / eyes > 0.08))
    assert [part.part for part in told.parts] == ["jaw", "brows", "eyes", "nose", "mouth"]
    assert sum(part.points for part in told.parts) == 68


def test_faces_are_as_large_as_asked(fakes: Any, portraits: Any) -> None:
    folder, rows = portraits
    table = points_table(folder / "points.csv", rows)
    networks = {"weights": "fake-landmarks", "detector": "fake-detector"}
    sides = np.array([np.sqrt(np.ptp(points, axis=0).prod()) for _, points in rows])
    told = evaluate.landmarks(points=table, limit=0.07, normaliser="box", **networks, **FAST)
    assert told.normaliser == "box"
    assert told.nme == pytest.approx((3 / sides).mean(), rel=1e-3)
    assert told.auc == pytest.approx(np.mean(np.maximum(0, 1 - 3 / sides / 0.07)), abs=1e-3)
    assert told.parts[0].nme == pytest.approx(told.nme, rel=1e-3)
    with pytest.raises(errors.OptionError, match="normaliser"):
        evaluate.landmarks(points=table, normaliser="jaw", **networks, **FAST)


def test_an_error_in_one_part_is_told_there(fakes: Any, portraits: Any) -> None:
    folder, rows = portraits
    mouth = [*IBUG68["outer_lips"], *IBUG68["inner_lips"]]
    for _, points in rows:
        points -= [3, 0]
        points[mouth] += [0, 4]
    eyes = np.array([np.linalg.norm(points[45] - points[36]) for _, points in rows])
    told = evaluate.landmarks(
        points=points_table(folder / "points.csv", rows), weights="fake-landmarks", detector="fake-detector", **FAST
    )
    errors_by_part = {part.part: part.nme for part in told.parts}
    assert errors_by_part.pop("mouth") == pytest.approx((4 / eyes).mean(), rel=1e-3)
    assert max(errors_by_part.values()) < 1e-3
    assert told.nme == pytest.approx((4 / eyes).mean() * 20 / 68, rel=1e-3)


def test_faces_that_are_not_found_are_failures(fakes: Any, portraits: Any) -> None:
    folder, rows = portraits
    save(folder / "0.png", fakes.picture())
    (folder / "1.png").unlink()
    told = evaluate.landmarks(
        points=points_table(folder / "points.csv", rows), limit=1.0, weights="fake-landmarks",
        detector="fake-detector", **FAST,
    )  # fmt: skip
    assert (told.faces, told.missed) == (7, 1), "of seven in readable pictures"
    assert told.failure_rate == pytest.approx(1 / 7)
    eyes = np.array([np.linalg.norm(points[45] - points[36]) for _, points in rows[2:]])
    assert told.auc == pytest.approx((1 - 3 / eyes).sum() / 7, abs=1e-3)
    assert [Path(failure.source).name for failure in told.failures] == ["1.png"]
    nobody = [(name, points + 1000) for name, points in rows]
    with pytest.raises(errors.NoFaceFound) as caught:
        evaluate.landmarks(
            points=points_table(folder / "far.csv", nobody), weights="fake-landmarks", detector="fake-detector", **FAST
        )
    assert "pad=0.5" in (caught.value.hint or "")


def test_landmark_intervals_redraw_people(fakes: Any, portraits: Any) -> None:
    folder, rows = portraits
    table = points_table(folder / "p.csv", rows, ",identity", ["anna"] * 4 + ["ben"] * 4)
    told = evaluate.landmarks(points=table, weights="fake-landmarks", detector="fake-detector", **FAST)
    assert told.redrawn == "people"
    short = write(folder / "short.csv", "file,x0,y0", ["0.png,1,2"])
    with pytest.raises(errors.TableError, match="x1"):
        evaluate.landmarks(points=short, weights="fake-landmarks", detector="fake-detector")


# ------------------------------------------------------------------------------------------- quality


def test_quality_curves_are_what_one_counts_by_hand(fakes: Any, album: Path) -> None:
    # A quality that foretells everything: the pair that is genuine by the table alone has the darkest picture.
    canvas = np.full((140, 180, 3), (20, 120, 60), np.uint8)
    save(album / "07_0.png", fakes.paint(canvas, 20, 20, 80, person=7, shift=-190))
    told = evaluate.quality(pairs=album / "pairs.csv", fmr=0.1, method="components", size=180, **fakes.embed)
    assert (told.same, told.different, told.pairs_without_face) == (12, 12, 0)
    assert told.components[0].component == "UnifiedQualityScore"
    by_name = {row.component: row for row in told.components}
    assert {"Sharpness", "InterEyeDistance", "UnderExposurePrevention", "HeadPoseYaw"} <= set(by_name)

    faces = analyze(sorted(album.glob("*.png")), size=180, quality="components", **fakes.analyze)
    row_of = {Path(faces.images[faces.image[r]].source).name: r for r in range(len(faces))}
    listed = read_pairs(album / "pairs.csv")
    a, b = ([row_of[listed.names[i]] for i in side] for side in (listed.a, listed.b))
    scores = (faces.embeddings[a] * faces.embeddings[b]).sum(1)
    missed = scores[listed.same] < told.threshold
    assert (scores[~listed.same] >= told.threshold).mean() <= 0.1
    for name in ("UnderExposurePrevention", "Sharpness"):
        value = faces.quality_components[name]
        worse = np.minimum(value[a], value[b])[listed.same]
        for share, got in zip(told.discarded, by_name[name].curve, strict=True):
            # As many of the poorest as the share allows go, all of one quality together.
            levels = [q for q in np.unique(worse) if (worse < q).mean() <= share + 1e-9]
            assert got == pytest.approx(missed[worse >= max(levels)].mean()), (name, share)
    exposed = by_name["UnderExposurePrevention"]
    assert exposed.fnmr == pytest.approx(missed.mean())
    assert exposed.gain is not None
    assert exposed.fnmr_20 < exposed.fnmr, "both genuine pairs of the dark picture are gone"


def test_without_errors_there_is_no_gain(fakes: Any, album: Path) -> None:
    rows = [
        line for line in (album / "pairs.csv").read_text().split() if not line.split(",")[2].startswith(("04", "07"))
    ]
    write(album / "clean.csv", rows[0], rows[1:])
    told = evaluate.quality(pairs=album / "clean.csv", fmr=0.2, method="components", size=180, **fakes.embed)
    assert all(row.gain is None and row.fnmr == 0 for row in told.components)
    assert json.loads(told.to_json())["components"][0]["gain"] is None
    with pytest.raises(errors.TableError, match="too few pairs"):
        evaluate.quality(pairs=album / "clean.csv", fmr=1e-3, method="components", **fakes.embed)


# ------------------------------------------------------------------------------------------- what machines read

KEYS = {
    "verification": """measured_on date failures contract same different pictures faceless unreadable
        failure_to_acquire pairs_without_face accuracy standard_error accuracy_missing_wrong
        accuracy_missing_left_out auc auc_low auc_high eer eer_low eer_high at_fmr redrawn folds folds_from
        faceless_pictures groups spreads left_out folded probability_error cllr people_in_several_folds templates
        report""",
    "detection": """measured_on date failures weights threshold pictures faces detections iou average_precision
        average_precision_low average_precision_high recall recall_low recall_high precision precision_low
        precision_high false_faces_per_picture false_faces_per_picture_low false_faces_per_picture_high
        pictures_without_faces false_faces_per_picture_without_faces log_average_miss_rate recall_at labels
        central_found central_found_low central_found_high central_missing groups spreads left_out""",
    "landmarks": """measured_on date failures weights faces missed nme nme_low nme_high nme_median limit auc
        failure_rate parts normaliser redrawn groups spreads left_out""",
    "quality": """measured_on date failures contract quality same different pairs_without_face fmr threshold
        components discarded""",
}
"""A promise: whoever reads the JSON may rely on these. Adding is free; removing is a change of the public face."""


@pytest.mark.parametrize("kind", KEYS)
def test_the_command_prints_json_with_stable_keys(
    fakes: Any, album: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.cli import build

    faces = analyze(album / "00_0.png", **fakes.analyze)
    points_table(album / "points.csv", [("00_0.png", faces.landmarks[0, :68])])
    write(album / "boxes.csv", "file,xmin,ymin,xmax,ymax", ["00_0.png,20,20,100,100"])
    networks = ["--detector=fake-detector", "--landmarks=fake-landmarks", "--weights=fake-embedder", "--size=180"]
    points = [f"--points={album / 'points.csv'}", "--detector=fake-detector", "--weights=fake-landmarks"]
    boxes = [f"--boxes={album / 'boxes.csv'}", "--weights=fake-detector", "--size=180"]
    pairs = [f"--pairs={album / 'pairs.csv'}", f"--images={album}"]
    given = {
        "verification": [*pairs, "--fmrs=0.1", "--groups=age", "--repeats=20", *networks],
        "detection": [*boxes, f"--images={album}", "--repeats=20"],
        "landmarks": [*points, "--repeats=20"],
        "quality": [*pairs, "--fmr=0.1", "--method=components", *networks],
    }  # fmt: skip
    build()(["evaluate", kind, *given[kind], "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert set(told) == set(KEYS[kind].split())
    assert told["failures"] == []
    build()(["evaluate", kind, *given[kind]], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "measured on" in shown
    assert "╰" not in shown, "an error panel"


def test_figures_without_a_value_are_null_in_json() -> None:
    from mien.verbs.evaluate import GroupSpread, LandmarkEvaluation

    spread = GroupSpread("age", "fmr", "old", "young", 0.1, 0.0, 0.2, float("inf"), 1.0, float("nan"))
    told = LandmarkEvaluation(
        measured_on="x", date="2026-01-31", weights="w", faces=1, missed=0, nme=0.1, nme_low=0.1, nme_high=0.1,
        nme_median=0.1, limit=0.08, auc=0.0, failure_rate=1.0, parts=(), redrawn="faces", spreads=(spread,),
    )  # fmt: skip
    plain = json.loads(told.to_json())["spreads"][0]
    assert (plain["ratio"], plain["ratio_low"], plain["ratio_high"]) == (None, 1.0, None)


# ------------------------------------------------------------------------------------------- the real tables


@pytest.mark.data
def test_tables_of_the_real_sets_are_read_as_they_are() -> None:
    from mien.data.sets import find_set

    try:
        roots = {name: find_set(name) for name in ("lfw", "cfp", "detection", "landmarks68")}
    except errors.MediaNotFound as error:
        pytest.skip(str(error))
    lfw = read_pairs(roots["lfw"] / "pairs.csv", roots["lfw"] / "images")
    assert (len(lfw), int(lfw.same.sum())) == (3000, 1500)
    assert lfw.fold is not None
    assert len(np.unique(lfw.fold)) == 5
    cfp = read_pairs(roots["cfp"] / "pairs_FF.csv", roots["cfp"] / "images")
    assert len(cfp) == 3500
    for pairs in (lfw, cfp):
        assert all(file.is_file() for file in pairs.files)
    boxes = read_table(roots["detection"] / "boxes.csv", ("file", "xmin", "ymin", "xmax", "ymax", "label"))
    assert len(boxes) == 1337
    columns = [f"{axis}{i}" for i in range(68) for axis in "xy"]
    assert len(read_table(roots["landmarks68"] / "images.csv", ("file", *columns))) == 3457


def test_what_detect_writes_can_be_evaluated_against(fakes: Any, scenes: Path) -> None:
    """`mien detect --csv` and `mien evaluate detection --boxes` speak the same columns."""
    detect(scenes / "pictures", recursive=True, weights="fake-detector", csv=str(scenes / "found.csv"))
    rows = list(csv.DictReader((scenes / "found.csv").open()))
    for row in rows:
        row["file"] = str(Path(row["file"]).relative_to(scenes / "pictures"))
    with (scenes / "found.csv").open("w") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    told = evaluate.detection(images=scenes / "pictures", boxes=scenes / "found.csv", weights="fake-detector", **FAST)
    assert (told.recall, told.precision, told.average_precision) == (1.0, 1.0, 1.0)
