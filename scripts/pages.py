"""Rewrite the generated blocks of the README and of the documentation.

    python scripts/pages.py            # rewrite
    python scripts/pages.py --check    # say which pages are out of date, and exit with 1 if one is

A block lies between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``. Everything in it comes from the code: the verbs'
signatures and docstrings, the declarations of `mien.weights`, the cards of `mien.papers`, the tree of `mien.errors`,
and CSV files under ``results/``. Nothing outside of the blocks is touched.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mien.errors
from mien.claims import harness
from mien.cli import COMMANDS, read_docstring
from mien.papers import TASKS, Card, cards
from mien.papers.results import Row
from mien.weights import list_weights
from mien.weights.declare import BUNDLED, Figure, Weights

ROOT = Path(__file__).parents[1]

HEADLINES: dict[str, tuple[tuple[str, str], ...]] = {
    "detection": (
        ("average precision at IoU 0.5", "AP at IoU 0.5"),
        ("central face found", "central face found on LFW"),
        ("false faces per picture", "false faces per picture"),
    ),
    "landmarks": (("NME, inter-ocular", "NME on unseen people"), ("AUC up to 8 %", "AUC up to 8 %")),
    "reading": (
        ("expression accuracy", "expression on FER+, eight classes"),
        ("age group within one", "age within one group of FairFace"),
    ),
    "parsing": (("mean F1 of six classes", "mean F1 on FASSEG, never trained on"),),
    "embedding": (
        ("accuracy", "LFW accuracy, folds 1 to 5"),
        ("accuracy, CFP-FF", "CFP-FF"),
        ("accuracy, CFP-FP", "CFP-FP"),
    ),
}
"""Figures of the README by task: the metric, and a short name for it."""

DISCARDED = re.compile(r"FNMR with (\d+) ?% discarded, quality by (\w+)")


# --- Verbs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """One command: its words, the panel it stands in, and its function with the place it is imported from."""

    words: str
    panel: str
    function: Callable[..., Any]
    place: str


def verbs() -> Iterator[Verb]:
    """Every command of the command line, in the order of its help."""
    for panel, names in COMMANDS.items():
        for name in names:
            module = importlib.import_module(f"mien.verbs.{name}")
            function = getattr(module, name, None)
            parts = {name: function} if callable(function) else {f"{name} {k}": v for k, v in module.COMMANDS.items()}
            for words, part in parts.items():
                yield Verb(words, panel, part, f"{module.__name__}.{part.__name__}")


def verbs_table() -> str:
    """Words, and what the first sentence of the docstring says."""
    rows = [(f"`mien {verb.words}`", read_docstring(verb.function).summary) for verb in verbs()]
    return table(("verb", "what it does"), rows)


def verbs_reference() -> str:
    """Per panel and verb: the synopsis of the command, and the function's documentation as the site renders it."""
    lines: list[str] = []
    panel = ""
    for verb in verbs():
        if verb.panel != panel:
            panel = verb.panel
            lines += [f"## {panel}", ""]
        lines += [
            f"### {verb.words}",
            "",
            "```",
            synopsis(verb),
            "```",
            "",
            f"::: {verb.place}",
            "    options:",
            "      heading_level: 4",
            "      show_root_toc_entry: false",
            "",
        ]
    return "\n".join(lines).strip()


def synopsis(verb: Verb) -> str:
    """``mien verify A B [options]``, from the signature."""
    words = []
    for parameter in inspect.signature(verb.function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            words.append("[KEY=VALUE …]")
        elif parameter.name == "slugs":
            words.append("[SLUG …]")
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            word = "SOURCE …" if parameter.name == "source" else parameter.name.upper()
            words.append(word if parameter.default is inspect.Parameter.empty else f"[{word}]")
    return " ".join(["mien", verb.words, *words, "[options]"])


# --- Weights ---------------------------------------------------------------------------------------------------------

NONE_YET = "*No weights are bundled in this checkout.*"


def bundled() -> list[Weights]:
    """The weights that come with the package, in the order they are used in."""
    order = ("detection", "landmarks", "embedding")
    found = [weights for weights in list_weights() if weights.bundled]
    return sorted(found, key=lambda w: (order.index(w.task) if w.task in order else len(order), w.name))


def weights_table() -> str:
    """One row a network, for the README."""
    rows = []
    for weights in bundled():
        told = []
        for metric, short in HEADLINES.get(weights.task, ()):
            figure = ungrouped(weights, metric)
            if figure is not None:
                told.append(f"{short}: {figure.text}")
        work = "" if weights.macs is None else f"{weights.macs / 1e9:.2f} GMAC at {shape(weights)}"
        rows.append(
            (f"`{weights.name}`", f"{weights.size / 1e6:.1f} MB", work, "<br>".join(told), weights.licence),
        )
    return table(("weights", "size", "work", "measured", "licence"), rows) if rows else NONE_YET


def weights_page() -> str:
    """A section a network: what it is, where it comes from, how well it does, and for whom."""
    return "\n\n".join(weights_section(weights) for weights in bundled()) or NONE_YET


def weights_section(weights: Weights) -> str:
    """Everything that is declared of one file of weights."""
    parts = [f"## {weights.name}", weights.notes]
    facts = [
        ("task", weights.task),
        ("file", f"`{weights.file}`, {weights.size / 1e6:.2f} MB"),
        ("SHA-256", f"`{weights.sha256}`"),
        ("network", f"`{weights.build.replace(':', '.')}`"),
        ("parameters", "" if weights.parameters is None else f"{weights.parameters:,}"),
        ("work", "" if weights.macs is None else f"{weights.macs / 1e6:,.0f} million MACs at {shape(weights)}"),
        ("input", weights.input.text),
        ("embedding", "" if weights.embedding is None else embedding_text(weights)),
        ("threshold", "" if weights.threshold is None else f"{weights.threshold:g}"),
        ("licence", weights.licence),
        ("made by", weights.source),
    ]
    parts.append(table(("", ""), [fact for fact in facts if fact[1]]))
    if weights.trained_on:
        rows = [(one.name, one.licence, one.source) for one in weights.trained_on]
        parts += ["### Trained on", table(("set", "licence", "source"), rows)]
    if weights.command:
        parts += ["```\n" + weights.command.strip() + "\n```"]
    plain = [figure for figure in weights.figures if not figure.group and not DISCARDED.fullmatch(figure.metric)]
    if plain:
        parts += ["### Figures", figures_table(plain)]
    if weights.calibration:
        parts += ["### Calibration", calibration_table(weights)]
    discarded = [figure for figure in weights.figures if DISCARDED.fullmatch(figure.metric)]
    if discarded:
        parts += ["### Does quality foretell errors?", discard_table(discarded)]
    grouped = [figure for figure in weights.figures if figure.group]
    if grouped:
        parts += ["### By group", groups_tables(grouped)]
    return "\n\n".join(part for part in parts if part)


def embedding_text(weights: Weights) -> str:
    """Length, and how it is made."""
    assert weights.embedding is not None
    flip = ", mean of the crop and its mirror image" if weights.embedding.flip else ""
    return f"{weights.embedding.dim} numbers{flip}; compared by cosine"


def shape(weights: Weights) -> str:
    """``640 x 480 px`` (width x height) of the input that MACs were counted on."""
    if weights.macs_input is None:
        return f"{weights.input.size} px" if weights.input.size else "its input"
    height, width = weights.macs_input[2:]
    return f"{width} x {height} px"


def figures_table(figures: Sequence[Figure]) -> str:
    """Figures with the number of their protocol, and the protocols below."""
    protocols = list(dict.fromkeys((figure.protocol, figure.date) for figure in figures))
    rows = []
    for figure in figures:
        number = protocols.index((figure.protocol, figure.date)) + 1
        value, interval = split_text(figure)
        count = "" if figure.n is None else f"{figure.n:,}"
        rows.append((figure.metric, f"**{value}**", interval, figure.data, count, str(number)))
    notes = "\n".join(f"{i}. {one[:1].upper()}{one[1:]}. {day}." for i, (one, day) in enumerate(protocols, 1))
    head = ("figure", "value", "95 % interval", "data", "n", "protocol")
    return table(head, rows) + "\n\nProtocols:\n\n" + notes


def calibration_table(weights: Weights) -> str:
    """Thresholds and the rates they stand for."""
    rows = [
        (
            f"{point.fmr:g}",
            f"{point.threshold:.4f}",
            "" if point.low is None or point.high is None else f"{point.low:.4f} to {point.high:.4f}",
            "" if point.fnmr is None else f"{100 * point.fnmr:.2f} %",
        )
        for point in sorted(weights.calibration, key=lambda p: -p.fmr)
    ]
    where = weights.calibration[0].data
    about = f"Measured on {where}. FNMR is that of all pairs of one person in the same pictures."
    return table(("FMR", "threshold (cosine)", "95 % interval", "FNMR"), rows) + f"\n\n{about}"


def discard_table(figures: Sequence[Figure]) -> str:
    """Error versus discard: a row a method, a column a share."""
    value: dict[tuple[str, int], str] = {}
    for figure in figures:
        found = DISCARDED.fullmatch(figure.metric)
        assert found is not None
        value[found[2], int(found[1])] = split_text(figure)[0]
    methods = list(dict.fromkeys(method for method, _ in value))
    shares = sorted({share for _, share in value})
    rows = [(method, *(value.get((method, share), "") for share in shares)) for method in methods]
    about = figures[0]
    text = f"{about.data}; {about.protocol}. {about.date}."
    return table(("quality by", *(f"FNMR, {share} % discarded" for share in shares)), rows) + f"\n\n{text}"


def groups_tables(figures: Sequence[Figure]) -> str:
    """One table an axis (race, gender, age); a column a metric, a row a group, all faces last."""
    metrics = list(dict.fromkeys(figure.metric for figure in figures))
    by_axis: dict[str, dict[str, dict[str, Figure]]] = {}
    everybody: dict[str, Figure] = {}
    for figure in figures:
        axis, colon, label = figure.group.partition(": ")
        if colon:
            by_axis.setdefault(axis, {}).setdefault(label, {})[figure.metric] = figure
        else:
            everybody[figure.metric] = figure
    parts = []
    for axis, groups in by_axis.items():
        rows = [
            (label, *(groups[label][m].text if m in groups[label] else "" for m in metrics)) for label in sorted(groups)
        ]
        rows.append(("**all**", *(everybody[m].text if m in everybody else "" for m in metrics)))
        parts.append(table((axis, *metrics), rows))
    told = list(dict.fromkeys((f.metric, f.data, f.protocol, f.date) for f in figures if ": " in f.group))
    notes = [f"- {metric}: {data}; {protocol}. {day}." for metric, data, protocol, day in told]
    return "\n\n".join([*parts, "\n".join(notes)])


def split_text(figure: Figure) -> tuple[str, str]:
    """The value, and its interval without brackets."""
    value, _, interval = figure.text.partition(" [")
    return value, interval.rstrip("]").replace(", ", " to ")


def ungrouped(weights: Weights, metric: str) -> Figure | None:
    """The figure of all faces, if it was measured."""
    return next((figure for figure in weights.figures if figure.metric == metric and not figure.group), None)


def stale_figures(file: Path = BUNDLED / "figures.json") -> list[str]:
    """Names of bundled weights whose measured figures belong to another file."""
    if not file.is_file():
        return []
    noted = json.loads(file.read_text(encoding="utf-8"))
    return [w.name for w in bundled() if noted.get(w.name, {}).get("sha256", w.sha256) != w.sha256]


# --- Errors, trials --------------------------------------------------------------------------------------------------


def errors_tree() -> str:
    """The tree that the docstring of `mien.errors` draws."""
    lines = (mien.errors.__doc__ or "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("MienError"))
    stop = next(i for i in range(start, len(lines)) if not lines[i].strip())
    return "```\n" + "\n".join(line.removeprefix("    ") for line in lines[start:stop]) + "\n```"


def ablation(file: Path | None = None) -> str:
    """What each trick of the embedder's training gives, from ``results/embedder_ablation.csv``.

    One row a setting, the first being the reference; accuracy and AUC are means over seeds, differences of accuracy are
    in percentage points, with the range over seeds where there are several.
    """
    file = file or ROOT / "results" / "embedder_ablation.csv"
    if not file.is_file():
        return "*Not measured yet: `python scripts/ablate_embedder.py`.*"
    with file.open(encoding="utf-8", newline="") as stream:
        runs = list(csv.DictReader(stream))
    by_setting: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        by_setting.setdefault(run["setting"], []).append(run)

    def mean(setting: str, column: str) -> float:
        values = [100 * float(run[column]) for run in by_setting[setting]]
        return sum(values) / len(values)

    reference = next(iter(by_setting))
    rows = []
    for setting, mine in by_setting.items():
        accuracies = [100 * float(run["accuracy"]) for run in mine]
        many = f" ({min(accuracies):.2f} to {max(accuracies):.2f})" if len(mine) > 1 else ""
        difference = mean(setting, "accuracy") - mean(reference, "accuracy")
        rows.append(
            (
                setting,
                f"{mean(setting, 'accuracy'):.2f} %{many}",
                f"{mean(setting, 'auc'):.2f} %",
                "" if setting == reference else f"{difference:+.2f}",
            )
        )
    seeds, steps = max(len(mine) for mine in by_setting.values()), "/".join(sorted({run["steps"] for run in runs}))
    batch = "/".join(sorted({run["batch"] for run in runs}))
    days = sorted({run["date"] for run in runs})
    about = (
        f"{steps} steps of {batch} pictures, {seeds} seed{'s' if seeds > 1 else ''} a setting, "
        f"{days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'}."
    )
    return table(("setting", "accuracy", "AUC", "difference"), rows) + f"\n\n{about}"


# --- Papers ----------------------------------------------------------------------------------------------------------


def papers_page(found: Sequence[Card] | None = None) -> str:
    """How many there are, a table a wing, and what came of every claim that was run."""
    found = cards() if found is None else found
    done = sum(card.network == "complete" for card in found)
    ran = sum(bool(card.results) for card in found)
    parts = [f"{len(found)} papers: {done} implemented, {len(found) - done} planned, {ran} with claims that were run."]
    for task in TASKS:
        mine = [card for card in found if card.paper.task == task]
        if mine:
            head = ("paper", "published", "slug", "network", "converter", "claim", "reached by")
            parts += [f"## {task.capitalize()}", table(head, map(paper_row, mine))]
    parts += ["## Results", results_table([row for card in found for row in card.results])]
    return "\n\n".join(parts)


def paper_row(card: Card) -> tuple[str, ...]:
    """One paper in the index; its title leads to where it can be read, its slug to its page."""
    paper = card.paper
    title = f"[{paper.title}]({paper.url})" if paper.url else paper.title
    slug = f"[{paper.slug}](papers/{paper.slug}.md)" if card.network == "complete" else paper.slug
    verb = f"`{paper.verb}`" if card.network == "complete" else ""
    return title, f"{paper.venue} {paper.year}", slug, card.network, card.converter, card.claim, verb


def results_table(rows: Sequence[Row]) -> str:
    """One row a claim, scale and data: the latest run. Numbers are means over seeds."""
    if not rows:
        return "*No claim has been run yet: `mien reproduce`.*"
    known = {(one.slug, one.name): one for slug in harness.slugs() for one in harness.claims_of(slug)}
    lines = []
    for row in rows:
        claim = known.get((row.slug, row.claim))
        arrow = "" if claim is None else f", {claim.better} is better"
        needed = "" if claim is None else f"> {claim.margin:g}"
        lines.append(
            (
                f"{row.slug}: {row.claim}",
                f"{row.metric}{arrow}",
                f"{row.data}, {row.scale}",
                f"{row.baseline:.4g}",
                f"{row.idea:.4g}",
                f"{row.difference:+.4g} ± {row.spread:.2g}",
                needed,
                f"**{row.verdict}**",
                f"{len(row.seeds)}",
                f"{row.seconds:.0f} s, {row.machine}",
                f"{row.date}, {row.commit}",
            )
        )
    head = (
        "claim", "metric", "data, scale", "baseline", "idea", "difference ± spread", "needed", "verdict", "seeds",
        "time", "date, commit",
    )  # fmt: skip
    said = {key: one.says for key, one in known.items() if key in {(row.slug, row.claim) for row in rows}}
    notes = [f"- **{slug}: {name}.** {says}" for (slug, name), says in sorted(said.items())]
    return "\n\n".join([table(head, lines), *(["\n".join(notes)] if notes else [])])


def results_of(slug: str) -> Callable[[], str]:
    """What writes the results of one paper, for its page."""
    return lambda: results_table(next(card for card in cards() if card.paper.slug == slug).results)


# --- Pages -----------------------------------------------------------------------------------------------------------

PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"verbs": verbs_table, "weights": weights_table},
    "docs/weights.md": {"weights": weights_page},
    "docs/verbs.md": {"verbs": verbs_reference},
    "docs/errors.md": {"errors": errors_tree},
    "docs/training.md": {"ablation": ablation},
    "docs/papers.md": {"papers": papers_page},
    **{f"docs/papers/{slug}.md": {"claims": results_of(slug)} for slug in harness.slugs()},
}
"""The blocks of each page, and what writes them; a paper's page has one once the paper has claims."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped, line ends become blanks."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *(line(row) for row in rows)])


def filled(text: str, blocks: dict[str, Callable[[], str]], page: str) -> str:
    """The page with its blocks written anew; a block that is not there exactly once is an error."""
    for name, make in blocks.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise SystemExit(f"{page} needs the block {begin} … {end}, once")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def outdated(root: Path = ROOT, *, rewrite: bool = False) -> list[str]:
    """Pages whose blocks are not what the code says; with `rewrite`, they are after this."""
    changed = []
    for page, blocks in PAGES.items():
        path = root / page
        old = path.read_text(encoding="utf-8")
        new = filled(old, blocks, page)
        if new != old:
            changed.append(page)
            if rewrite:
                path.write_text(new, encoding="utf-8")
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    stale = stale_figures()
    if stale:
        print(f"figures of other files than those bundled: {', '.join(stale)}; run scripts/measure.py", file=sys.stderr)
        return 1
    changed = outdated(rewrite=not check)
    for page in changed:
        print(f"{page} {'is out of date: run python scripts/pages.py' if check else 'rewritten'}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
