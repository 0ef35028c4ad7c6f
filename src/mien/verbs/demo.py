"""``mien demo``: one real photograph and ten ways to make it worse, as a page that a person can look at."""

from __future__ import annotations

import base64
import html
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Faces

    Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Trial:
    """One degraded picture: what was done, how strongly, whether the face was found, and its likeness to the original."""

    change: str
    level: str
    strength: float
    found: bool
    similarity: float | None
    quality: float | None


@dataclass(frozen=True)
class Demo:
    """What `demo` made: the page, the annotated photograph, the measured trials and the seconds of each stage."""

    report: str
    picture: str
    trials: tuple[Trial, ...]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


def demo(*, photo: str | None = None, out: str = "demo", fmr: float = 1e-3) -> Demo:
    """Runs the main job on one photograph, worsens it step by step, and writes a page with pictures and plots.

    Parameters
    ----------
    photo
        A photograph with one clear face. Default: the public-domain portrait of the astronaut Eileen Collins (NASA)
        that scikit-image ships.
    out
        Folder that receives ``report.html`` (self-contained), ``annotated.jpg`` and ``trials.json``.
    fmr
        False match rate whose threshold is drawn in the plots.

    Returns
    -------
    Demo
        Paths and figures.

    Raises
    ------
    NoFaceFound
        The photograph shows no face that the detector finds.
    """
    from mien.errors import NoFaceFound
    from mien.media import annotate, load_image, save_image
    from mien.verbs.analyze import analyze
    from mien.weights import info

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    image = _astronaut() if photo is None else load_image(photo)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    faces = analyze(image)
    seconds["first analyze, weights loaded"] = time.perf_counter() - began
    began = time.perf_counter()
    faces = analyze(image)
    seconds["analyze again"] = time.perf_counter() - began
    if not len(faces):
        raise NoFaceFound("no face in the photograph", got=photo, hint="give another photo=")
    face = faces.largest()
    drawn = annotate(image, faces)
    picture = folder / "annotated.jpg"
    save_image(picture, drawn, quality=92)

    threshold, reach = _threshold(fmr)
    gallery: list[tuple[str, list[tuple[Trial, Image]]]] = []
    began = time.perf_counter()
    for title, change, levels in _changes(face.boxes[0]):
        worse = [change(image, level) for _, level in levels]
        found = analyze(worse)
        row = []
        for index, ((label, level), worsened) in enumerate(zip(levels, worse, strict=True)):
            here = found.of_image(index)
            one = here.largest() if len(here) else None  # the changes keep one face in the picture
            trial = Trial(
                title, label, float(level), one is not None,
                None if one is None else float(one.embeddings[0] @ face.embeddings[0]),
                None if one is None else float(one.quality[0]),
            )  # fmt: skip
            row.append((trial, annotate(worsened, here)))
        gallery.append((title, row))
    seconds[f"{sum(len(row) for _, row in gallery)} worsened pictures"] = time.perf_counter() - began

    trials = tuple(trial for _, row in gallery for trial, _ in row)
    page = _page(
        drawn,
        face,
        gallery,
        threshold,
        fmr,
        reach,
        seconds,
        [info(n) for n in ("mien-detector", "mien-landmarks", "mien-embedder")],
    )
    report = folder / "report.html"
    report.write_text(page, encoding="utf-8")
    result = Demo(str(report), str(picture), trials, {k: round(v, 3) for k, v in seconds.items()})
    (folder / "trials.json").write_text(result.to_json() + "\n", encoding="utf-8")
    return result


def _astronaut() -> Image:
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise MissingExtra("scikit-image", extra="demo") from error
    return np.ascontiguousarray(astronaut())


def _threshold(fmr: float) -> tuple[float, str]:
    """The calibrated threshold of the bundled embedder at `fmr`, and what it was measured on."""
    from mien.verbs.calibrate import bundled_calibration

    table = bundled_calibration("mien-embedder")
    return table.threshold_at(fmr), f"{table.set}, {table.date}"


Change = Callable[["Image", float], "Image"]


def _changes(box: NDArray[np.float32]) -> list[tuple[str, Change, list[tuple[str, float]]]]:
    """(title, function of image and strength, labelled strengths) of every row of the page."""
    import cv2

    x0, y0, x1, y1 = (float(v) for v in box)
    centre, side = ((x0 + x1) / 2, (y0 + y1) / 2), max(x1 - x0, y1 - y0)

    def blur(image: Image, sigma: float) -> Image:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)

    def shrink(image: Image, width: float) -> Image:
        scale = width / side
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)

    def turn(image: Image, degrees: float) -> Image:
        matrix = cv2.getRotationMatrix2D(centre, -degrees, 1.0)
        return np.asarray(
            cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101), np.uint8
        )

    def darken(image: Image, factor: float) -> Image:
        noise = np.random.default_rng(0).normal(0, 2.0, image.shape)
        return np.clip(image * factor + noise, 0, 255).astype(np.uint8)

    def grain(image: Image, sigma: float) -> Image:
        noise = np.random.default_rng(0).normal(0, sigma, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)

    def jpeg(image: Image, quality: float) -> Image:
        coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
        return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1], np.uint8)

    def cut(image: Image, part: float) -> Image:
        left = int(max(0.0, x0 + part * (x1 - x0)))
        return np.ascontiguousarray(image[:, left:])

    def cover(image: Image, part: float) -> Image:
        worse = image.copy()
        worse[int(y1 - part * (y1 - y0)) : int(y1 + 0.08 * side), int(x0) : int(x1)] = (92, 132, 150)
        return worse

    return [
        ("Blur", blur, [("σ 1 px", 1), ("σ 2 px", 2), ("σ 4 px", 4), ("σ 6 px", 6), ("σ 9 px", 9)]),
        (
            "Resolution",
            shrink,
            [("64 px face", 64), ("40 px", 40), ("24 px", 24), ("16 px", 16), ("10 px", 10)],
        ),
        ("Rotation", turn, [("10°", 10), ("25°", 25), ("45°", 45), ("70°", 70), ("110°", 110)]),
        (
            "Darkness",
            darken,
            [("60 % light", 0.6), ("35 %", 0.35), ("20 %", 0.2), ("10 %", 0.1), ("5 %", 0.05)],
        ),
        ("Noise", grain, [("σ 10", 10), ("σ 25", 25), ("σ 45", 45), ("σ 70", 70), ("σ 100", 100)]),
        ("JPEG", jpeg, [("quality 50", 50), ("25", 25), ("12", 12), ("6", 6), ("2", 2)]),
        (
            "Cut at the side",
            cut,
            [("from the box", 0.0), ("15 % gone", 0.15), ("30 %", 0.3), ("45 %", 0.45), ("60 %", 0.6)],
        ),
        (
            "Covered from below",
            cover,
            [("15 %", 0.15), ("30 %", 0.3), ("45 %", 0.45), ("60 %", 0.6), ("75 %", 0.75)],
        ),
    ]


def _data_uri(image: Image, *, width: int, quality: int = 85) -> str:
    from PIL import Image as Pillow

    picture = Pillow.fromarray(image)
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plot(row: list[tuple[Trial, Image]], threshold: float) -> str:
    """Similarity along the strengths of one row, as a small inline SVG; the dashed line is the threshold."""
    width, height, left, top = 300, 170, 34, 12
    inner_w, inner_h = width - left - 12, height - top - 30
    low, high = -0.2, 1.0

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + inner_w * (index + 0.5) / len(row)
        return x, top + inner_h * (1 - (np.clip(value, low, high) - low) / (high - low))

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="similarity to the original">']
    for value in (0.0, 0.5, 1.0):
        y = place(0, value)[1]
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    y = place(0, threshold)[1]
    parts.append(f'<line class="threshold" x1="{left}" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
    points = [(place(i, t.similarity), t) for i, (t, _) in enumerate(row) if t.similarity is not None]
    parts.append('<polyline class="line" points="' + " ".join(f"{x:.1f},{y:.1f}" for (x, y), _ in points) + '"/>')
    for (x, y), trial in points:
        kind = "same" if trial.similarity is not None and trial.similarity >= threshold else "unsure"
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{html.escape(trial.level)}: {trial.similarity:.3f}</title></circle>'
        )
    for index, (trial, _) in enumerate(row):
        x = place(index, 0)[0]
        if not trial.found:
            parts.append(
                f'<text class="lost" x="{x:.1f}" y="{top + inner_h - 6}" text-anchor="middle">not found</text>'
            )
        short = (
            trial.level.replace("quality ", "")
            .replace(" face", "")
            .replace(" light", "")
            .replace(" gone", "")
            .replace("from the box", "0 %")
        )
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{html.escape(short)}</text>')
    return "".join(parts) + "</svg>"


_STYLE = """
:root{--ink:#1c2730;--soft:#5d6b76;--line:#dde3e7;--paper:#fbfaf7;--card:#fff;--same:#1d7a5f;--unsure:#c05621}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecee;--soft:#9aa7b0;--line:#2d3840;--paper:#12181c;--card:#1a2228;--same:#4fc39b;--unsure:#f0935a}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:44px 24px 80px}h1{font-size:36px;letter-spacing:-.02em;margin:0 0 6px}h2{font-size:22px;margin:52px 0 8px}
p.lead{color:var(--soft);max-width:68ch;margin:0 0 28px}.top{display:grid;grid-template-columns:minmax(0,1.05fr) minmax(0,1fr);gap:32px;align-items:start}
img{display:block;width:100%;border-radius:10px}.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:20px 22px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{padding:6px 0;border-bottom:1px solid var(--line);text-align:left;font-weight:400;vertical-align:top}
td:last-child{text-align:right}tr:last-child td{border:0}th{color:var(--soft);font-size:13px}.bar{height:6px;border-radius:3px;background:var(--line);overflow:hidden;margin-top:11px}
.bar i{display:block;height:100%;background:var(--same)}section.row{display:grid;grid-template-columns:300px minmax(0,1fr);gap:24px;align-items:center;margin:14px 0}
section.row h3{margin:0 0 4px;font-size:16px}.strip{display:grid;grid-template-columns:repeat(5,1fr);gap:10px}.strip figure{margin:0}.strip img{aspect-ratio:1;object-fit:cover;border-radius:8px}
figcaption{font-size:12.5px;color:var(--soft);margin-top:5px;line-height:1.35}figcaption b{color:var(--same)}figcaption b.unsure{color:var(--unsure)}
svg{width:100%;height:auto}svg text{font-size:10.5px;fill:var(--soft)}svg .grid{stroke:var(--line)}svg .threshold{stroke:var(--unsure);stroke-dasharray:5 4;stroke-width:1.4}
svg .line{fill:none;stroke:var(--soft);stroke-width:1.4}svg .same{fill:var(--same)}svg .unsure{fill:var(--unsure)}svg .lost{fill:var(--unsure)}
footer{margin-top:56px;color:var(--soft);font-size:14px}code{background:var(--line);padding:1px 5px;border-radius:4px}
@media(max-width:820px){.top,section.row{grid-template-columns:1fr}}
"""


def _page(
    drawn: Image, face: Faces, gallery: list[tuple[str, list[tuple[Trial, Image]]]], threshold: float, fmr: float, reach: str,
    seconds: dict[str, float], weights: list[Any],
) -> str:  # fmt: skip
    from mien import __version__

    yaw, pitch, roll = (float(v) for v in face.pose[0])
    x0, y0, x1, y1 = (float(v) for v in face.boxes[0])
    facts = [
        ("Box", f"{x1 - x0:.0f} × {y1 - y0:.0f} px"),
        ("Detection score", f"{float(face.scores[0]):.3f}"),
        ("Yaw, pitch, roll", f"{yaw:+.0f}°, {pitch:+.0f}°, {roll:+.0f}°"),
        ("Points", f"{face.landmarks3d.shape[1]} in 3D"),
        ("Embedding", f"{face.embeddings.shape[1]} numbers"),
        ("Quality", f"{100 * float(face.quality[0]):.0f} of 100"),
    ]
    components = "".join(
        f"<tr><td>{html.escape(name)}<div class=bar><i style='width:{100 * float(value[0]):.0f}%'></i></div></td><td>{100 * float(value[0]):.0f}</td></tr>"
        for name, value in face.quality_components.items()
    )
    rows = []
    for title, row in gallery:
        figures = "".join(
            f"<figure><img alt='{html.escape(title)}, {html.escape(t.level)}' src='{_data_uri(im, width=220, quality=80)}'><figcaption>{html.escape(t.level)}<br>{_outcome(t, threshold)}</figcaption></figure>"
            for t, im in row
        )
        rows.append(
            f"<section class=row><div><h3>{html.escape(title)}</h3>{_plot(row, threshold)}</div><div class=strip>{figures}</div></section>"
        )
    timing = "".join(f"<tr><td>{html.escape(k)}</td><td>{1000 * v:.0f} ms</td></tr>" for k, v in seconds.items())
    models = "".join(
        f"<tr><td>{w.name}</td><td>{html.escape(w.licence)}</td><td>{w.size / 1e6:.1f} MB</td><td>{w.macs / 1e9:.2f} GMAC</td></tr>"
        for w in weights
    )
    found = sum(t.found for _, row in gallery for t, _ in row)
    same = sum(t.similarity is not None and t.similarity >= threshold for _, row in gallery for t, _ in row)
    total = sum(len(row) for _, row in gallery)
    return f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">
<title>mien: what one photograph tells</title><style>{_STYLE}</style><main>
<h1>What one photograph tells</h1>
<p class=lead>mien found the face, placed 70 points, measured its pose and quality and turned it into an embedding, offline, with the weights that come with it. Below, the same picture is made worse step by step.</p>
<div class=top><img alt="the photograph with what was found" src="{_data_uri(drawn, width=1024, quality=90)}">
<div><div class=card><table>{"".join(f"<tr><td>{k}</td><td>{v}</td></tr>" for k, v in facts)}</table></div>
<div class=card style="margin-top:16px"><table><tr><th>Quality components, ISO/IEC 29794-5 names</th><th></th></tr>{components}</table></div></div></div>
<h2>How likeness falls</h2>
<p class=lead>Cosine similarity between the original face and the face found in each worsened picture. The dashed line, {threshold:.3f}, is where strangers pass once in {1 / fmr:,.0f} comparisons ({html.escape(reach)}). The face was found in {found} of {total} pictures and still judged the same person in {same}.</p>
{"".join(rows)}
<h2>Time and weights</h2><div class=top><div class=card><table>{timing}</table></div><div class=card><table>{models}</table></div></div>
<footer>mien {__version__}, {date.today().isoformat()}. Made by <code>mien demo</code>. Photograph: Eileen Collins, NASA, public domain, as shipped with scikit-image, unless another was given. A similarity says how alike two pictures are to this network, not who somebody is.</footer></main></html>"""


def _outcome(trial: Trial, threshold: float) -> str:
    if trial.similarity is None:
        return "<b class=unsure>no face found</b>"
    kind = "" if trial.similarity >= threshold else " class=unsure"
    return f"<b{kind}>{trial.similarity:.2f}</b>"
