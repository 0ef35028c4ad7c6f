"""Scores of quality against naive ones, files that are refused, and the weight that is made of a score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import optimize, signal, special
from torch import Tensor

from mien.errors import CheckpointError, OptionError, ShapeError, WeightsUnavailable
from mien.nn import iqa


def pictures(n: int = 3, side: int = 64) -> Tensor:
    """Smooth pictures with some noise, 0 to 1."""
    rng = np.random.default_rng(0)
    rough = rng.uniform(0, 255, (n, 12, 12, 3)).astype(np.float32)
    smooth = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in rough]
    noisy = np.clip(np.stack(smooth) + rng.normal(0, 4, (n, side, side, 3)), 0, 255)
    return torch.from_numpy(np.rint(noisy).astype(np.float32)).permute(0, 3, 1, 2) / 255


def blurred(images: Tensor, sigma: float) -> Tensor:
    rows = [cv2.GaussianBlur(np.ascontiguousarray(one.permute(1, 2, 0).numpy()), (0, 0), sigma) for one in images]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


# --- CNN-IQA ---------------------------------------------------------------------------------------------------------


def test_cnniqa_is_its_layers_one_by_one() -> None:
    torch.manual_seed(0)
    network = iqa.CNNIQA().double().eval()
    assert sum(p.numel() for p in network.parameters()) == 50 * 148 + 800 * 101 + 800 * 801 + 801
    x = pictures(2, 40).double()
    maps = torch.nn.functional.conv2d(x, network.conv1.weight, network.conv1.bias).detach()
    for row in range(2):
        largest = [float(maps[row, k].max()) for k in range(50)]
        smallest = [float(maps[row, k].min()) for k in range(50)]
        h = torch.tensor(largest + smallest, dtype=torch.float64)
        for layer in (network.fc1, network.fc2):
            h = (layer.weight @ h + layer.bias).clamp(min=0)
        want = float((network.fc3.weight[0] @ h + network.fc3.bias[0]).detach())
        assert float(network(x)[row].detach()) == pytest.approx(want, rel=1e-9)


def test_the_grey_cnniqa_scores_normalised_patches() -> None:
    torch.manual_seed(0)
    network = iqa.CNNIQA(channels=1).eval()
    x = pictures(2, 70)
    grey = 255 * iqa.luma(x)
    with torch.no_grad():
        seen = iqa.local_contrast(grey)
        window = np.pad(grey[0, 0].numpy().astype(np.float64), 3, mode="edge")[10:17, 20:27]  # around (10, 20)
        want = (float(grey[0, 0, 10, 20]) - window.mean()) / (window.std() + 10)
        assert float(seen[0, 0, 10, 20]) == pytest.approx(want, abs=1e-3)
        parts = [network.scores(seen[:, :, a : a + 32, b : b + 32]) for a in (0, 32) for b in (0, 32)]
        torch.testing.assert_close(network(x), torch.stack(parts).mean(0))
    with pytest.raises(ShapeError, match="32 px"):
        network(x[:, :, :20])
    with pytest.raises(OptionError, match="grey or colour"):
        iqa.CNNIQA(channels=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_checkpoint_of_cnniqa_is_taken_strictly(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(1)
    network = iqa.CNNIQA(channels=channels).eval()
    state = network.state_dict()
    torch.save({"params": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "cnniqa.pth")
    found = iqa.cnniqa_from_file(tmp_path / "cnniqa.pth")
    x = pictures(2)
    with torch.no_grad():
        torch.testing.assert_close(found(x), network(x))
    assert not any(p.requires_grad for p in found.parameters())
    for change, message in (
        ({"fc9.weight": torch.zeros(1)}, "fc9.weight"),
        ({"fc2.weight": torch.zeros(3, 3)}, r"fc2.weight \(3, 3\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            iqa.convert_cnniqa({**state, **change})
    with pytest.raises(CheckpointError, match=r"fc3\.bias missing"):
        iqa.convert_cnniqa({k: v for k, v in state.items() if k != "fc3.bias"})
    (tmp_path / "broken.pth").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        iqa.cnniqa_from_file(tmp_path / "broken.pth")


# --- BRISQUE ---------------------------------------------------------------------------------------------------------


def naive_features(grey: Any) -> list[float]:
    """18 features of one grey picture, the fits by a root finder."""
    ticks = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    kernel = np.outer(ticks, ticks) / np.outer(ticks, ticks).sum()
    mean = signal.convolve2d(grey, kernel, "same")
    deviation = np.sqrt(np.abs(signal.convolve2d(grey**2, kernel, "same") - mean**2))
    x = (grey - mean) / (deviation + 1)

    def ratio(a: float) -> float:
        return float(special.gamma(2 / a) ** 2 / special.gamma(1 / a) / special.gamma(3 / a))

    wanted = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    out = [optimize.brentq(lambda a: ratio(a) - wanted, 0.2, 10), np.mean(x**2)]
    for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        y = x * np.roll(x, shift, (0, 1))
        low, high = np.sqrt(np.mean(y[y < 0] ** 2)), np.sqrt(np.mean(y[y > 0] ** 2))
        skew = low / high
        wanted = np.mean(np.abs(y)) ** 2 / np.mean(y**2) * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        a = optimize.brentq(lambda a, wanted=wanted: ratio(a) - wanted, 0.2, 10)
        centre = (high - low) * special.gamma(2 / a) / special.gamma(1 / a)
        out += [a, centre * math.sqrt(special.gamma(1 / a) / special.gamma(3 / a)), low**2, high**2]
    return [float(v) for v in out]


def test_the_features_of_brisque_are_those_of_the_formulas() -> None:
    x = pictures(2, 64)
    found = iqa.brisque_features(x.double()).numpy()
    assert found.shape == (2, 36)
    for row in range(2):
        grey = np.rint(255 * (x[row].double().permute(1, 2, 0).numpy() @ [0.299, 0.587, 0.114]))
        np.testing.assert_allclose(found[row, :18], naive_features(grey), atol=1.5e-3)
        half = torch.nn.functional.interpolate(
            torch.from_numpy(grey)[None, None], scale_factor=0.5, mode="bicubic", antialias=True
        )
        np.testing.assert_allclose(found[row, 18:], naive_features(half[0, 0].numpy()), atol=1.5e-3)
    with pytest.raises(ShapeError, match="16 px"):
        iqa.brisque_features(torch.rand(1, 3, 12, 40))


def regression(folder: Path, vectors: int = 5) -> tuple[Path, Path, dict[str, Any]]:
    """Two files in LIBSVM's formats, and what is in them."""
    rng = np.random.default_rng(3)
    support, coefficients = rng.uniform(-1, 1, (vectors, 36)), rng.normal(0, 50, vectors)
    low, high = rng.uniform(-2, 0, 36), rng.uniform(1, 12, 36)
    model, ranges = folder / "allmodel", folder / "allrange"
    head = f"svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\nnr_class 2\ntotal_sv {vectors}\nrho -153.5\nSV\n"
    rows = [
        f"{c!r} " + " ".join(f"{i}:{v!r}" for i, v in enumerate(s.tolist(), 1) if i != 4)
        for c, s in zip(coefficients.tolist(), support, strict=True)
    ]
    support[:, 3] = 0  # what is not written is zero
    model.write_text(head + "\n".join(rows) + "\n")
    lines = [f"{i} {a!r} {b!r}" for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True), 1)]
    ranges.write_text("x\n-1 1\n" + "\n".join(lines) + "\n")
    return model, ranges, {"support": support, "coefficients": coefficients, "low": low, "high": high}


def test_brisque_is_a_regression_with_a_gaussian_kernel(tmp_path: Path) -> None:
    model, ranges, facts = regression(tmp_path)
    network = iqa.brisque_from_files(model, ranges)
    x = pictures(2)
    features = iqa.brisque_features(x).double().numpy()
    for row in range(2):
        scaled = -1 + 2 * (features[row] - facts["low"]) / (facts["high"] - facts["low"])
        want = 153.5 + sum(
            c * math.exp(-0.05 * float(((scaled - s) ** 2).sum()))
            for c, s in zip(facts["coefficients"], facts["support"], strict=True)
        )
        assert float(network(x)[row]) == pytest.approx(want, rel=1e-4)
    other = iqa.build_quality("brisque", vectors=5)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(x), network(x))


@pytest.mark.parametrize(
    ("which", "old", "new"),
    [
        ("model", "rbf", "linear"), ("model", "total_sv 5", "total_sv 6"), ("model", "SV\n", "\n"),
        ("model", "36:", "37:"), ("ranges", "-1 1", "0 1"), ("ranges", "\n36 ", "\n38 "), ("ranges", "x\n", "y\n"),
    ],
)  # fmt: skip
def test_files_of_another_kind_are_refused(tmp_path: Path, which: str, old: str, new: str) -> None:
    model, ranges, _ = regression(tmp_path)
    file = {"model": model, "ranges": ranges}[which]
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match=r"no regression|no ranges"):
        iqa.brisque_from_files(model, ranges)
    with pytest.raises(CheckpointError, match="cannot be read"):
        iqa.brisque_from_files(tmp_path / "nowhere", ranges)


# --- Without weights -------------------------------------------------------------------------------------------------


def test_sharpness_and_gradient_fall_with_blur() -> None:
    x = pictures(4, 112)
    for network in (iqa.Sharpness(), iqa.Gradient()):
        scores = torch.stack([network(x), network(blurred(x, 1.5)), network(blurred(x, 4))])
        assert (scores.diff(dim=0) < 0).all()
    assert float(iqa.Sharpness()(x).max()) <= 1


def test_gradient_is_the_mean_squared_step_of_the_halved_picture() -> None:
    x = pictures(1, 8).double()
    grey = iqa.luma(x)[0, 0].numpy()
    half = grey.reshape(4, 2, 4, 2).mean((1, 3))
    down = [(half[i + 1, j] - half[i, j]) ** 2 for i in range(3) for j in range(4)]
    right = [(half[i, j + 1] - half[i, j]) ** 2 for i in range(4) for j in range(3)]
    assert float(iqa.Gradient()(x)) == pytest.approx(0.5 * (np.mean(down) + np.mean(right)))


def test_sharpness_agrees_with_the_measure_of_the_verb() -> None:
    """`mien.verbs.quality.sharpness` is a line of the same share of steps that a blur takes away."""
    from mien.verbs.quality import sharpness

    x = torch.cat([pictures(3, 80), blurred(pictures(3, 80), 1.0)])
    lost = iqa.Sharpness()(x).numpy()
    light = 255 * iqa.luma(x)[:, 0].numpy()
    other = sharpness(light)
    inside = (other > 0) & (other < 1)
    np.testing.assert_allclose(lost[inside], 1 - (0.85 - 0.5 * other[inside]), atol=2e-3)


# --- By name, and alpha ----------------------------------------------------------------------------------------------


def test_scores_that_need_files_say_so() -> None:
    for kind, message in (("cnniqa", "weights of CNN-IQA"), ("brisque", "LIBSVM")):
        with pytest.raises(WeightsUnavailable, match=message):
            iqa.quality_from_files(kind)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="takes no files"):
        iqa.quality_from_files("gradient", "file")
    with pytest.raises(OptionError, match="unknown quality score"):
        iqa.build_quality("niqe")  # type: ignore[arg-type]
    assert isinstance(iqa.quality_from_files("sharpness"), iqa.Sharpness)


def test_alpha_is_half_at_the_threshold_and_not_held_in_unless_asked() -> None:
    weight = iqa.QualityWeight(iqa.Gradient(), threshold=0.55)
    q = torch.tensor([0.55, 0.95, -0.2, 1.4])
    torch.testing.assert_close(weight.alpha(q), torch.tensor([[0.5], [0.9], [-0.25], [1.35]]))
    weight.clamp = True
    assert float(weight.alpha(q).max()) == 1
    assert float(weight.alpha(q).min()) == 0


def test_a_set_gives_threshold_and_gain() -> None:
    q = torch.tensor([3.0, 5.0, 7.0, 9.0])
    weight = iqa.QualityWeight(iqa.Gradient())
    weight.centre(q)
    assert (float(weight.threshold), float(weight.gain)) == (6.0, 1.0)
    weight.centre(q, standardise=True)
    alpha = weight.alpha(q)[:, 0]
    assert float(alpha.mean()) == pytest.approx(0.5)
    assert float(alpha.std(unbiased=False)) == pytest.approx(0.25)
    with pytest.raises(OptionError, match="same quality"):
        weight.centre(torch.ones(4), standardise=True)


def test_the_score_sees_0_to_1_or_what_the_released_code_hands_it() -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))

    x = torch.full((2, 3, 4, 4), 0.5)
    assert iqa.QualityWeight(Mean()).quality(x).tolist() == [0.75, 0.75]
    assert iqa.QualityWeight(Mean(), official_input=True).quality(x).tolist() == [0.5, 0.5]
    assert iqa.usual_gain("brisque") == 0.01
    assert iqa.usual_gain("brisque", official=True) == iqa.usual_gain("cnniqa") == 1.0
