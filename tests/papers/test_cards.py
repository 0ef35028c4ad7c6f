"""Cards: the forty, what may be written in one, citations, states, and the table of results."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mien.papers
from mien.errors import OptionError, TableError
from mien.papers import TASKS, Network, Paper, cards, discover, get, paper, slugs, weights
from mien.papers import results as module
from mien.papers.planned import PLANNED
from mien.papers.results import COLUMNS, Row, append, latest, read, summary

FORTY = (
    "arc2face", "aspl", "casual_conversations", "causal_bias_benchmark", "cifar10_humans", "clip2protect",
    "cnn_off_the_shelf", "dfdnet", "emotion_gcn", "face_pretraining", "facechain", "faceid_6m", "facenet",
    "facexformer", "fan", "fer_xai", "forensic_evasion", "frame_skipping_pad", "fsfm", "idiff_face",
    "image_text_matching", "instantid", "lnet_anet", "mos", "petalface", "recognizability", "rethinking_mi", "rtnet",
    "sface", "stylegan_for_facerec", "swinface", "t2v_ddpm", "tp_gan", "unif2ace", "unpg", "vec2face", "vipguard",
    "webface260m", "wilddeepfake", "wsc_swap",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))


def example(**more: Any) -> Paper:
    about: dict[str, Any] = {
        "slug": "made_up", "title": "Made Up", "authors": ("Ada Lovelace", "Charles Babbage"), "venue": "CVPR",
        "year": 2024, "arxiv": "2401.00001", "code": "https://example.org/code", "code_licence": "MIT",
        "task": "audit", "verb": "mien audit",
    }  # fmt: skip
    return Paper(**{**about, **more})


# --- The forty -------------------------------------------------------------------------------------------------------


def test_the_forty_are_those_of_the_list() -> None:
    assert tuple(card.paper.slug for card in cards()) == FORTY
    assert len(FORTY) == len(set(FORTY)) == 40


def test_what_is_planned_has_no_code() -> None:
    planned = [one.slug for one in PLANNED]
    assert planned == sorted(set(planned))
    assert not set(planned) & set(slugs()), "take the card out of papers/planned.py: it stands in the module now"


def test_no_two_papers_share_a_title_or_an_identifier() -> None:
    facts = [card.paper for card in cards()]
    for name in ("title", "arxiv"):
        values = [getattr(one, name) for one in facts]
        assert len(values) == len(set(values)), name
    assert {one.task for one in facts} == set(TASKS), "a wing without a paper"


def test_cards_of_what_is_planned_need_no_torch() -> None:
    code = "import sys; from mien.papers.planned import PLANNED; PLANNED[0].bibtex(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- What may be written in a card -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slug", "made-up"),
        ("slug", "Made_up"),
        ("slug", "made__up"),
        ("title", ""),
        ("title", " Made Up"),
        ("authors", "Ada Lovelace"),
        ("authors", ["Ada Lovelace"]),
        ("authors", ("Lovelace, Ada",)),
        ("authors", ("",)),
        ("venue", ""),
        ("year", 24),
        ("arxiv", "2401.00001v2"),
        ("arxiv", "arXiv:2401.00001"),
        ("code", "github.com/a/b"),
        ("code", None),
        ("code_licence", " "),
        ("task", "recogniton"),
        ("verb", "audit"),
        ("verb", "mien audit "),
        ("doi", "https://doi.org/10.1000/1"),
        ("published", "book"),
    ],
)
def test_a_malformed_card_is_refused_where_it_is_written(field: str, value: Any) -> None:
    with pytest.raises(OptionError, match=r"The card of paper .* is wrong"):
        example(**{field: value})


def test_what_is_not_known_may_be_left_out() -> None:
    bare = example(authors=(), arxiv=None, code=None, code_licence=None)
    assert bare.url is None
    assert "author" not in bare.bibtex()
    assert example(code_licence=None).code_licence is None
    assert example(arxiv="cs/0501001").url == "https://arxiv.org/abs/cs/0501001"


def test_a_network_takes_its_arguments_by_name() -> None:
    def by_place(width: int) -> Any: ...
    def by_name(*, width: int = 3) -> Any: ...
    def open_ended(**more: int) -> Any: ...

    def inputs(n: int) -> tuple[Any, ...]:
        return ()

    with pytest.raises(OptionError, match="by place"):
        Network(build=by_place, small={}, inputs=inputs)
    with pytest.raises(OptionError, match="does not take"):
        Network(build=by_name, small={"wide": 3}, inputs=inputs)
    assert dict(Network(build=open_ended, small={"wide": 3}, inputs=inputs).small) == {"wide": 3}
    small = {"width": 3}
    network = Network(build=by_name, small=small, inputs=inputs)
    small["width"] = 5
    assert network.small["width"] == 3
    with pytest.raises(TypeError):
        network.small["width"] = 5  # type: ignore[index]


def test_parameters_are_counted_without_making_them() -> None:
    from torch import nn

    def vast(*, width: int = 1_000_000) -> nn.Module:
        network = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))
        network[1].requires_grad_(False)
        return network

    network = Network(build=vast, small={"width": 2}, inputs=lambda n: ())
    assert network.parameters() == 1_000_000**2 + 1_000_000


# --- Citations -------------------------------------------------------------------------------------------------------


def entry(text: str) -> tuple[str, str, dict[str, str]]:
    """Kind, key and fields of a BibTeX entry; fails where braces do not match."""
    head = re.match(r"@(\w+)\{(\w+),\n", text)
    assert head is not None
    assert text.endswith("\n}")
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        assert depth > 0 or at < text.index("{") or at == len(text) - 1
    found = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", text, flags=re.MULTILINE))
    assert len(found) == len(text.splitlines()) - 2
    return head[1], head[2], found


def test_a_citation_says_what_the_card_says() -> None:
    kind, key, found = entry(example(doi="10.1000/x_1").bibtex())
    assert (kind, key) == ("inproceedings", "made_up")
    assert found == {
        "title": "{Made Up}",
        "author": "Ada Lovelace and Charles Babbage",
        "booktitle": "CVPR",
        "year": "2024",
        "doi": "10.1000/x_1",
        "eprint": "2401.00001",
        "archiveprefix": "arXiv",
        "url": "https://doi.org/10.1000/x_1",
    }
    assert entry(example(published="journal").bibtex())[::2] == ("article", {
        "title": "{Made Up}", "author": "Ada Lovelace and Charles Babbage", "journal": "CVPR", "year": "2024",
        "eprint": "2401.00001", "archiveprefix": "arXiv", "url": "https://arxiv.org/abs/2401.00001",
    })  # fmt: skip
    assert entry(example(published="preprint").bibtex())[0] == "misc"
    assert entry(example(title="100 % of A & B_c").bibtex())[2]["title"] == r"{100 \% of A \& B\_c}"


@pytest.mark.parametrize("slug", FORTY)
def test_every_paper_can_be_cited(slug: str) -> None:
    _, key, found = entry(paper(slug).bibtex())
    assert key == slug
    assert {"title", "year", "url"} <= set(found)


# --- Modules ---------------------------------------------------------------------------------------------------------

SOURCE = '''"""Made up."""

from mien.papers.card import Paper

PAPER = Paper(
    slug="made_up", title="Made Up", authors=("Ada Lovelace",), venue="CVPR", year=2024, arxiv=None, code=None,
    code_licence=None, task="audit", verb="mien audit",
)
NETWORKS = {}
'''


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """``write(text)`` makes `mien.papers.made_up` of that text."""
    folder = tmp_path / "papers"
    folder.mkdir()
    monkeypatch.setattr(mien.papers, "__path__", [*mien.papers.__path__, str(folder)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        sys.modules.pop("mien.papers.made_up", None)
        vars(mien.papers).pop("made_up", None)
        importlib.invalidate_caches()

    def made(text: str) -> None:
        (folder / "made_up.py").write_text(text)
        forget()

    yield made
    forget()


def test_a_module_with_a_card_is_found_without_being_told_of(write: Callable[[str], None]) -> None:
    write(SOURCE)
    assert "made_up" in slugs()
    assert discover()["made_up"] is get("made_up")
    assert paper("made_up").title == "Made Up"
    assert weights("made_up") == ()
    (card,) = cards(only="made_up")
    assert (card.network, card.converter, card.claim) == ("complete", "no released checkpoint", "planned")
    assert len(cards()) == 41
    write(SOURCE + "def convert_official(state_dict): ...\n")
    assert cards(only="made_up")[0].converter == "yes"


def test_parts_of_the_package_are_no_papers() -> None:
    assert not {"card", "planned", "results"} & set(slugs())


@pytest.mark.parametrize("wrong", ["", "PAPER = 3", SOURCE.replace('slug="made_up"', 'slug="other"')])
def test_a_module_without_its_card_is_an_error(wrong: str, write: Callable[[str], None]) -> None:
    write(wrong)
    with pytest.raises(OptionError, match=r"mien\.papers\.made_up is not the module of a paper"):
        discover()


def test_weights_of_a_paper_may_be_a_tuple_or_a_dict(write: Callable[[str], None]) -> None:
    from mien.weights import list_weights

    names = [one.name for one in list_weights()]
    head = SOURCE + "from mien.weights import list_weights\n"
    write(head + "WEIGHTS = tuple(reversed(list_weights()))\n")
    assert [one.name for one in weights("made_up")] == names
    write(head + "WEIGHTS = {one.name: one for one in list_weights()}\n")
    assert [one.name for one in weights("made_up")] == names


def test_a_wrong_slug_is_answered_with_the_nearest() -> None:
    for ask in (get, paper, lambda slug: cards(only=slug)):
        with pytest.raises(OptionError, match="did you mean 'tp_gan'"):
            ask("tp-gan")
    with pytest.raises(OptionError, match="no paper of that slug"):
        paper("zzzzzz")
    with pytest.raises(OptionError, match="did you mean 'privacy'"):
        cards(task="privat")  # type: ignore[arg-type]


def test_a_planned_paper_has_no_module() -> None:
    for one in PLANNED[:1]:
        with pytest.raises(OptionError, match="is planned and has no code yet"):
            get(one.slug)


def test_cards_by_task() -> None:
    for task in TASKS:
        assert {card.paper.task for card in cards(task=task)} == {task}
    assert sum(len(cards(task=task)) for task in TASKS) == 40


# --- The table of results --------------------------------------------------------------------------------------------


def row(**more: Any) -> Row:
    about: dict[str, Any] = {
        "slug": "mos", "claim": "first", "scale": "small", "data": "heads", "metric": "AP, at IoU 0.5",
        "baseline": 0.25, "idea": 0.5, "difference": 0.25, "spread": 0.0125, "seeds": (0, 1, 2), "verdict": "holds",
        "seconds": 61.0, "commit": "0123456789ab", "machine": "A CPU, 2 cores, cpu", "date": "2026-01-02",
    }  # fmt: skip
    return Row(**{**about, **more})


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "claims.csv"
    assert read(path) == ()
    assert append([row()], path) == path
    other = row(metric='say "x"', verdict="does not hold", seeds=(7, 8, 9, 10), difference=-0.25)
    append([other, row(scale="paper")], path)
    assert read(path) == (row(), other, row(scale="paper"))
    assert path.read_text().splitlines()[0] == (
        "slug,claim,scale,data,metric,baseline,idea,difference,spread,seeds,verdict,seconds,commit,machine,date"
    )
    assert sorted(item.name for item in path.parent.iterdir()) == ["claims.csv"], "nothing else is left there"


def test_rows_are_only_ever_added(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    append([row()], path)
    before = path.read_bytes()
    path.write_bytes(before.rstrip(b"\n"))  # as some editors leave it
    append([row(claim="second")], path)
    assert path.read_bytes().startswith(before)
    assert [one.claim for one in read(path)] == ["first", "second"]


def test_a_table_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    for text in ("a,b\n1,2\n", ",".join(reversed(COLUMNS)) + "\n", "\n"):
        path.write_text(text)
        with pytest.raises(TableError, match="other columns"):
            append([row()], path)
        with pytest.raises(TableError, match="other columns"):
            read(path)
        assert path.read_text() == text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.25,0.5", "x,0.5"),
        ("0.25,0.5", "nan,0.5"),
        ("holds", "seems to hold"),
        ("small", "big"),
        ("0 1 2", "0;1;2"),
        ("2026-01-02", "2nd of January"),
        (",2026-01-02", ""),
        ("2026-01-02", "2026-01-02,more"),
    ],
)
def test_a_damaged_row_is_told_by_its_line(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    append([row(metric="AP"), row(metric="AP")], path)
    lines = path.read_text().splitlines()
    assert old in lines[2]
    path.write_text("\n".join([*lines[:2], lines[2].replace(old, new)]) + "\n")
    with pytest.raises(TableError, match="line 3"):
        read(path)


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TableError, match="cannot be written"):
        append([row()], tmp_path / "file" / "claims.csv")
    with pytest.raises(TableError, match="cannot be"):
        append([row()], tmp_path)


def test_a_disk_that_is_full_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "claims.csv"
    append([row()], path)
    before = path.read_bytes()
    written = module._append

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, data: bytes) -> int:
            return int(self.stream.write(data[:10]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(real(self, *a, **k)))
    with pytest.raises(OSError, match="No space"):
        written(path, b"a long row, which does not fit\n")
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_rows_added_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    threads = [threading.Thread(target=append, args=([row(claim=f"c{i}")], path)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.claim for one in read(path)) == sorted(f"c{i}" for i in range(8))


def test_the_last_run_counts() -> None:
    rows = [row(verdict="inconclusive"), row(claim="second"), row(verdict="does not hold"), row(data="lfw")]
    assert latest(rows) == (rows[2], rows[1], rows[3])
    assert summary(latest(rows)) == "holds: 2, does not hold: 1"
    assert summary(rows[1:2]) == "holds"
    assert summary([]) == ""


def test_a_card_tells_the_verdicts_in_small_size_first(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    append([row(), row(scale="paper", verdict="inconclusive")], path)
    (card,) = cards(only="mos", results=path)
    assert card.claim == "holds"
    assert len(card.results) == 2
    path.unlink()
    append([row(scale="paper", verdict="inconclusive")], path)
    assert cards(only="mos", results=path)[0].claim == "inconclusive"
    assert cards(only="fan", results=path)[0].claim == "planned"
    assert card.to_dict()["results"][0]["seeds"] == [0, 1, 2]


def test_the_table_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = module.checkout()
    if root is not None:  # these tests may also be run on an installed package
        assert module.default_path() == root / "results" / "claims.csv"
        assert read() == read(root / "results" / "claims.csv")
    monkeypatch.setattr(module, "checkout", lambda: None)
    assert module.default_path() == Path("results/claims.csv")


def test_every_field_of_a_row_is_a_column() -> None:
    assert tuple(field.name for field in dataclasses.fields(Row)) == COLUMNS
    assert row().cells()[COLUMNS.index("spread")] == "0.0125"


# --- The index -------------------------------------------------------------------------------------------------------


def test_the_index_shows_states_and_results(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pages", Path(__file__).parents[2] / "scripts" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages: Any = importlib.util.module_from_spec(spec)
    sys.modules["pages"] = pages  # dataclasses look their module up
    spec.loader.exec_module(pages)
    path = tmp_path / "claims.csv"
    assert "No claim has been run yet" in pages.papers_page(cards(results=path))
    append([row(verdict="inconclusive"), row(), row(claim="second", idea=0.5, verdict="does not hold")], path)
    text = pages.papers_page(cards(results=path))
    assert text.startswith(f"40 papers: {len(slugs())} implemented, {40 - len(slugs())} planned, 1 with claims that")
    assert all(f"## {task.capitalize()}\n" in text for task in TASKS)
    for wanted in (
        "| holds: 1, does not hold: 1 |",
        "| mos: first | AP, at IoU 0.5 | heads, small | 0.25 | 0.5 | +0.25 ± 0.013 |  | **holds** | 3 | 61 s, A CPU, 2",
        "| 2026-01-02, 0123456789ab |",
    ):
        assert wanted in text, wanted
    assert "inconclusive" not in text, "only the last run of a claim is shown"
    assert len(re.findall(r"^\| \[", text, flags=re.MULTILINE)) == 40
