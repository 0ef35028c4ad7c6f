"""The recipe of polar parsers: its maps, its loss derived again, its figures, the way of its weights to the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mien.data.parsed import LAPA, UNKNOWN, Parsed
from mien.errors import OptionError
from mien.faces import PARSING
from mien.geometry.tanh_polar import Frame
from mien.papers import rtnet
from mien.train.loop import fit
from mien.train.recipes import polar_parser
from mien.train.recipes.polar_parser import Maps, PolarParserRecipe, f1_in_pictures, map_loss

TINY: dict[str, Any] = {
    "steps": 2, "batch_size": 2, "workers": 0, "threads": 1, "tensorboard": "no", "device": "cpu", "size": 33,
    "heads": 4, "checked": 4, "scene": 64, "warmup": 0, "arguments": ("width=16", "layers=(1,1,1,1)"),
}  # fmt: skip


def one(classes: tuple[str, ...] = PARSING) -> Parsed:
    """A picture, left half an l_eye and right half an r_eye, with the class in its red channel."""
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:30], mask[10:30, 30:50] = classes.index("l_eye"), classes.index("r_eye")
    image = np.repeat(mask[..., None] * 10, 3, 2)
    return Parsed([lambda: image], [lambda: mask], np.array([[10, 10, 50, 30]], np.float32), classes)


def test_the_loss_is_the_mean_over_known_pixels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 5, (2, 3, 4), dtype=torch.uint8)
    mask[0, 1] = UNKNOWN
    p = logits.detach().softmax(1)
    known = [(b, y, x) for b in range(2) for y in range(3) for x in range(4) if mask[b, y, x] != UNKNOWN]
    want = -sum(float(p[b, int(mask[b, y, x]), y, x].log()) for b, y, x in known) / len(known)
    got = map_loss(logits, mask)
    assert got.item() == pytest.approx(want, rel=1e-12)
    got.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    for b, y, x in known:
        hot = torch.eye(5, dtype=torch.float64)[int(mask[b, y, x])]
        torch.testing.assert_close(logits.grad[b, :, y, x], (p[b, :, y, x] - hot) / len(known))
    assert not logits.grad[0, :, 1].any()
    assert map_loss(logits, torch.full((2, 3, 4), UNKNOWN)).item() == 0


def test_picture_and_mask_go_through_the_same_grid_and_the_mirror() -> None:
    source = Maps(one(), Frame("polar", 40), PARSING, jitter=0.1, turn=30.0, strength=0.0)
    seen = set()
    for number in range(8):
        drawn = source.sample(0, np.random.default_rng(number))
        image, mask = drawn["image"][..., 0].astype(int), drawn["mask"].astype(int)
        again = source.sample(0, np.random.default_rng(number))
        assert np.array_equal(again["mask"], drawn["mask"])
        # Mirrored or not, the left half in the picture is an l_eye; only its colour tells whether it was mirrored.
        inner = mask[:, 20]
        right, left = inner[[0, 1, 39]], inner[19:22]
        assert set(right) == {PARSING.index("r_eye")}
        assert set(left) == {PARSING.index("l_eye")}
        colours = np.rint(image[20, 20] / 10)
        seen.add(int(colours))
        assert drawn["roi"].shape == (4,)
    assert seen == {PARSING.index("l_eye"), PARSING.index("r_eye")}


def test_outside_of_the_picture_is_background_or_unknown() -> None:
    for outside, value in (("background", 0), ("unknown", UNKNOWN)):
        source = Maps(one(), Frame("polar", 40), PARSING, jitter=0, turn=0, strength=0, outside=outside, flip=False)
        assert source.sample(0, np.random.default_rng(0))["mask"][10, 39] == value


def test_classes_are_matched_by_name() -> None:
    table = polar_parser.numbers_of(PARSING, LAPA)
    told = {name: LAPA[table[number]] for number, name in enumerate(PARSING)}
    assert {name: told[name] for name in ("l_eye", "hair", "l_ear", "eye_g", "hat", "neck")} == {
        "l_eye": "l_eye", "hair": "hair", "l_ear": "skin", "eye_g": "skin", "hat": "background", "neck": "background",
    }  # fmt: skip
    assert table[UNKNOWN] == UNKNOWN
    mirror = polar_parser.in_the_mirror(PARSING)
    changed = {PARSING[k]: PARSING[mirror[k]] for k in range(19) if mirror[k] != k}
    assert changed == {f"{a}_{p}": f"{b}_{p}" for p in ("eye", "brow", "ear") for a, b in ("lr", "rl")}


class Red(nn.Module):
    """Reads the class from the red channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        value = (x[:, :1] + 1) * 12.75
        return -20 * (value - torch.arange(19.0).view(1, -1, 1, 1)).square() * self.scale


def test_figures_are_counted_in_the_picture() -> None:
    found = f1_in_pictures(Red(), one(), Frame("polar", 257), PARSING)
    assert found["f1"] == pytest.approx((found["f1_l_eye"] + found["f1_r_eye"]) / 2)
    assert found["f1"] > 0.9
    assert found["f1_background"] > 0.9
    cut = f1_in_pictures(Red(), one(), Frame("crop", 64, margin=0.5), PARSING)  # half of each eye is outside
    assert 0.3 < cut["f1"] < 0.75


def test_the_schedule_is_a_power() -> None:
    recipe = PolarParserRecipe.make(preset="paper", out="x")
    assert recipe.pace(0) == 1
    assert recipe.pace(34_200) == pytest.approx(0.5**0.9)
    assert recipe.pace(68_400) == 0
    assert PolarParserRecipe(out="x", schedule="poly", warmup=10).pace(4) == 0.5
    assert PolarParserRecipe(out="x", warmup=0).pace(0) == 1


def test_imagenet_and_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(rtnet, "from_imagenet", lambda network, file: taken.append((network, file)))
    recipe = PolarParserRecipe.make(preset="small", out=tmp_path, imagenet="resnet50.pth")
    network = nn.Identity()
    recipe.begin(network)
    assert taken == [(network, Path("resnet50.pth"))]
    for options, message in (
        ({"names": ("hair", "background")}, "names of classes"), ({"names": ("background", "wings")}, "names"),
        ({"turn": 200.0}, "out of its range"), ({"size": 8}, "out of its range"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            PolarParserRecipe(out="x", **options)
    with pytest.raises(OptionError, match="cannot be built"):
        PolarParserRecipe(out="x", network="mien.papers.rtnet:nothing").build()
    with pytest.raises(OptionError, match="cannot be read"):
        PolarParserRecipe(out="x", arguments=("width=a b",)).build()
    with pytest.raises(OptionError, match="from_imagenet"):
        PolarParserRecipe(out="x", network="mien.nn.parser:Parser", imagenet="a").begin(network)


def test_a_run_s_weights_parse_crops_in_the_verbs(tmp_path: Path) -> None:
    result = fit(PolarParserRecipe.make(out=tmp_path / "run", **TINY))
    assert 0 <= result.figures["f1"] <= 1
    made = rtnet.import_official(result.weights, tmp_path / "mine.safetensors", name="mine", size=48)
    assert (made.input.colour, made.arguments["warp"], made.arguments["classes"]) == ("RGB", 33, 19)
    from mien.weights import load, registered

    with registered(made):
        found = load("mine", device="cpu")(torch.zeros(1, 3, 48, 48))
    assert found.shape == (1, 19, 48, 48)
