"""Plots: what is drawn is what was given, the files are whole, and the page's colours are in the picture."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import ndtri

from mien.errors import MissingExtra, OptionError
from mien.media import plots

pytest.importorskip("matplotlib")

FMR = np.array([0, 0.001, 0.01, 0.1, 1])
TAR = np.array([0.5, 0.6, 0.8, 0.9, 1])


def lines(figure: Any) -> dict[str, Any]:
    """(m, 2) points of each named line."""
    return {line.get_label(): np.column_stack(line.get_data()) for line in figure.axes[0].get_lines()}


def all_plots() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(0.6, 0.1, 300), rng.normal(0, 0.1, 900)
    two = {"mine": (FMR, TAR), "yours": (FMR, TAR**2)}
    return {
        "roc": plots.roc(two, points=[(0.01, 0.8)]),
        "det": plots.det({name: (x, 1 - np.asarray(y)) for name, (x, y) in two.items()}, points=[(0.01, 0.2)]),
        "histogram": plots.histogram(genuine, impostor, threshold=0.3),
        "cmc": plots.cmc({"mine": np.linspace(0.5, 1, 50), "yours": np.linspace(0.4, 0.9, 50)}),
        "short cmc": plots.cmc({"mine": [0.5, 0.7, 0.8]}),
        "open set": plots.open_set({"mine": (FMR, 1 - TAR)}, points=[(0.1, 0.1)]),
        "discard": plots.error_versus_discard({"quality": ([0, 0.1, 0.3], [0.2, 0.1, 0.05])}),
        "reliability": plots.reliability({"mine": ([0.1, 0.9], [0.2, 0.8])}, counts=[10, 30]),
        "threshold": plots.against_threshold({"F": ([0, 0.5, 1], [0.1, 0.9, 0.3])}, threshold=0.4),
        "sizes": plots.sizes({"people": [1, 1, 2, 5], "clusters": [1, 3, 5]}),
    }


@pytest.mark.parametrize("name", list(all_plots()))
def test_every_plot_is_a_whole_file_of_either_kind(name: str, tmp_path: Path) -> None:
    figure = all_plots()[name]
    plots.save_plot(figure, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert min(picture.size) > 600
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10, "something is drawn"
    plots.save_plot(figure, tmp_path / "p.svg")
    assert ET.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_equal_plots_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plots.save_plot(plots.roc({"": (FMR, TAR)}), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.svg or \.png"):
        plots.save_plot(plots.roc({"": (FMR, TAR)}), tmp_path / "a.pdf")


def test_roc_keeps_its_points_and_starts_at_a_power_of_ten() -> None:
    figure = plots.roc({"mine": (FMR, TAR)})
    drawn = lines(figure)["mine"]
    np.testing.assert_allclose(drawn[:, 0], [1e-3, 1e-3, 1e-2, 0.1, 1])
    np.testing.assert_allclose(drawn[:, 1], [0.5, 0.6, 0.8, 0.9, 1])
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].get_xlim() == (1e-3, 1)


def test_det_is_drawn_by_normal_deviates() -> None:
    drawn = lines(plots.det({"mine": (FMR, 1 - TAR)}))["mine"]
    np.testing.assert_allclose(drawn, ndtri(np.array([[0.001, 0.4], [0.01, 0.2], [0.1, 0.1]])))


def test_histograms_have_the_same_area_whatever_the_numbers() -> None:
    figure = plots.histogram(np.full(3, 0.5), np.linspace(-0.5, 0.4, 1000), threshold=0.45)
    heights = [patch.get_data() for patch in figure.axes[0].patches if hasattr(patch, "get_data")]
    for values, edges, _ in heights:
        assert (values * np.diff(edges)).sum() == pytest.approx(1)
    assert "same person (3)" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_a_million_points_are_thinned_without_moving() -> None:
    x = np.geomspace(1e-6, 1, 1_000_000)
    drawn = lines(plots.roc({"mine": (x, x**0.1)}))["mine"]
    assert len(drawn) < 2 * plots.POINTS
    np.testing.assert_allclose(drawn[1:, 1], drawn[1:, 0] ** 0.1)
    assert (drawn[-1] == 1).all()
    # No gap on either axis is wider than a few of that many equal steps.
    assert np.diff(np.log10(drawn[:, 0])).max() < 6 * 5 / plots.POINTS


def test_curves_are_told_apart_without_colour() -> None:
    figure = plots.roc({str(k): (FMR, TAR) for k in range(6)})
    looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.axes[0].get_lines()}
    assert len({dash for _, dash in looks}) == 6
    assert len({colour for colour, _ in looks}) == 6


def test_an_svg_for_a_page_takes_its_colours_and_its_width() -> None:
    one, other = (plots.svg_of(plots.roc({"a": (FMR, TAR)}), label=label) for label in ('ROC "1"', "two"))
    assert one.startswith("<svg ")
    assert "var(--ink,#1b2730)" in one
    assert "var(--soft,#5c6b76)" in one
    assert "Date" not in one
    root = ET.fromstring(one)
    assert "width" not in root.attrib
    assert root.attrib["aria-label"] == 'ROC "1"'
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert not ids[0] & ids[1], "ids of plots on one page must differ"
    for text, known in zip((one, other), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= known


def test_nobody_elses_plots_change() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.svg_of(plots.cmc({"": [0.1, 0.2]}))
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"mien\[evaluate\]"):
        plots.roc({"": (FMR, TAR)})
