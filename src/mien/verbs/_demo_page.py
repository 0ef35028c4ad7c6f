"""The page and the picture that `demo` writes: HTML with everything in it, and a composition by Pillow."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from mien.faces import EXPRESSIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as PillowImage
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from mien.faces import Faces
    from mien.verbs.demo import Demo, Trial
    from mien.weights import Weights

    Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A trial, its picture, and the picture with what was found drawn in."""

    trial: Trial
    picture: Image
    drawn: Image


@dataclass(frozen=True)
class Row:
    """One way to make the picture worse, from a little to much."""

    title: str
    shown: tuple[Shown, ...]


# --- The page --------------------------------------------------------------------------------------------------------

STYLE = """
:root{--ink:#1b2730;--soft:#5c6b76;--line:#e0e5e8;--paper:#f7f6f3;--card:#fff;--same:#147a5c;--not:#b9531c;--bar:#8ccdb6}
@media(prefers-color-scheme:dark){:root{--ink:#e9edef;--soft:#98a6af;--line:#2b363e;--paper:#10161a;--card:#182026;
--same:#5cf2c3;--not:#f5a06a;--bar:#2f7d67}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1160px;margin:0 auto;padding:56px 24px 72px}
h1{font-size:40px;line-height:1.15;letter-spacing:-.025em;margin:0 0 12px}
h2{font-size:24px;letter-spacing:-.01em;margin:64px 0 8px}h3{font-size:16px;margin:0 0 2px}
p.lead{color:var(--soft);max-width:70ch;margin:0 0 28px}
.two{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:24px;align-items:start}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:18px 22px}
.two>div>.card+.card{margin-top:20px}
img{display:block;width:100%;border-radius:14px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:7px 0;border-bottom:1px solid var(--line);text-align:left;font-weight:400;vertical-align:top}
td+td,th+th{text-align:right;padding-left:16px}tr:last-child td{border:0}th{color:var(--soft);font-size:13px}
.bar{height:5px;border-radius:3px;background:var(--line);overflow:hidden;margin:3px 0 2px}
.bar i{display:block;height:100%;background:var(--bar)}
.tiles{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:20px;margin:0 0 28px}
.tiles b{display:block;font-size:30px;line-height:1.25;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:14px}
section.row{display:grid;grid-template-columns:300px minmax(0,1fr);gap:28px;align-items:center;margin:0 0 20px}
.strip{display:grid;grid-template-columns:repeat(5,minmax(0,1fr));gap:10px}
figure{margin:0}.strip img{aspect-ratio:1;object-fit:cover;border-radius:9px;background:var(--line)}
figcaption{font-size:12.5px;color:var(--soft);margin-top:6px;line-height:1.4;font-variant-numeric:tabular-nums}
b.same{color:var(--same)}b.not{color:var(--not)}
svg{display:block;width:100%;height:auto}svg text{font-size:10.5px;fill:var(--soft);font-family:inherit}
.grid{stroke:var(--line)}.limit{stroke:var(--not);stroke-dasharray:5 4;stroke-width:1.3}
svg text.not{fill:var(--not)}
.path{fill:none;stroke:var(--soft);stroke-width:1.5}circle.same{fill:var(--same)}circle.not{fill:var(--not)}
footer{margin-top:64px;color:var(--soft);font-size:14px;max-width:80ch}
code{background:var(--line);padding:1px 5px;border-radius:5px;font-size:.92em}
@media(max-width:860px){.two,.tiles,section.row{grid-template-columns:1fr}h1{font-size:32px}}
"""


def page(
    drawn: Image,
    face: Faces,
    rows: Sequence[Row],
    result: Demo,
    *,
    measured_on: str,
    weights: Sequence[Weights],
    credit: str,
) -> str:
    """The report as one HTML document: no file beside it, no script, nothing from elsewhere."""
    from mien import __version__

    trials = result.trials
    found = sum(trial.found for trial in trials)
    same = sum(is_same(trial, result.threshold) for trial in trials)
    again = result.seconds["the photograph again"]
    tiles = "".join(
        f'<div class="card"><b>{value}</b><span>{text}</span></div>'
        for value, text in (
            (f"{found} of {len(trials)}", "worsened pictures in which the face was found"),
            (f"{same} of {len(trials)}", "in which it was still judged to be the same person"),
            (f"{1000 * again:,.0f} ms", "for everything about the photograph, on this machine"),
        )
    )
    sections = "".join(
        f'<section class="row card"><div><h3>{html.escape(row.title)}</h3>{plot(row, result.threshold)}</div>'
        f'<div class="strip">{"".join(_figure(row, shown, result.threshold) for shown in row.shown)}</div></section>'
        for row in rows
    )
    timing = "".join(
        f"<tr><td>{html.escape(step)}</td><td>{_duration(seconds)}</td></tr>"
        for step, seconds in result.seconds.items()
    )
    networks = "".join(
        f"<tr><td>{html.escape(one.name)}</td><td>{html.escape(one.licence)}</td><td>{_megabytes(one)}</td></tr>"
        for one in weights
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>mien: what one photograph tells</title><style>{STYLE}</style></head><body><main>
<h1>What one photograph tells</h1>
<p class="lead">mien found the face, placed 68 points and both irises, measured pose and quality, and turned the face
into an embedding: offline, with the weights that come with it. Further down the same picture is made worse step by
step.</p>
<div class="two"><div><img alt="The photograph with box, points and head pose drawn in"
src="{data_uri(drawn, width=1100, quality=88)}"></div><div>{_facts(face)}</div></div>
<h2>How likeness falls</h2>
<p class="lead">Cosine similarity between the face of the photograph and the face found in each worsened picture. The
dashed line at {result.threshold:.3f} is where strangers pass for the same person once in {1 / result.fmr:,.0f}
comparisons (measured on {html.escape(measured_on)}).</p>
<div class="tiles">{tiles}</div>
{sections}
<h2>Time and weights</h2>
<div class="two"><div class="card"><table>{timing}</table></div><div class="card"><table>{networks}</table></div></div>
<footer>Made by <code>mien demo</code>, mien {__version__}, {date.today().isoformat()}. {html.escape(credit)}
A similarity says how alike two pictures are to this network. It does not say who somebody is.</footer>
</main></body></html>
"""


def _facts(face: Faces) -> str:
    """What is known of the face, and the components of its quality with a bar each."""
    yaw, pitch, roll = (float(v) for v in face.pose[0])
    x0, y0, x1, y1 = (float(v) for v in face.boxes[0])
    facts: tuple[tuple[str, str], ...] = (
        ("Box", f"{x1 - x0:.0f} × {y1 - y0:.0f} px"),
        ("Detection score", f"{float(face.scores[0]):.2f}"),
        ("Yaw, pitch, roll", f"{yaw:+.0f}°, {pitch:+.0f}°, {roll:+.0f}°"),
        ("Points", f"{face.landmarks3d.shape[1]} in 3D"),
        ("Embedding", f"{face.embeddings.shape[1]} numbers"),
        ("Quality", f"{100 * float(face.quality[0]):.0f} of 100"),
    )
    if {"age", "expressions"} <= set(face.columns):
        best = int(face.expressions[0].argmax())
        facts += (
            ("Looks", f"{float(face.age[0]):.0f} years old"),
            ("Expression", f"{EXPRESSIONS[best]}, {100 * float(face.expressions[0, best]):.0f} %"),
        )
    first = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in facts)
    components = "".join(
        f'<tr><td>{html.escape(name)}<div class="bar"><i style="width:{100 * float(value[0]):.0f}%"></i></div></td>'
        f"<td>{100 * float(value[0]):.0f}</td></tr>"
        for name, value in face.quality_components.items()
    )
    return (
        f'<div class="card"><table>{first}</table></div><div class="card"><table><tr>'
        f"<th>What quality is made of (names of ISO/IEC 29794-5)</th><th>of 100</th></tr>{components}</table></div>"
    )


def _figure(row: Row, shown: Shown, threshold: float) -> str:
    trial = shown.trial
    alt = html.escape(f"{row.title}, {trial.level}", quote=True)
    source = data_uri(shown.drawn, width=240, quality=82)
    kind = "same" if is_same(trial, threshold) else "not"
    outcome = "no face found" if trial.similarity is None else f"{trial.similarity:.2f}"
    quality = "" if trial.quality is None else f" · quality {100 * trial.quality:.0f}"
    return (
        f'<figure><img alt="{alt}" src="{source}"><figcaption>{html.escape(trial.level)}<br>'
        f'<b class="{kind}">{outcome}</b>{quality}</figcaption></figure>'
    )


def plot(row: Row, threshold: float) -> str:
    """Similarity along a row as inline SVG: filled as same or not, with the threshold as dashed line."""
    width, height, left, right, top, bottom = 300, 168, 30, 8, 12, 26
    low, high = -0.2, 1.0
    count = len(row.shown)

    def x(index: int) -> float:
        return left + (width - left - right) * (index + 0.5) / count

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - min(max(value, low), high)) / (high - low)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Similarity to the photograph">']
    for value in (0.0, 0.5, 1.0):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    line = y(threshold)
    parts.append(f'<line class="limit" x1="{left}" x2="{width - right}" y1="{line:.1f}" y2="{line:.1f}"/>')
    # The line breaks where no face was found: there is no similarity to draw there.
    for run in _runs(row):
        points = " ".join(f"{x(index):.1f},{y(similarity):.1f}" for index, similarity in run)
        parts.append(f'<polyline class="path" points="{points}"/>')
    for index, shown in enumerate(row.shown):
        trial = shown.trial
        words = html.escape(trial.level)
        if trial.similarity is None:
            at = height - bottom - 5
            parts.append(f'<text class="not" x="{x(index):.1f}" y="{at}" text-anchor="middle">not found</text>')
        else:
            kind = "same" if is_same(trial, threshold) else "not"
            parts.append(
                f'<circle class="{kind}" cx="{x(index):.1f}" cy="{y(trial.similarity):.1f}" r="4.5">'
                f"<title>{words}: {trial.similarity:.3f}</title></circle>"
            )
        short = _short(trial.level)
        parts.append(f'<text x="{x(index):.1f}" y="{height - 9}" text-anchor="middle">{html.escape(short)}</text>')
    return "".join(parts) + "</svg>"


def _runs(row: Row) -> list[list[tuple[int, float]]]:
    """Neighbouring trials with a similarity: (index, similarity) of each."""
    runs: list[list[tuple[int, float]]] = [[]]
    for index, shown in enumerate(row.shown):
        if shown.trial.similarity is None:
            runs.append([])
        else:
            runs[-1].append((index, shown.trial.similarity))
    return [run for run in runs if len(run) > 1]


def _short(level: str) -> str:
    """A level as it fits under a plot: its number and unit."""
    for tail in (" of 255", " face", " of the", " stops less"):
        level = level.partition(tail)[0] if tail in level else level
    return level.removeprefix("quality ")


def is_same(trial: Trial, threshold: float) -> bool:
    """Whether the worsened face is still called the same person."""
    return trial.similarity is not None and trial.similarity >= threshold


def data_uri(image: Image, *, width: int, quality: int) -> str:
    """The picture as JPEG inside of an address, at most `width` px wide."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(image)
    if picture.width > width:
        high = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, high), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _megabytes(weights: Weights) -> str:
    return f"{weights.size / 1e6:.1f} MB" if weights.size >= 1e5 else f"{weights.size:,} bytes"


# --- The picture -----------------------------------------------------------------------------------------------------

GROUND, PALE, SOFT, SAME, NOT = (14, 20, 24), (233, 237, 239), (140, 154, 163), (92, 242, 195), (245, 160, 106)
ROWS = ("Blur", "Darkness", "Rotation")
"""Rows of the page that the picture shows beside the portrait."""


def hero(image: Image, face: Faces, rows: Sequence[Row], threshold: float) -> Image:
    """(820, 1640, 3): the portrait with what was found, and how similarity falls along three rows of trials."""
    from PIL import Image as Pillow
    from PIL import ImageDraw as Draw

    canvas = Pillow.new("RGB", (1640, 820), GROUND)
    pen = Draw.Draw(canvas)
    side, edge = 740, 40
    _paste(canvas, _portrait(image, face, side), edge, edge, radius=26)
    chosen = [row for row in rows if row.title in ROWS]
    left, gap = edge + side + 44, 12
    tile = (canvas.width - edge - left - 4 * gap) // 5
    top = edge
    for row in chosen:
        pen.text((left, top), row.title, font=_font(23), fill=PALE)
        about = "similarity to the portrait; the tick is the threshold" if row is chosen[0] else ""
        pen.text((canvas.width - edge, top + 4), about, font=_font(17), fill=SOFT, anchor="ra")
        for index, shown in enumerate(row.shown[:5]):
            x = left + index * (tile + gap)
            _paste(canvas, _square(shown.picture, tile), x, top + 38, radius=12)
            _caption(pen, shown.trial, threshold, x, top + 46 + tile, tile)
        top += 256
    return np.array(canvas, np.uint8)


def _caption(pen: ImageDraw, trial: Trial, threshold: float, left: int, top: int, width: int) -> None:
    """A bar as long as the similarity, a tick at the threshold, the level and the number."""
    colour = SAME if is_same(trial, threshold) else NOT
    pen.rounded_rectangle((left, top, left + width, top + 5), 2, fill=(38, 48, 55))
    if trial.similarity is not None and trial.similarity > 0.02:
        pen.rounded_rectangle((left, top, left + round(width * min(trial.similarity, 1)), top + 5), 2, fill=colour)
    tick = left + round(width * min(max(threshold, 0), 1))
    pen.line((tick, top - 2, tick, top + 7), fill=PALE, width=2)
    pen.text((left, top + 13), trial.level.removeprefix("σ ").removesuffix(" less"), font=_font(15), fill=SOFT)
    told = "no face" if trial.similarity is None else f"{trial.similarity:.2f}"
    pen.text((left + width, top + 12), told, font=_font(17), fill=colour, anchor="ra")


def _portrait(image: Image, face: Faces, side: int) -> Image:
    """(side, side, 3): the face, its head and shoulders, with all that was found drawn in at this size."""
    from mien.media import annotate

    x0, y0, x1, y1 = (float(v) for v in face.boxes[0])
    span = min(2.3 * max(x1 - x0, y1 - y0), *image.shape[:2])
    scale = side / span
    drawn = annotate(image, face, scale=scale)
    left = round(min(max((x0 + x1) / 2 * scale - side / 2, 0), drawn.shape[1] - side))
    top = round(min(max((y0 + y1) / 2 * scale - 0.45 * side, 0), drawn.shape[0] - side))
    return _square(drawn[max(0, top) : max(0, top) + side, max(0, left) : max(0, left) + side], side)


def _square(image: Image, side: int) -> Image:
    """The middle of a picture, scaled to (side, side, 3)."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    return np.asarray(ImageOps.fit(Pillow.fromarray(image), (side, side), Pillow.Resampling.LANCZOS), np.uint8)


def _paste(canvas: PillowImage, image: Image, left: int, top: int, *, radius: int) -> None:
    """Puts a picture onto the canvas, with round corners (drawn four times as large, so that they are smooth)."""
    from PIL import Image as Pillow
    from PIL import ImageDraw as Draw

    picture = Pillow.fromarray(image)
    large = Pillow.new("L", (4 * picture.width, 4 * picture.height), 0)
    Draw.Draw(large).rounded_rectangle((0, 0, large.width - 1, large.height - 1), 4 * radius, fill=255)
    canvas.paste(picture, (left, top), large.resize(picture.size, Pillow.Resampling.LANCZOS))


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
