"""The demo on a painted face: trials, page, picture; and the parts that can be wrong without looking wrong."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.errors import NoFaceFound, OptionError
from mien.verbs import _demo_page
from mien.verbs.demo import HEAD, LARGEST, Demo, Trial, _changes, demo, head_and_shoulders

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags with their attributes, and a complaint where they do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def portrait(fakes: Any, tmp_path: Path) -> str:
    path = tmp_path / "portrait <b>.png"
    Image.fromarray(fakes.picture((140, 110, 150, 7), height=420, width=440)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def once() -> dict[str, Demo]:
    return {}


@pytest.fixture
def made(fakes: Any, portrait: str, once: dict[str, Demo], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo of a painted face, run once for all tests that read what it wrote."""
    if "made" not in once:
        out = tmp_path_factory.mktemp("made") / "new" / "demo"
        told: list[tuple[int, int | None]] = []
        once["made"] = demo(
            photo=portrait, out=str(out), fmr=1e-3, progress=lambda *step: told.append(step[:2]), **fakes.demo
        )
        assert told == [(k, 8) for k in range(1, 9)], "progress counts the rows"
    return once["made"]


def test_everything_is_written_and_says_the_same(made: Demo) -> None:
    assert len(made.trials) == 40
    assert len({trial.change for trial in made.trials}) == 8
    assert (made.threshold, made.fmr) == (0.7, 1e-3)
    assert all((trial.similarity is None) == (not trial.found) for trial in made.trials)
    report = Path(made.report)
    assert sorted(p.name for p in report.parent.iterdir()) == [
        "annotated.jpg",
        "hero.jpg",
        "report.html",
        "trials.json",
    ]
    assert json.loads((report.parent / "trials.json").read_text("utf-8")) == json.loads(made.to_json())
    assert Image.open(made.picture).size == (440, 420)
    assert Image.open(made.hero).size == (1640, 820)


def test_a_little_worse_is_still_the_same_face(made: Demo) -> None:
    first = {trial.change: trial for trial in reversed(made.trials)}
    for change in ("Resolution", "JPEG"):
        assert first[change].found
        assert first[change].similarity is not None
        assert first[change].similarity > 0.8, change


def test_the_page_is_whole_and_needs_nothing_else(made: Demo) -> None:
    text = Path(made.report).read_text("utf-8")
    page = Page(text)
    pictures = page.all("img")
    assert len(pictures) == 1 + len(made.trials)
    assert all((each["src"] or "").startswith("data:image/jpeg;base64,") for each in pictures)
    assert all(each["alt"] for each in pictures)
    assert page.all("script") == page.all("link") == []
    assert not re.findall(r"https?://|url\(|@import", text)
    assert len(page.all("svg")) == 8
    assert len(page.all("circle")) == sum(trial.found for trial in made.trials)
    assert text.count(">not found</text>") == sum(not trial.found for trial in made.trials)
    found = sum(trial.found for trial in made.trials)
    same = sum(trial.found and (trial.similarity or 0) >= made.threshold for trial in made.trials)
    assert f"<b>{found} of 40</b>" in text
    assert f"<b>{same} of 40</b>" in text
    assert "painted faces" in text, "the page must say what the threshold was measured on"
    assert "Eileen Collins" not in text, "this photograph is another"


def test_no_face_and_no_such_rate(fakes: Any, tmp_path: Path) -> None:
    path = tmp_path / "green.png"
    Image.fromarray(fakes.picture()).save(path)
    with pytest.raises(NoFaceFound) as caught:
        demo(photo=str(path), out=str(tmp_path / "demo"), **fakes.demo)
    assert caught.value.hint
    assert not (tmp_path / "demo").exists(), "nothing is written before there is something to show"
    with pytest.raises(OptionError, match="false match rate"):
        demo(photo=str(path), out=str(tmp_path / "demo"), fmr=1e-9, **fakes.demo)


@pytest.mark.parametrize("box", [(300, 200, 400, 320), (0, 0, 90, 110), (560, 380, 640, 480), (40, 30, 620, 470)])
def test_head_and_shoulders_keep_the_face_where_it_is(box: tuple[int, int, int, int]) -> None:
    """The face is marked by colour; the colour must fill the returned box, however the picture was cut and scaled."""
    image = np.full((480, 640, 3), 40, np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = (220, 30, 30)
    part, moved = head_and_shoulders(image, np.array(box, np.float32))
    assert max(part.shape[:2]) <= LARGEST
    assert part.shape[0] >= 1
    red = part[..., 0].astype(int) > 130
    ys, xs = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    np.testing.assert_allclose([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], moved, atol=1.01)
    if box == (300, 200, 400, 320):
        assert part.shape[:2] == pytest.approx((HEAD * 120, HEAD * 120), abs=2)


def test_changes_get_worse_along_each_row() -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(30, 220, (24, 24, 3), np.uint8))
    image = np.asarray(coarse.resize((192, 192), Image.Resampling.BICUBIC))
    box = np.array([50, 40, 140, 150], np.float32)
    for title, change, levels in _changes(box):
        assert len({label for label, _ in levels}) == len(levels) == 5, title
        worse = [change(image, strength) for _, strength in levels]
        assert all(w.dtype == np.uint8 and w.ndim == 3 for w in worse), title
        again = change(image, levels[2][1])
        np.testing.assert_array_equal(again, worse[2], err_msg=f"{title} must be the same every time")
        if title == "Cut at the side":
            assert [w.shape[1] for w in worse] == [192 - (50 + round(s * 90)) for _, s in levels]
        elif title != "Rotation":
            errors = [float(np.abs(w.astype(float) - image).mean()) for w in worse]
            assert errors == sorted(errors), title
            assert errors[0] > 0, title


def row(*similarities: float | None) -> _demo_page.Row:
    blank = np.zeros((8, 8, 3), np.uint8)
    trials = [Trial("Blur", f"σ {k} px", float(k), s is not None, s, None) for k, s in enumerate(similarities)]
    return _demo_page.Row("Blur", tuple(_demo_page.Shown(trial, blank, blank) for trial in trials))


def test_the_plot_draws_what_was_measured() -> None:
    """Heights are linear in the similarity; the line breaks where there is no face; colours follow the threshold."""
    page = Page(_demo_page.plot(row(1.0, 0.5, 0.0, None, 0.5), 0.5))
    circles = page.all("circle")
    heights = [float(circle["cy"] or "nan") for circle in circles]
    assert heights[1] == heights[3]
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0], abs=0.11)
    assert [circle["class"] for circle in circles] == ["same", "same", "not", "same"]
    limit = next(line for line in page.all("line") if line["class"] == "limit")
    assert float(limit["y1"] or "nan") == heights[1]
    lines = page.all("polyline")
    assert [len((line["points"] or "").split()) for line in lines] == [3], "one picture alone is no line"


def test_what_comes_from_outside_is_escaped() -> None:
    trial = Trial("Blur", "<i>&", 1.0, True, 0.9, 0.5)
    blank = np.zeros((8, 8, 3), np.uint8)
    text = _demo_page.plot(_demo_page.Row("Blur", (_demo_page.Shown(trial, blank, blank),)), 0.5)
    assert "<i>" not in text
    assert "&lt;i&gt;&amp;" in text


@pytest.mark.parametrize("size", [(420, 440), (200, 900), (2000, 1500)])
def test_the_picture_has_one_size_whatever_the_photograph(fakes: Any, size: tuple[int, int]) -> None:
    from mien.verbs.analyze import analyze

    height, width = size
    side = min(size) // 2
    image = fakes.picture((width // 3, height // 4, side, 3), height=height, width=width)
    face = analyze(image, **fakes.analyze).largest()
    rows = [_demo_page.Row(name, row(0.9, 0.6, None, 0.1, -0.2).shown) for name in _demo_page.ROWS]
    hero = _demo_page.hero(image, face, rows, 0.5)
    assert hero.shape == (820, 1640, 3)
    assert tuple(hero[5, 5]) == _demo_page.GROUND
    colours = {tuple(pixel) for pixel in hero[::, 824:].reshape(-1, 3).tolist()}
    assert _demo_page.SAME in colours
    assert _demo_page.NOT in colours
