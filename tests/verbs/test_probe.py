"""``mien probe``: from tables of labels to probes, figures, curves and retrieval."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import mien
from mien.cli import FAILED, OK, PARTLY, build
from mien.errors import CheckpointError, HashMismatch, OptionError, TableError

NARROW = "mien.papers.cnn_off_the_shelf:overfeat_small?size=71&width=0.0625&hidden=16"
SMALL: dict[str, Any] = {"network": NARROW, "random": True, "device": "cpu"}
"""Features of random numbers tell colours well enough."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def painted(folder: Path, count: int = 48, seed: int = 0) -> list[dict[str, Any]]:
    """Pictures that are red or not, dark or not, and one of three shades of blue; some of a person each."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        red, dark, shade = int(rng.random() < 0.5), int(rng.random() < 0.5), int(rng.integers(3))
        picture = rng.integers(60, 100, (40, 50, 3)) + np.array([20 + 60 * shade, 0, 110 * red])
        cv2.imwrite(str(folder / f"{number:02d}.png"), (picture // (2 if dark else 1)).clip(0, 255))
        rows.append(
            {"file": f"{number:02d}.png", "red": red, "dark": "yes" if dark else "no", "person": f"p{number // 2}",
             "shade": ["pale", "mid", "deep"][shade]}
        )  # fmt: skip
    return rows


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    return tmp_path / "photos", painted(tmp_path / "photos")


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def test_attributes_are_learnt_saved_and_told_of_new_pictures(
    photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, rows = photos
    table = write(tmp_path / "labels.csv", without(rows, "shade"))
    told: list[str] = []
    found = mien.probe.fit(
        str(folder), labels=str(table), crop="photo", out=str(tmp_path / "probe.safetensors"), layer="relu1", folds=3,
        progress=lambda done, total, what: told.append(what), **SMALL,
    )  # fmt: skip
    assert found.metric == "mean average precision"
    assert [row.label for row in found.labels] == ["red", "dark"]
    assert found.value == pytest.approx(np.mean([row.figure for row in found.labels]))
    assert found.value > found.chance + 0.2
    assert found.trained + found.tested == 48
    assert set(told) == {"pictures", "features"}
    assert json.loads(found.to_json())["labels"][0]["label"] == "red"
    new = painted(tmp_path / "new", 20, seed=5)
    scored = mien.probe.apply(
        str(tmp_path / "new"), probe=str(tmp_path / "probe.safetensors"), device="cpu", out=str(tmp_path / "scores.csv")
    )
    assert len(scored.pictures) == 20
    by_name = {Path(one.file).name: one.scores for one in scored.pictures}
    scores = np.array([by_name[row["file"]]["red"] for row in new])
    truth = np.array([bool(row["red"]) for row in new])
    assert scores[truth].mean() > scores[~truth].mean()
    with (tmp_path / "scores.csv").open() as file:
        written = list(csv.DictReader(file))
    assert float(written[0]["dark"]) == pytest.approx(scored.pictures[0].scores["dark"], abs=1e-4)
    with pytest.raises(HashMismatch):
        mien.probe.apply(str(tmp_path / "new"), probe=str(tmp_path / "probe.safetensors"), device="cpu", seed=3)
    with pytest.raises(CheckpointError):
        mien.probe.apply(str(tmp_path / "new"), probe=str(table))


def test_classes_are_voted_for(photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, rows = photos
    split = [{**row, "split": "test" if number % 3 == 0 else "train"} for number, row in enumerate(rows)]
    table = write(tmp_path / "labels.csv", split)
    out = tmp_path / "probe.safetensors"
    found = mien.probe.fit(
        str(folder), labels=str(table), columns=["shade"], jitter="gentle", c=[1.0], layer="relu1", out=str(out),
        crop="photo", **SMALL,
    )  # fmt: skip
    assert found.metric == "mean class accuracy"
    assert (found.trained, found.tested, found.representations) == (32, 16, 10)
    assert found.chance == pytest.approx(1 / 3)
    assert found.tried == {}
    scored = mien.probe.apply(str(folder / "00.png"), probe=str(out), device="cpu")
    assert scored.rule == "one-against-one"
    assert scored.pictures[0].best in ("pale", "mid", "deep")
    assert scored.pictures[0].best == max(scored.pictures[0].scores, key=scored.pictures[0].scores.__getitem__)


def test_people_are_not_split(photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    from mien.verbs.probe._table import read

    folder, rows = photos
    table = write(tmp_path / "labels.csv", rows)
    found = read(str(folder), str(table), ["red"], "auto", 0.3, 0)
    assert found.people is not None
    assert not set(found.people[found.test]) & set(found.people[~found.test])
    assert not np.array_equal(found.test, read(str(folder), str(table), ["red"], "auto", 0.3, 1).test)


def test_a_box_is_looked_into(tmp_path: Path) -> None:
    from mien.verbs.probe._pictures import _squashed

    picture: NDArray[np.uint8] = np.zeros((40, 60, 3), np.uint8)
    picture[10:20, 30:50] = 200
    box = np.array([30, 10, 50, 20], np.float32)
    assert (_squashed(picture, box, 1.0, 8) == 200).all()
    wide = _squashed(picture, box, 2.0, 8)
    assert (wide[2:6, 2:6] == 200).all()
    assert (wide[0] == 0).all()
    with pytest.raises(TableError, match="outside"):
        _squashed(picture, np.array([70, 0, 80, 10], np.float32), 1.0, 8)


def test_faces_are_found_where_the_network_wants_faces(fakes: Any, tmp_path: Path) -> None:
    """The bundled embedder looks at aligned faces; painted ones stand for them here."""
    from mien.papers.cnn_off_the_shelf import backbone, recipe_of
    from mien.verbs.probe import _pictures

    source = backbone("mien-embedder")
    assert _pictures.crop_of("auto", source, False) == "face"
    import mien.verbs.probe._pictures as module
    from mien.verbs._pipeline import Plan as plan

    def faked(**options: Any) -> Any:
        return plan(**{**options, "detector": "fake-detector", "landmarks": "fake-landmarks"})

    folder = tmp_path / "faces"
    folder.mkdir()
    for number, faces in enumerate([((40, 40, 96, 1),), (), ((20, 30, 60, 2), (150, 60, 120, 3))]):
        cv2.imwrite(str(folder / f"{number}.png"), fakes.picture(*faces)[..., ::-1])
    (folder / "9.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    files = [str(folder / f"{name}.png") for name in (0, 1, 2, 9, 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Plan", faked)
        seen = module.pictures(files, recipe_of(source, crop="face"), source, None, "largest", "cpu", 8, None)
    assert seen.rows.tolist() == [0, 2, 4]
    assert seen.crops.shape == (3, 112, 112, 3)
    assert seen.faceless == 1
    assert sorted(Path(one.source).name for one in seen.failures) == ["1.png", "9.png"]
    np.testing.assert_array_equal(seen.crops[0], seen.crops[2])


def test_pictures_that_cannot_be_read_are_told_and_left_out(
    photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, rows = photos
    (folder / "03.png").write_bytes(b"nothing")
    table = write(tmp_path / "labels.csv", without(rows, "shade"))
    found = mien.probe.fit(str(folder), labels=str(table), crop="photo", c=[1.0], **SMALL)
    assert [Path(one.source).name for one in found.failures] == ["03.png"]
    assert found.trained + found.tested == 47


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"red": "maybe"}, {"columns": ["red"], "task": "attributes"}, "more than yes and no"),
        ({}, {"columns": ["red", "shade"]}, "one column"),
        ({}, {"columns": ["green"]}, "lacks the column green"),
        ({"split": "later"}, {"columns": ["red"]}, "train or test"),
        ({"split": "train"}, {"columns": ["red"]}, "train on and others to judge"),
        ({"shade": ""}, {"columns": ["shade"], "task": "classes"}, "no class"),
    ],
)
def test_tables_are_read_strictly(
    photos: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    change: dict[str, str],
    options: dict[str, Any],
    message: str,
) -> None:
    folder, rows = photos
    table = write(tmp_path / "labels.csv", [{**row, **change} for row in rows])
    with pytest.raises(TableError, match=message):
        mien.probe.fit(str(folder), labels=str(table), crop="photo", **options, **SMALL)


def test_unknown_labels_have_no_say(photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, rows = photos
    some = [
        {**row, "dark": "" if number % 4 == 0 else row["dark"]} for number, row in enumerate(without(rows, "shade"))
    ]
    table = write(tmp_path / "labels.csv", some)
    found = mien.probe.fit(str(folder), labels=str(table), crop="photo", c=[1.0], **SMALL)
    dark = next(row for row in found.labels if row.label == "dark")
    assert dark.trained + dark.tested == sum(row["dark"] == "yes" for row in some)
    with pytest.raises(TableError, match="every label"):
        mien.probe.curve(str(folder), labels=str(table), crop="photo", **SMALL)


def test_options_that_cannot_be_are_told(photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, rows = photos
    table = str(write(tmp_path / "labels.csv", rows))
    with pytest.raises(OptionError, match="safetensors"):
        mien.probe.fit(str(folder), labels=table, out="probe.npz")
    with pytest.raises(OptionError, match="no boxes"):
        mien.probe.fit(str(folder), labels=table, columns=["red"], crop="box", **SMALL)
    with pytest.raises(OptionError, match="no such layer"):
        mien.probe.fit(str(folder), labels=table, columns=["red"], layer="conv9", **SMALL)
    with pytest.raises(OptionError, match="share"):
        mien.probe.fit(str(folder), labels=table, held=1.5, **SMALL)


def test_layers_are_listed() -> None:
    rows = mien.probe.layers(network="mien.nn.embedder:embedder_small")
    assert rows[-1].name == "output"
    assert rows[-1].shape == "128"
    assert rows[0].shape == "32 x 28 x 28"
    assert {row.name for row in mien.probe.layers()} >= {"trunk.0", "expand", "project"}


def test_the_curve_is_drawn(photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder, rows = photos
    table = write(tmp_path / "labels.csv", without(rows, "shade"))
    found = mien.probe.curve(
        str(folder), labels=str(table), only=["conv1", "fc1", "output"], c=[1.0], crop="photo",
        out=str(tmp_path / "curve.svg"), **SMALL,
    )  # fmt: skip
    assert [row["layer"] for row in found.layers] == ["conv1", "fc1", "output"]
    assert all(0 < row["red"] <= 1 for row in found.layers)
    assert "</svg>" in (tmp_path / "curve.svg").read_text()
    with pytest.raises(OptionError, match="svg"):
        mien.probe.curve(str(folder), labels=str(table), out="curve.pdf", **SMALL)


@pytest.mark.parametrize("search", ["none", "spatial", "jitter"])
def test_pictures_of_the_same_are_found(tmp_path: Path, search: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(16):
        colour = np.random.default_rng(number // 4).integers(0, 256, 3)
        cv2.imwrite(str(tmp_path / f"{number}.png"), (colour + rng.integers(-20, 20, (30, 30, 3))).clip(0, 255))
        rows.append({"file": f"{number}.png", "label": number // 4, "query": int(number % 4 == 0)})
    alone = write(tmp_path / "all.csv", without(rows, "query"))
    found = mien.probe.retrieve(
        str(tmp_path), labels=str(alone), search=search, dim=0, crop="photo", layer="relu1", **SMALL
    )
    assert (found.queries, found.references) == (16, 16)
    assert found.mean_average_precision > 0.6
    assert found.recall_at_4 > 0.6
    asked = mien.probe.retrieve(
        str(tmp_path), labels=str(write(tmp_path / "some.csv", rows)), search=search, dim=4, crop="photo",
        layer="relu1", query_levels=2, reference_levels=2, **SMALL,
    )  # fmt: skip
    assert (asked.queries, asked.references) == (4, 12)
    assert 0 < asked.mean_average_precision <= 1


def test_a_query_without_a_second_picture_is_an_error(tmp_path: Path) -> None:
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((20, 20, 3), np.uint8))
    table = write(tmp_path / "all.csv", [{"file": f"{n}.png", "label": x} for n, x in zip("abc", "xxy", strict=True)])
    with pytest.raises(TableError, match="no relevant"):
        mien.probe.retrieve(str(tmp_path), labels=str(table), search="none", dim=0, crop="photo", **SMALL)


def test_the_commands(photos: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    folder, rows = photos
    table = write(tmp_path / "labels.csv", without(rows, "shade"))
    runner = CliRunner()
    common = ["--network", NARROW, "--random", "--device", "cpu", "--crop", "photo"]
    done = runner.invoke(
        build(), ["probe", "fit", str(folder), "--labels", str(table), *common, "--c", "0.2,2", "--folds", "3",
                  "--out", str(tmp_path / "p.safetensors"), "--json"],
    )  # fmt: skip
    assert done.exit_code == OK, done.output
    assert json.loads(done.stdout)["tried"].keys() == {"0.2", "2"}
    (folder / "bad.png").write_bytes(b"nothing")
    done = runner.invoke(build(), ["probe", "apply", str(folder), "--probe", str(tmp_path / "p.safetensors"), "--json"])
    assert done.exit_code == PARTLY, done.output
    assert len(json.loads(done.stdout)["pictures"]) == 48
    done = runner.invoke(build(), ["probe", "layers", "--network", "mien.nn.embedder:embedder_small"])
    assert done.exit_code == OK
    assert "trunk.0" in done.stdout
    done = runner.invoke(build(), ["probe", "fit", str(folder), "--labels", "absent.csv"])
    assert done.exit_code == FAILED
