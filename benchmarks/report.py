"""The tables of a run: made once, shown on the terminal by rich and on the page as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.rows import Machine, Row
from benchmarks.systems import REFERENCE, SYSTEMS

ORDER = ("end to end", "decode", "detect", "landmarks", "crop", "embed")
"""Stages as tables list them: the whole, then its parts as they follow each other."""

ALBUMS = {
    "lfw": "Labeled Faces in the Wild, 144 px, one face each",
    "scenes": "scenes of up to 400 px, held out, from one face to crowds",
    "portrait": "portrait, 512 px, one face",
    "photo": "photo of 12 megapixels, 12 faces",
    "": "networks alone",
}

SPEED = ("stage", "batch", "system", "rate", "spread", "ms each", f"x {REFERENCE}", "x from limit", "limited by")

LEFT = ("limited by",)
"""Columns of words among columns of numbers."""

AIM_END_TO_END, AIM_EMBEDDER = 5.0, 4.0
"""Times dlib's images per second on one core, and times from the FLOP limit at the largest batch: what was aimed at."""


@dataclass(frozen=True)
class Section:
    """One table: a title, a caption, columns, and rows of text. Columns from `numeric` on are set to the right."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: int = 2


def sections(rows: Sequence[Row]) -> list[Section]:
    """All tables of one run, the empty ones left out."""
    made = [
        _aims(rows),
        *_speed(rows),
        _accuracy(rows),
        _start(rows),
        _loading(rows),
        *_gallery(rows),
        _limits(rows),
        _missing(rows),
    ]
    return [section for section in made if section.rows]


def ratio(row: Row, rows: Iterable[Row], reference: str = REFERENCE) -> float | None:
    """How many times the rate of `reference` at the same stage, pictures, batch and threads, in the same run."""
    if row.value is None:
        return None
    for other in rows:
        if other.system == reference and other.value and _place(other) == _place(row):
            return row.value / other.value
    return None


def _place(row: Row) -> tuple[object, ...]:
    return row.threads, row.pictures, row.stage, row.batch, row.metric, row.unit


# ---------------------------------------------------------------------------------------------------- tables


def _aims(rows: Sequence[Row]) -> Section:
    """What was aimed at, and what came out: one line an album."""
    lines = []
    batches = [row.batch for row in rows if row.metric == "rate" and row.system == "mien"]
    for row in rows:
        if row.system != "mien" or row.metric != "rate" or row.value is None:
            continue
        if row.stage == "end to end" and row.unit == "images/s" and row.threads == 1:
            times = ratio(row, rows)
            if times is not None:
                what = f"end to end, one core, {row.pictures}, batch {row.batch}"
                aim, met = f"at least {AIM_END_TO_END:g} x {REFERENCE}", times >= AIM_END_TO_END
                lines.append((what, aim, f"{times:.2f} x", "yes" if met else "no"))
        if row.stage == "embedder network" and row.batch == max(batches) and row.times_from_limit is not None:
            what = f"embedder, {row.threads} {_plural('core', row.threads)}, batch {row.batch}"
            aim, met = f"at most {AIM_EMBEDDER:g} x from the limit", row.times_from_limit <= AIM_EMBEDDER
            lines.append((what, aim, f"{row.times_from_limit:.2f} x", "yes" if met else "no"))
    return Section("Aims", "", ("what", "aim", "measured", "met"), tuple(lines), numeric=4)


def _speed(rows: Sequence[Row]) -> list[Section]:
    rated = [row for row in rows if row.metric == "rate" and row.system != "machine"]
    made = []
    albums = [name for name in ALBUMS if any(row.pictures == name for row in rated)]
    for album in albums:
        for threads in sorted({row.threads for row in rated}):
            mine = [row for row in rated if row.pictures == album and row.threads == threads]
            stages = sorted({row.stage for row in mine}, key=_stage_order)
            lines: list[tuple[str, ...]] = []
            for row in sorted(
                mine, key=lambda r: (stages.index(r.stage), r.batch, r.unit != "images/s", _system_order(r.system))
            ):
                first = not lines or lines[-1][-1] != f"{row.stage}/{row.batch}/{row.unit}"
                name, batch = (row.stage, str(row.batch)) if first else ("", "")
                lines.append((*_speed_line(row, rated, name, batch), f"{row.stage}/{row.batch}/{row.unit}"))
            made.append(
                Section(
                    f"{ALBUMS[album][0].upper()}{ALBUMS[album][1:]}: {threads} {_plural('core', threads)}",
                    "",
                    SPEED,
                    tuple(line[:-1] for line in lines),
                    numeric=3,
                )
            )  # fmt: skip
    return made


def _speed_line(row: Row, rows: Sequence[Row], stage: str, batch: str) -> tuple[str, ...]:
    times = ratio(row, rows)
    return (
        stage, batch, row.system,
        f"{number(row.value)} {row.unit}",
        "" if row.spread is None or not row.value else f"± {100 * row.spread / row.value:.0f} %",
        "" if not row.value else number(1000 / row.value),
        "" if times is None or row.system == REFERENCE else number(times),
        number(row.times_from_limit),
        row.limited_by,
    )  # fmt: skip


def _accuracy(rows: Sequence[Row]) -> Section:
    columns = ("central face found", "faces found", "false faces", "accuracy")
    heads = ("LFW, central face found", "scenes, faces found", "no_faces, false per picture", "LFW, accuracy of pairs")
    measured = [row for row in rows if row.metric in columns]
    lines, notes = [], []
    for system in _systems(measured):
        cells = []
        for metric in columns:
            row = next((row for row in measured if row.system == system and row.metric == metric), None)
            if row is None or row.value is None:
                cells.append("")
                continue
            digits = 3 if metric == "false faces" else 2
            spread = "" if row.spread is None else f" ± {row.spread:.{digits}f}"
            cells.append(f"{row.value:.{digits}f}{'' if metric == 'false faces' else ' %'}{spread}")
            if row.note and metric == "accuracy":
                notes.append(f"{system}: {row.note}.")
        lines.append((system, *cells))
    caption = "Each at its own default threshold; ± one standard error. " + " ".join(notes) if lines else ""
    return Section("How right they are on these pictures", caption.strip(), ("system", *heads), tuple(lines), numeric=1)


def _start(rows: Sequence[Row]) -> Section:
    measured = [row for row in rows if row.stage == "start" and row.value is not None]
    lines = []
    for system in [name for name in ("python", *_systems(measured)) if any(r.system == name for r in measured)]:

        def cell(metric: str, batch: int, system: str = system) -> str:
            for row in measured:
                if (row.system, row.metric, row.batch) == (system, metric, batch):
                    return f"{number(row.value)} {row.unit}"
            return ""

        lines.append(
            (system, cell("import", 0), cell("first result", 0), cell("peak memory", 1), cell("peak memory", 32))
        )
    return Section(
        "From nothing to the first result",
        "Fresh processes on the portrait of 512 px: from the start of the interpreter until its face is found and, but "
        "for mtcnn, embedded. Memory is the most that was resident, after one picture and after 32 in one call.",
        ("system", "import", "first result", "peak memory, 1 picture", "peak memory, 32"),
        tuple(lines),
        numeric=1,
    )


def _loading(rows: Sequence[Row]) -> Section:
    measured = [row for row in rows if row.stage == "loading" and row.value is not None]
    lines = []
    for system in dict.fromkeys(row.system for row in measured):
        cells = []
        for threads in (1, 2):
            row = next((row for row in measured if (row.system, row.threads) == (system, threads)), None)
            if row is None or not row.value:
                cells += ["", ""]
                continue
            spread = f" ± {100 * row.spread / row.value:.0f} %" if row.spread else ""
            cells += [f"{number(row.value)}{spread}", number(row.times_from_limit)]
        lines.append(("decoding alone" if system == "machine" else system, *cells))
    note = next((row.note for row in measured if row.system == "machine"), "")
    return Section(
        "Loading aligned faces in batches of 128",
        "Pictures per second from the disk's cache into shuffled uint8 batches with labels. The limit, measured in the "
        f"same rounds, is {note}."
        if measured
        else "",
        ("system", "1 core", "x from limit", "2 cores", "x from limit "),
        tuple(lines),
        numeric=1,
    )


GALLERY = (
    ("recall", "recall", "{:.4f}"),
    ("FPIR difference", "FPIR", "{:+.4f}"),
    ("score error", "score error", "{:.6f}"),
    ("enrolled, searched", "add, ms", "{:.0f}"),
    ("opening", "open, s", "{:.2f}"),
    ("building", "build /s", "{:,.0f}"),
    ("disk", "disk", "{:.0f}"),
    ("memory", "memory", "{:.0f}"),
)
"""What the second table of a gallery shows: metric, head, form."""


def _gallery(rows: Sequence[Row]) -> list[Section]:
    """Searches of each gallery, and what else there is to say of it."""
    mine = [row for row in rows if row.stage == "gallery" and row.value is not None and row.system != "machine"]
    lines, told = [], []
    for gallery in dict.fromkeys(row.pictures for row in mine):
        here = [row for row in mine if row.pictures == gallery]
        for batch in sorted({row.batch for row in here if row.metric == "searches"}):
            for row in (row for row in here if row.metric == "searches" and row.batch == batch):
                all_bytes = ratio(row, here, "mien, all bytes")
                lines.append(
                    (
                        gallery, str(batch), row.system, f"{number(row.value)} /s",
                        number(1000 * batch / row.value if row.value else None), number(all_bytes),
                        number(row.times_from_limit),
                    )
                )  # fmt: skip
        for system in dict.fromkeys(row.system for row in here):
            found = {row.metric: row for row in here if row.system == system}
            cells = [form.format(found[name].value) if name in found else "" for name, _, form in GALLERY]
            if any(cells):
                told.append((gallery, system, *cells))
    notes = (
        "Simulated people, as wide as the bundled embedder's of real ones; the limit is the bandwidth of a plain sum."
    )
    heads = ("gallery", "batch", "system", "searches", "ms a call", "x all bytes", "x from limit")
    return [
        Section("Search among people", notes if lines else "", heads, tuple(lines), numeric=3),
        Section(
            "What a gallery's index costs, and what it misses",
            "Recall of mated probes that exact float32 search identifies; how the FPIR of strangers differs from its "
            "1 %; the most that a score differs; from adding a face until another reader has found it; opening and the "
            "first search; faces written a second; bytes a face of the files, and of memory besides the mapped files. "
            "A graph is of fewer people (see the results)."
            if told
            else "",
            ("gallery", "system", *(head for _, head, _ in GALLERY)),
            tuple(told),
            numeric=2,
        ),
    ]


def _limits(rows: Sequence[Row]) -> Section:
    lines = [
        (row.stage, row.pictures, str(row.batch or ""), str(row.threads), f"{number(row.value)} {row.unit}", row.note)
        for row in rows
        if row.system == "machine" and row.stage not in ("loading", "gallery") and row.value is not None
    ]
    return Section(
        "What this machine can do",
        "Measured in the same rounds as everything above. A network's limit is 2 MACs / GEMM rate, or the time to read "
        "its parameters where that is longer; that of decoding is OpenCV's plain decoder; that of the whole their sum.",
        ("what", "pictures", "batch", "cores", "rate", "how"),
        tuple(lines),
        numeric=9,
    )


def _missing(rows: Sequence[Row]) -> Section:
    lines = [(row.system, str(row.threads or ""), row.metric, row.note) for row in rows if row.value is None]
    unique = tuple(dict.fromkeys((system, metric, note) for system, _, metric, note in lines))
    return Section("What could not be measured", "", ("system", "what", "why"), unique, numeric=9)


def number(value: float | None) -> str:
    """Three significant digits, without powers of ten: ``0.123``, ``12.3``, ``1,230``."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:,.{digits}f}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"


def _stage_order(stage: str) -> tuple[int, str]:
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), stage)


def _system_order(system: str) -> tuple[int, str]:
    return (SYSTEMS.index(system) if system in SYSTEMS else len(SYSTEMS), system)


def _systems(rows: Iterable[Row]) -> list[str]:
    return sorted({row.system for row in rows if row.system not in ("machine", "python")}, key=_system_order)


# -------------------------------------------------------------------------------------------------- rendering


def show(machine: Machine, rows: Sequence[Row], console: Console) -> None:
    """The tables on a terminal."""
    console.print(Text(machine.text, style="dim"))
    for section in sections(rows):
        table = Table(
            title=section.title, title_justify="left", title_style="bold cyan", caption=section.caption or None,
            caption_justify="left", header_style="bold", border_style="bright_black",
            box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for index, column in enumerate(section.columns):
            right = index >= section.numeric and column not in LEFT
            words = column in ("how", "why", "what")  # the only cells long enough to be broken
            table.add_column(column, justify="right" if right else "left", no_wrap=not words, overflow="fold")
        for index, line in enumerate(section.rows):
            if index and line[0] and not section.rows[index - 1][0]:
                table.add_section()  # a new stage, after one of several lines
            table.add_row(*(Text(cell) for cell in line), style="bold" if "mien" in line else None)
        console.print()
        console.print(table)


def markdown(machine: Machine | None, rows: Sequence[Row]) -> str:
    """The page: the tables of the newest run, and how to make one's own."""
    lines = [
        "# Benchmarks",
        "",
        "<!-- Made by `python -m benchmarks --page` from results/bench.csv; edit benchmarks/report.py instead. -->",
        "",
        "```",
        "make bench                      # half an hour or more, dlib being slow on large photos; makes this page anew",
        "python -m benchmarks --quick    # about two minutes; `--help` shows how to name systems and stages",
        "```",
        "",
        "Every number of a table comes from one run: systems take turns, round by round, in processes bound to one and",
        "to two cores; rates are medians, spreads half the distance between quartiles.",
        f"`x {REFERENCE}` divides two rates of the same run, `x from limit` the most this machine can do by what was",
        "reached.",
        f"`{REFERENCE}` looks at pictures at the size they have, `dlib x2` at twice that, the default of",
        "`face_recognition`; `mtcnn` is facenet-pytorch's.",
        "",
    ]
    if machine is None:
        lines += ["No run has been recorded yet.", ""]
        return "\n".join(lines)
    lines += [f"{machine.text}.", ""]
    for section in sections(rows):
        lines += [f"## {section.title}", ""]
        if section.caption:
            lines += [section.caption, ""]
        lines.append("| " + " | ".join(section.columns) + " |")
        right = [index >= section.numeric and name not in LEFT for index, name in enumerate(section.columns)]
        lines.append("|" + "|".join("---:" if r else "---" for r in right) + "|")
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in section.rows]
        lines.append("")
    return "\n".join(lines)
