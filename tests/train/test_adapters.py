"""The adapters' recipe: what is frozen, trained, kept, resumed; how alpha comes about; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from mien.claims._people import write
from mien.data.low_resolution import at_pixels
from mien.errors import CheckpointError, OptionError, TableError, WeightsUnavailable
from mien.nn.iqa import CNNIQA, Gradient, QualityWeight
from mien.nn.lora import Blended, adapters
from mien.train.loop import fit
from mien.train.recipes.adapters import AdaptersRecipe, Trainee, fill_plain, in_place

SIDE, PEOPLE, EACH = 24, 8, 4
NETWORK = ("size=24", "patch=6", "width=16", "depth=2", "heads=2", "drop_path=0", "bottleneck=False")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of people of one colour each, with texture."""
    rng = np.random.default_rng(0)
    colour = rng.integers(40, 216, (PEOPLE, 1, 1, 1, 3))
    crops = colour + rng.normal(0, rng.uniform(2, 40, (PEOPLE, EACH, 1, 1, 1)), (PEOPLE, EACH, SIDE, SIDE, 3))
    labels = np.repeat(np.arange(PEOPLE), EACH)
    crops = np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE, 3)
    return write(tmp_path_factory.mktemp("people"), crops, labels)


def recipe(people: Path, out: Path, **options: Any) -> AdaptersRecipe:
    numbers: dict[str, Any] = {
        "preset": "small", "data": str(people), "out": str(out), "size": SIDE, "dim": 8, "arguments": NETWORK,
        "batch_size": 8, "steps": 3, "warmup": 1, "workers": 0, "threads": 1, "tensorboard": "no", "device": "cpu",
        "quality": "gradient", "half": False, "held": 0.0, "low": 6, "rank": 2,
    }  # fmt: skip
    return AdaptersRecipe.make(**{**numbers, **options})


@pytest.fixture(scope="module")
def base(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain network, trained for a moment."""
    return fit(recipe(people, tmp_path_factory.mktemp("base"), adapters="none")).weights


def test_only_branches_change_and_the_file_holds_all_that_a_caller_needs(
    people: Path, base: Path, tmp_path: Path
) -> None:
    run = recipe(people, tmp_path, base=str(base), steps=4)
    result = fit(run)
    plain, state = load_file(base), load_file(result.weights)
    kept = {name for name in plain if "running" not in name}
    assert all(torch.equal(state[f"network.{name}"], plain[name]) for name in kept)
    assert any(not torch.equal(state[f"network.{name}"], plain[name]) for name in plain.keys() - kept)  # running means
    ups = [name for name in state if "lora_up" in name]
    assert len(ups) == 2 * 2 + 1
    assert all(state[name].abs().max() > 0 for name in ups)  # they began at zero
    network = run.trained(result.weights)
    assert isinstance(network, Blended)
    assert isinstance(network.weight, QualityWeight)
    images = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images, network.weight(images)))
    assert float(network.weight.threshold) == pytest.approx(float(state["weight.threshold"]))


def test_running_statistics_can_be_fixed_too(people: Path, base: Path, tmp_path: Path) -> None:
    state = load_file(fit(recipe(people, tmp_path, base=str(base), fixed_norm=True)).weights)
    assert all(torch.equal(state[f"network.{name}"], value) for name, value in load_file(base).items())


@pytest.mark.parametrize(("kind", "branches"), [("single", 2), ("everywhere", 3), ("none", 0)])
def test_other_kinds_of_adapters_give_a_network_without_a_score(
    people: Path, base: Path, tmp_path: Path, kind: str, branches: int
) -> None:
    run = recipe(people, tmp_path, base=str(base), adapters=kind)
    network = run.trained(fit(run).weights)
    assert not isinstance(network, Blended)
    assert len(adapters(network)) == branches
    plain, state = load_file(base), network.state_dict()
    same = all(torch.equal(state[name], value) for name, value in plain.items() if "running" not in name)
    assert same == (kind != "none")


def test_qualities_are_of_each_picture_and_its_mirror_image_and_are_kept(
    people: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recipe(people, tmp_path, base=str(base), sides=(0, 6), steps=1)
    fit(run)
    with np.load(tmp_path / "quality.npz") as kept:
        quality = kept["quality"]
    assert quality.shape == (PEOPLE * EACH, 2)
    crops = run._crops
    score = Gradient()
    for row in (0, 7, 20):
        image = torch.from_numpy(crops.picture(row)).permute(2, 0, 1)[None].float() / 255
        assert quality[row].tolist() == pytest.approx([float(score(image)), float(score(image.flip(3)))], rel=1e-3)
        drawn = [crops.sample(row, np.random.default_rng(seed)) for seed in range(8)]
        for sample in drawn:
            mirrored = not np.array_equal(sample["image"], crops.picture(row))
            assert sample["quality"] == quality[row, int(mirrored)]
        assert len({sample["image"].tobytes() for sample in drawn}) == 2
    weight = run.build().get_submodule("blended.weight")
    monkeypatch.setattr(QualityWeight, "quality", None)  # a second computation would fail
    again = recipe(people, tmp_path, base=str(base), sides=(0, 6), steps=1)
    assert np.array_equal(again._qualities(weight), quality)  # type: ignore[arg-type]
    other = recipe(people, tmp_path, base=str(base), sides=(0, 5), steps=1)
    with pytest.raises(TypeError):
        other._qualities(weight)  # type: ignore[arg-type]


def test_sides_reduce_pictures_once_and_for_all(people: Path, tmp_path: Path) -> None:
    run = recipe(people, tmp_path, sides=(0, 6))
    sides = run._crops.sides
    assert set(sides.tolist()) == {0, 6}
    assert np.array_equal(sides, recipe(people, tmp_path, sides=(0, 6))._crops.sides)
    whole = recipe(people, tmp_path)._crops
    row = int(np.flatnonzero(sides == 6)[0])
    picture = whole.picture(row)
    assert np.array_equal(run._crops.picture(row), at_pixels(picture[None], 6, kernel="linear")[0])
    row = int(np.flatnonzero(sides == 0)[0])
    assert np.array_equal(run._crops.picture(row), whole.picture(row))


def test_alpha_follows_the_paper_or_the_spread_of_the_set(people: Path, tmp_path: Path) -> None:
    def weight(name: str, **options: Any) -> tuple[QualityWeight, Tensor]:
        run = recipe(people, tmp_path / name, **options)
        Path(run.out).mkdir()
        module = run.build()
        run.begin(module)
        found = module.get_submodule("blended.weight")
        assert isinstance(found, QualityWeight)
        return found, torch.from_numpy(run._crops.quality.ravel())

    found, q = weight("standardised", weighting="standardised")
    assert float(found.alpha(q).mean()) == pytest.approx(0.5, abs=0.02)
    assert found.clamp
    assert float(found.gain) == pytest.approx(0.25 / float(q.std(unbiased=False)), rel=1e-4)
    found, q = weight("paper", weighting="paper")
    torch.testing.assert_close(found.alpha(q)[:, 0], 0.5 + q - q.mean(), atol=1e-6, rtol=1e-5)
    found, q = weight("given", weighting="paper", threshold=0.3)
    torch.testing.assert_close(found.alpha(q)[:, 0], 0.2 + q, atol=1e-6, rtol=1e-5)


def test_a_run_resumes_to_the_same_bits(people: Path, base: Path, tmp_path: Path) -> None:
    whole = load_file(fit(recipe(people, tmp_path / "whole", base=str(base))).weights)
    fit(recipe(people, tmp_path / "halved", base=str(base)), stop_at=1)
    halved = load_file(fit(recipe(people, tmp_path / "halved", base=str(base))).weights)
    assert all(torch.equal(value, halved[name]) for name, value in whole.items())


def test_the_loss_is_that_of_the_class_layer_on_the_mixed_embedding(people: Path, tmp_path: Path) -> None:
    run = recipe(people, tmp_path, lora_dropout=0.0)
    Path(run.out).mkdir(exist_ok=True)
    module = run.build()
    run.begin(module)
    assert isinstance(module, Trainee)
    layer = run.class_layer()
    run.__dict__["_classes"] = layer
    samples = [run._crops.sample(row, np.random.default_rng(row)) for row in range(5)]
    batch = {key: torch.as_tensor(np.stack([sample[key] for sample in samples])) for key in samples[0]}
    loss, parts = run.loss(module.eval(), batch, 0)
    weight = module.blended.weight
    assert isinstance(weight, QualityWeight)
    images = (batch["image"].permute(0, 3, 1, 2).float() - 127.5) / 127.5
    z = module.blended(images, weight.alpha(batch["quality"]))
    cosines = F.normalize(z) @ F.normalize(layer.weight).T
    logits = run.s * (cosines - run.m * F.one_hot(batch["label"], layer.classes))
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch["label"]))
    assert float(parts["norm"]) == pytest.approx(float(z.norm(dim=1).mean().detach()))


@pytest.mark.parametrize("numbers", [(1.0, 0.5, 0.0), (1.0, 0.0, 0.4), (1.3, 0.2, 0.1)])
def test_a_margin_in_place_has_the_value_of_the_margin_and_the_slope_of_the_cosine(
    numbers: tuple[float, float, float],
) -> None:
    cosine = torch.linspace(-1, 1, 41, dtype=torch.float64, requires_grad=True)
    moved = in_place(*numbers)(cosine)
    want = torch.cos(numbers[0] * torch.acos(cosine.detach()) + numbers[1]) - numbers[2]
    torch.testing.assert_close(moved.detach(), want)
    moved.sum().backward()
    assert cosine.grad is not None
    assert torch.equal(cosine.grad, torch.ones_like(cosine))


def test_margins_and_the_official_gradient_reach_the_class_layer(people: Path, tmp_path: Path) -> None:
    cosine = torch.tensor([0.3], requires_grad=True)
    for options, value, slope in (
        ({"margin": "cosface", "m": 0.4}, -0.1, 1.0),
        ({"margin": "arcface", "m": 0.5}, float(torch.cos(torch.acos(torch.tensor(0.3)) + 0.5)), None),
        ({"margin": "arcface", "m": 0.5, "official_gradient": True},
         float(torch.cos(torch.acos(torch.tensor(0.3)) + 0.5)), 1.0),
    ):  # fmt: skip
        margin: Any = recipe(people, tmp_path, **options).class_layer().margin
        moved = margin(cosine)
        (grad,) = torch.autograd.grad(moved.sum(), cosine)
        assert float(moved.detach()) == pytest.approx(value, abs=1e-6)
        assert (float(grad) == pytest.approx(1.0)) == (slope == 1.0)


def test_figures_of_held_out_people_tell_of_low_resolution_and_alpha(people: Path, tmp_path: Path) -> None:
    run = recipe(people, tmp_path, held=0.5, steps=1)
    result = fit(run)
    assert {"auc", "low_rank1", "alpha_std", "alpha_gap"} <= result.figures.keys()
    held = run._samples[1]
    assert 0 < len(held) < PEOPLE * EACH
    assert result.figures["alpha_gap"] > 0.1  # the texture is gone at 6 px
    z = run.embedded_files(run.trained(result.weights), [])
    assert z.shape == (0, 8)


def test_a_score_with_files_is_read_stored_and_asked_for(people: Path, base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    score = CNNIQA()
    torch.save(score.state_dict(), tmp_path / "cnniqa.pth")
    (tmp_path / "run").mkdir()
    run = recipe(
        people, tmp_path / "run", base=str(base), quality="cnniqa", quality_files=(str(tmp_path / "cnniqa.pth"),),
        steps=1, weighting="paper",
    )  # fmt: skip
    state = load_file(fit(run).weights)
    assert torch.equal(state["weight.score.conv1.weight"], score.conv1.weight)
    with pytest.raises(WeightsUnavailable, match="weights of CNN-IQA"):
        fit(recipe(people, tmp_path / "no", quality="cnniqa"))
    with pytest.raises(WeightsUnavailable, match="LIBSVM"):
        fit(recipe(people, tmp_path / "no2", quality="brisque"))


def test_a_base_must_be_of_the_plain_network(people: Path, base: Path, tmp_path: Path) -> None:
    twin = fit(recipe(people, tmp_path / "twin", base=str(base), steps=1)).weights
    with pytest.raises(CheckpointError, match="not those of the plain network"):
        fit(recipe(people, tmp_path / "again", base=str(twin)))
    with pytest.raises(CheckpointError, match="cannot read"):
        fill_plain(nn.Linear(2, 2), tmp_path / "nowhere")


def test_wrong_numbers_and_data_are_named(people: Path, tmp_path: Path) -> None:
    for options in ({"rank": 0}, {"held": 1.0}, {"m": 2.0}, {"s": 0.0}, {"sides": (-1,)}):
        with pytest.raises(OptionError, match="out of its range"):
            recipe(people, tmp_path, **options)
    with pytest.raises(OptionError, match="no layer of the network takes an adapter"):
        recipe(people, tmp_path, projections="nothing").build()
    alone = write(tmp_path / "one", np.zeros((2, SIDE, SIDE, 3), np.uint8), [0, 0])
    names = [held for held in (0.999,) if held]
    with pytest.raises(TableError, match="nobody is left"):
        _ = recipe(alone, tmp_path, held=names[0])._samples
