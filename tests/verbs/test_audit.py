"""``audit explain``: pictures in, figures with their controls, maps and a page out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import picture
from typer.testing import CliRunner

import mien
from mien import media
from mien.errors import OptionError, TableError
from mien.papers.fer_xai import EKMAN, ExpressionModel, ekman_masks
from mien.verbs.audit import explain
from mien.verbs.audit._explain import read_masks
from mien.verbs.audit._faces import model_of

pytest.importorskip("skimage", reason="the extra audit is not installed")

FEW = {"samples": 24, "segments": 9, "most": 2, "device": "cpu"}
FAKES = {"detector": "fake-detector", "landmarks": "fake-landmarks"}


def looks_at(top: float, bottom: float, *, name: str, size: int = 48, **more: Any) -> ExpressionModel:
    """A model of which anger is the brightness of a band of the crop, fear the rest, and others are never."""

    def predict(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        height = pictures.shape[1]
        band = pictures[:, int(top * height) : int(bottom * height)].mean((1, 2, 3)) / 255
        return np.stack([0.2 + 0.8 * band, 0.5 - 0.5 * band], 1)

    return ExpressionModel(name=name, predict=predict, classes=("angry", "fear"), size=size, **more)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Painted faces in two folders, and a picture without any."""
    for folder, people in (("angry", (1, 2, 3)), ("fear", (4,)), ("other", (5,))):
        (tmp_path / "faces" / folder).mkdir(parents=True)
        for person in people:
            Image.fromarray(picture((60, 40, 120, person))).save(tmp_path / "faces" / folder / f"p{person}.png")
    Image.fromarray(picture()).save(tmp_path / "faces" / "empty.png")
    return tmp_path / "faces"


@pytest.mark.usefixtures("fakes")
def test_figures_maps_trees_and_a_page(faces: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra evaluate is not installed")
    models = [
        looks_at(0, 0.4, name="top"),
        looks_at(0.6, 1, name="bottom"),
        looks_at(0, 0.45, name="also top", size=40),
    ]
    told: list[str] = []
    found = explain(
        str(faces), models=models, out=str(tmp_path / "out"), report=str(tmp_path / "audit.html"),
        progress=lambda done, total, what: told.append(what), **FEW, **FAKES,
    )  # fmt: skip
    assert (found.pictures, found.faceless) == (5, 1)
    assert [failure.source for failure in found.failures] == [str(faces / "empty.png")]
    assert [(row.name, row.labelled) for row in found.models] == [("top", 4), ("bottom", 4), ("also top", 4)]
    assert all(row.accuracy == 0.75 for row in found.models)  # all are called angry; three of four are
    assert {(row.model, row.expression, row.pictures) for row in found.maps} == {(m.name, "anger", 2) for m in models}
    for row in found.maps:
        assert 0 <= row.iou <= 1
        assert row.wrong_iou >= 0
        assert 1 <= row.rank <= 6
        assert 0 < row.shift_p <= 1
    pairs = {(one.first, one.second): one.correlation for one in found.agreement}
    assert pairs["top", "also top"] > pairs["top", "bottom"]
    tree = found.trees["anger"]
    assert tree["models"] == ["top", "bottom", "also top"]
    assert {int(number) for number in tree["linkage"][0][:2]} == {0, 2}
    assert found.lime["hide"] == "black"
    assert json.loads(found.to_json())["maps"][0]["model"] == "top"
    heat = np.load(tmp_path / "out" / "maps.npz")["top/anger"]
    assert heat.shape == (275, 224)
    assert heat[:120].mean() > heat[200:].mean()
    stored = media.load_image(tmp_path / "out" / "also_top" / "anger-map.png")
    assert stored.shape == (275, 224, 3)
    assert media.load_image(tmp_path / "out" / "top" / "anger.png").shape == (275, 224, 3)
    page = (tmp_path / "audit.html").read_text("utf-8")
    for wanted in ("Where each model looks", "Which models look alike", "wrong masks", "also top", "data:image/png"):
        assert wanted in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {"pictures", "maps of top"} <= set(told)


@pytest.mark.usefixtures("fakes")
def test_folds_share_a_map(faces: Path) -> None:
    models = [looks_at(0, 0.4, name="net-cv1"), looks_at(0, 0.4, name="net-cv2")]
    joined = explain(str(faces), models=models, join="-cv", **FEW, **FAKES)
    assert [(row.name, row.folds, row.labelled) for row in joined.models] == [("net", 2, 8)]
    assert [row.pictures for row in joined.maps] == [4]
    assert not joined.agreement


@pytest.mark.usefixtures("fakes")
def test_a_function_is_a_model_and_a_table_tells_what_is_shown(faces: Path, tmp_path: Path) -> None:
    def always(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        assert pictures.shape[1:] == (112, 112, 3)
        return np.eye(6)[np.full(len(pictures), EKMAN.index("surprise"))]

    table = tmp_path / "labels.csv"
    table.write_text("file,expression\nangry/p1.png,Surprised\nangry/p2.png,anger\n")
    found = explain(str(faces), models=always, labels=str(table), **FEW, **FAKES)
    assert [(row.name, row.accuracy, row.labelled) for row in found.models] == [("always", 0.5, 2)]
    assert [(row.expression, row.coverage) for row in found.maps] == [("surprise", 0.0)]  # it depends on nothing
    table.write_text("picture,what\na,b\n")
    with pytest.raises(TableError, match="columns"):
        explain(str(faces), models=always, labels=str(table), **FEW, **FAKES)


@pytest.mark.usefixtures("fakes")
def test_whole_pictures_can_be_what_a_model_sees(faces: Path) -> None:
    seen: list[NDArray[np.uint8]] = []

    def predict(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(pictures)
        return np.eye(6)[np.zeros(len(pictures), int)]

    model = ExpressionModel(name="whole", predict=predict, size=60)
    explain(str(faces / "angry"), models=[model], crop="photo", **FEW, **FAKES)
    green = (20, 120, 60)
    assert np.abs(seen[0][0, 2, 2].astype(int) - green).max() < 3
    explain(str(faces / "angry"), models=[model], **FEW, **FAKES)
    assert np.abs(seen[-1][0, 30, 30].astype(int) - green).max() > 3


def test_masks_are_read_from_files(tmp_path: Path) -> None:
    for name, mask in ekman_masks().items():
        Image.fromarray(np.uint8(mask) * 255).save(tmp_path / f"{name}.png")
    found = read_masks(str(tmp_path))
    assert all(np.array_equal(found[name], mask) for name, mask in ekman_masks().items())
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "anger.png")
    with pytest.raises(OptionError, match="another size"):
        read_masks(str(tmp_path))
    (tmp_path / "anger.png").unlink()
    with pytest.raises(OptionError, match="missing"):
        read_masks(str(tmp_path))


@pytest.mark.usefixtures("fakes")
def test_what_cannot_be_explained_is_refused(faces: Path, tmp_path: Path) -> None:
    model = looks_at(0, 0.5, name="x")
    for wrong in ({"crop": "nose"}, {"hide": "pink"}, {"most": 0}, {"report": "audit.txt"}, {"samples": 1}):
        with pytest.raises(OptionError):
            explain(str(faces), models=[model], **{**FEW, **FAKES, **wrong})
    with pytest.raises(OptionError, match="name of its own"):
        explain(str(faces), models=[model, model], **FEW, **FAKES)
    with pytest.raises(OptionError, match="another task"):
        explain(str(faces), models=["mien-embedder"], **FEW, **FAKES)
    with pytest.raises(OptionError, match="not a model"):
        model_of(3, "cpu")
    (tmp_path / "bare").mkdir()
    Image.fromarray(picture()).save(tmp_path / "bare" / "empty.png")
    with pytest.raises(OptionError, match="no picture shows a face"):
        explain(str(tmp_path / "bare"), models=[model], **FEW, **FAKES)


@pytest.mark.usefixtures("fakes")
def test_imported_weights_are_explained_from_the_command_line(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from mien.cli import build
    from mien.nn.expression import songnet
    from mien.train.checkpoint import save_weights

    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    save_weights(tmp_path / "weights.safetensors", songnet(size=32, width=0.25))
    about = {"recipe": "ExpressionRecipe", "network": "songnet", "width": 0.25, "side": 32}
    (tmp_path / "config.json").write_text(json.dumps(about))
    run = CliRunner().invoke
    done = run(build(), ["weights", "import", "fer_xai", str(tmp_path / "weights.safetensors"), "--name", "my-songnet"])
    assert done.exit_code == 0, done.output
    read = mien.weights.info("my-songnet")
    assert read.task == "reading"
    options = [word for key, value in {**FEW, **FAKES}.items() for word in (f"--{key}", str(value))]
    done = run(build(), ["audit", "explain", str(faces), "--models", "my-songnet", "--json", *options])
    assert done.exit_code == 3, done.output  # one picture has no face
    plain = json.loads(done.stdout)
    assert plain["pictures"] == 5
    assert plain["models"][0]["name"] == "my-songnet"
    assert sum(row["pictures"] for row in plain["maps"]) >= 2
