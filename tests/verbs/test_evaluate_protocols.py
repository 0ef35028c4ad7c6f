"""Identification, clustering, templates, files of embeddings and reports, on painted faces and made-up embeddings."""

from __future__ import annotations

import csv
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mien import cli, errors, metrics
from mien.verbs import evaluate
from mien.verbs.embed import embed
from mien.verbs.evaluate._embedded import read_embeddings

FAST: dict[str, Any] = {"repeats": 40}
PEOPLE, EACH, WIDTH = 24, 5, 16


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def name(who: int, turn: int) -> str:
    return f"p{who:02d}/{turn}.jpg"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder with embeddings of `PEOPLE` people, five pictures each but for one that shows no face, and tables."""
    rng = np.random.default_rng(0)
    rows = [(who, turn) for who in range(PEOPLE) for turn in range(EACH) if (who, turn) != (3, 4)]
    vectors = rng.standard_normal((PEOPLE, WIDTH))[[who for who, _ in rows]] + 0.7 * rng.standard_normal(
        (len(rows), WIDTH)
    )
    np.savez(
        tmp_path / "e.npz", source=np.array([f"photos/{name(*row)}" for row in rows]),
        embeddings=vectors.astype(np.float32), scores=rng.random(len(rows)) + 0.1, contract=np.array("made-up@1"),
    )  # fmt: skip
    pairs = []
    for who in range(PEOPLE):
        for turn in range(1, EACH):
            pairs.append(f"{who % 4},1,{name(who, 0)},{name(who, turn)}")
            pairs.append(f"{who % 4},0,{name(who, 0)},{name((who + 4 * turn) % PEOPLE, turn)}")
    write(tmp_path / "pairs.csv", "fold,same,a,b", pairs)
    everything = [(who, turn) for who in range(PEOPLE) for turn in range(EACH)]
    write(tmp_path / "people.csv", "file,identity", [f"{name(w, t)},n{w}" for w, t in everything])
    write(tmp_path / "gallery.csv", "file,identity", [f"{name(w, t)},n{w}" for w, t in everything if w < 12 and t < 2])
    write(tmp_path / "probes.csv", "file,identity", [f"{name(w, t)},n{w}" for w, t in everything if t >= 2])
    return tmp_path


def vectors_of(folder: Path) -> dict[str, Any]:
    told = read_embeddings(folder / "e.npz")
    unit = told["embedding"] / np.linalg.norm(told["embedding"], axis=1, keepdims=True)
    return {source.removeprefix("photos/"): row for source, row in zip(told["source"], unit, strict=True)}


# ------------------------------------------------------------------------------------------- embeddings from a file


def test_verification_from_a_file_is_that_of_its_vectors(stored: Path) -> None:
    told = evaluate.verification(
        pairs=stored / "pairs.csv", embeddings=stored / "e.npz", fmrs=[0.1], out=stored / "s.csv", **FAST
    )
    at = vectors_of(stored)
    for row in csv.DictReader((stored / "s.csv").open()):
        if row["similarity"]:
            assert float(row["similarity"]) == pytest.approx(at[row["a"]] @ at[row["b"]], abs=1e-6)
        else:
            assert name(3, 4) in (row["a"], row["b"])
    assert (told.contract, told.faceless, told.unreadable, told.pairs_without_face) == ("made-up@1", 1, 0, 2)
    assert told.faceless_pictures == (name(3, 4),)
    assert told.redrawn == "comparisons"
    (folded,) = told.folded
    scores = np.array([float(r["similarity"] or -1) for r in csv.DictReader((stored / "s.csv").open())], np.float32)
    rows = list(csv.DictReader((stored / "s.csv").open()))
    same, fold = np.array([r["same"] == "1" for r in rows]), np.array([int(r["fold"]) for r in rows])
    assert folded.tar == pytest.approx(metrics.kfold_tar_at_fmr(scores, same, fold, 0.1).tar)
    assert told.probability_error is not None
    assert told.cllr is not None
    assert 0 <= told.probability_error < 0.3


def test_the_file_that_embed_writes_gives_what_the_pictures_give(fakes: Any, tmp_path: Path) -> None:
    for who in range(6):
        for turn in range(2):
            image = fakes.picture((20 + 10 * turn, 20, 80, who), (120, 60, 40, 90 + who), height=140, width=180)
            Image.fromarray(image).save(tmp_path / f"{who}_{turn}.png")
    rows = [f"{w % 2},1,{w}_0.png,{w}_1.png" for w in range(6)] + [
        f"{w % 2},0,{w}_0.png,{(w + 2) % 6}_1.png" for w in range(6)
    ]
    pairs = write(tmp_path / "pairs.csv", "fold,same,a,b", rows)
    plain = evaluate.verification(pairs=pairs, fmrs=[0.5], size=180, **FAST, **fakes.embed)
    for ending in ("npz", "parquet"):
        embed(str(tmp_path / "*.png"), size=180, out=str(tmp_path / f"e.{ending}"), **fakes.embed)
        told = evaluate.verification(pairs=pairs, embeddings=tmp_path / f"e.{ending}", fmrs=[0.5], **FAST)
        assert told.to_dict() == plain.to_dict()


def test_names_that_mean_several_pictures_are_refused(stored: Path) -> None:
    write(stored / "short.csv", "same,a,b", [f"{int(w < 3)},0.jpg,{name(w, 1)}" for w in range(6)])
    with pytest.raises(errors.TableError, match="means several pictures"):
        evaluate.verification(pairs=stored / "short.csv", embeddings=stored / "e.npz", fmrs=[0.5], **FAST)


def test_files_that_are_no_embeddings(stored: Path) -> None:
    with pytest.raises(errors.MediaNotFound):
        read_embeddings(stored / "none.npz")
    with pytest.raises(errors.TableError, match=r"\.npz or \.parquet"):
        read_embeddings(stored / "pairs.csv")
    (stored / "torn.npz").write_bytes(b"PK")
    with pytest.raises(errors.TableError, match="cannot be read"):
        read_embeddings(stored / "torn.npz")
    np.savez(stored / "other.npz", source=np.array(["a"]))
    with pytest.raises(errors.TableError, match="no embedding"):
        read_embeddings(stored / "other.npz")
    np.savez(stored / "odd.npz", source=np.array(["a"]), embeddings=np.ones((2, 3)))
    with pytest.raises(errors.TableError, match="one embedding a row"):
        read_embeddings(stored / "odd.npz")
    np.savez(stored / "far.npz", files=np.array(["x.jpg"]), embedding=np.ones((1, 3)))
    with pytest.raises(errors.TableError, match="none of the pictures"):
        evaluate.verification(pairs=stored / "pairs.csv", embeddings=stored / "far.npz", **FAST)
    np.savez(stored / "twice.npz", files=np.array([name(0, 0)] * 2), embedding=np.ones((2, 3)))
    with pytest.raises(errors.TableError, match="several faces"):
        evaluate.verification(pairs=stored / "pairs.csv", embeddings=stored / "twice.npz", **FAST)
    with pytest.raises(errors.OptionError, match="central"):
        evaluate.verification(pairs=stored / "pairs.csv", embeddings=stored / "e.npz", choose="central", **FAST)


# ------------------------------------------------------------------------------------------- people and folds


def test_people_of_a_table_are_redrawn_and_folds_looked_at(stored: Path) -> None:
    told = evaluate.verification(
        pairs=stored / "pairs.csv", embeddings=stored / "e.npz", people=stored / "people.csv", fmrs=[0.1], **FAST
    )
    assert told.redrawn == "people"
    assert told.people_in_several_folds == ()  # partners lie four apart, and there are four folds
    rows = (stored / "pairs.csv").read_text().splitlines()
    write(stored / "mixed.csv", rows[0], ["1" + row[1:] if row.startswith("0,1") else row for row in rows[1:]])
    mixed = evaluate.verification(
        pairs=stored / "mixed.csv", embeddings=stored / "e.npz", people=stored / "people.csv", fmrs=[0.1], **FAST
    )
    assert "n0" in mixed.people_in_several_folds
    assert "n1" not in mixed.people_in_several_folds


def test_people_that_contradict_the_pairs(stored: Path) -> None:
    text = (stored / "people.csv").read_text().replace(f"{name(0, 1)},n0", f"{name(0, 1)},n1")
    (stored / "wrong.csv").write_text(text)
    with pytest.raises(errors.TableError, match="contradict"):
        evaluate.verification(
            pairs=stored / "pairs.csv", embeddings=stored / "e.npz", people=stored / "wrong.csv", fmrs=[0.1], **FAST
        )
    (stored / "few.csv").write_text("\n".join(text.splitlines()[:9]))
    with pytest.raises(errors.TableError, match="nobody says"):
        evaluate.verification(
            pairs=stored / "pairs.csv", embeddings=stored / "e.npz", people=stored / "few.csv", fmrs=[0.1], **FAST
        )


# ------------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize("weigh", ["equal", "score", "norm"])
def test_pairs_of_templates(stored: Path, weigh: str) -> None:
    rows = [
        f"{w}{'ab'[t // 3]},{name(w, t)},video{t // 2},n{w}" for w in range(PEOPLE) for t in range(EACH)
    ]  # 0 1 2 are a, 3 4 are b; 0 1 and 2 3 share a medium
    write(stored / "t.csv", "template,file,media,identity", rows)
    pairs = [f"{int(w == v)},{w}a,{v}b" for w in range(PEOPLE) for v in range(PEOPLE)]
    write(stored / "tp.csv", "same,a,b", pairs)
    told = evaluate.verification(
        pairs=stored / "tp.csv", templates=stored / "t.csv", embeddings=stored / "e.npz", weigh=weigh, fmrs=[0.01],
        out=stored / "s.csv", **FAST,
    )  # fmt: skip
    assert (told.templates, told.redrawn, told.faceless, told.pairs_without_face) == (2 * PEOPLE, "people", 1, 0)
    raw = read_embeddings(stored / "e.npz")
    at = {source.removeprefix("photos/"): row for row, source in enumerate(raw["source"])}
    for row in list(csv.DictReader((stored / "s.csv").open()))[:30]:
        ends = []
        for template in (row["a"], row["b"]):
            who, turns = int(template[:-1]), {"a": (0, 1, 2), "b": (3, 4)}[template[-1]]
            media: dict[int, list[Any]] = {}
            for turn in turns:
                if name(who, turn) in at:
                    k = at[name(who, turn)]
                    vector = raw["embedding"][k].astype(float)
                    length = np.linalg.norm(vector)
                    weight = {"equal": 1, "score": raw["score"][k], "norm": length}[weigh]
                    media.setdefault(turn // 2, []).append(weight * vector / length)
            total = sum(np.mean(parts, axis=0) for parts in media.values())
            ends.append(total / np.linalg.norm(total))
        assert float(row["similarity"]) == pytest.approx(ends[0] @ ends[1], abs=1e-5)


def test_tables_of_templates_that_do_not_fit(stored: Path) -> None:
    write(stored / "t.csv", "template,file,identity", [f"a,{name(0, 0)},x", f"a,{name(0, 1)},y", f"b,{name(1, 0)},z"])
    write(stored / "tp.csv", "same,a,b", ["1,a,b", "0,a,c"])
    with pytest.raises(errors.TableError, match="shows several people"):
        evaluate.verification(pairs=stored / "tp.csv", templates=stored / "t.csv", embeddings=stored / "e.npz", **FAST)
    write(stored / "t.csv", "template,file", [f"a,{name(0, 0)}", f"b,{name(1, 0)}"])
    with pytest.raises(errors.TableError, match="lacks templates"):
        evaluate.verification(pairs=stored / "tp.csv", templates=stored / "t.csv", embeddings=stored / "e.npz", **FAST)
    with pytest.raises(errors.OptionError, match="only templates"):
        evaluate.verification(pairs=stored / "pairs.csv", weigh="score", embeddings=stored / "e.npz", **FAST)
    with pytest.raises(errors.OptionError, match="unknown weigh"):
        evaluate.verification(
            pairs=stored / "tp.csv", templates=stored / "t.csv", embeddings=stored / "e.npz", weigh="best", **FAST
        )


# ------------------------------------------------------------------------------------------- identification


def searches_by_hand(stored: Path) -> dict[str, tuple[bool, int, float, float]]:
    at = vectors_of(stored)
    out = {}
    for probe in csv.DictReader((stored / "probes.csv").open()):
        if probe["file"] not in at:
            continue
        best: dict[str, float] = {}
        for row in csv.DictReader((stored / "gallery.csv").open()):
            score = float(at[probe["file"]] @ at[row["file"]])
            best[row["identity"]] = max(best.get(row["identity"], -1), score)
        mine = best.pop(probe["identity"], None)
        rank = 0 if mine is None else 1 + sum(other >= mine for other in best.values())
        out[probe["file"]] = (mine is not None, rank, -1.0 if mine is None else mine, max(best.values()))
    return out


def test_identification_is_what_one_counts_by_hand(stored: Path) -> None:
    told = evaluate.identification(
        gallery=stored / "gallery.csv", probes=stored / "probes.csv", embeddings=stored / "e.npz", ranks=[1, 3],
        fpirs=[0.1, 1e-3], out=stored / "i.csv", **FAST,
    )  # fmt: skip
    by_hand = searches_by_hand(stored)
    for row in csv.DictReader((stored / "i.csv").open()):
        if row["probe"] == name(3, 4):
            assert (row["mated"], row["rank"], row["score"], row["best_other"]) == ("1", "", "", "")
            continue
        mated, rank, score, best = by_hand[row["probe"]]
        assert (row["mated"] == "1", int(row["rank"] or 0)) == (mated, rank)
        assert float(row["best_other"]) == pytest.approx(best, abs=1e-5)
        assert (float(row["score"]) if mated else -1) == pytest.approx(score, abs=1e-5)
    (gallery,) = told.galleries
    assert (gallery.people, gallery.templates, gallery.mated, gallery.non_mated) == (12, 24, 36, 36)
    assert (told.searches, told.failed_searches, told.pictures) == (72, 1, 96)
    # The search without a face is a miss of the 36.
    mates = [v for v in by_hand.values() if v[0]]
    assert [r.rate for r in told.ranks] == pytest.approx([sum(r <= k for _, r, _, _ in mates) / 36 for k in (1, 3)])
    assert gallery.cmc[0] == told.ranks[0].rate
    (point,) = told.at_fpir
    strangers = sorted((v[3] for v in by_hand.values() if not v[0]), reverse=True)
    assert point.false_positives == 3 == sum(s >= point.threshold for s in strangers)
    assert point.fnir == pytest.approx(1 - sum(r == 1 and s >= point.threshold for _, r, s, _ in mates) / 36)
    assert point.fnir_low is not None
    assert point.fnir_high is not None
    assert point.fnir_low <= point.fnir <= point.fnir_high
    assert json.loads(told.to_json())["galleries"][0]["people"] == 12


def test_two_galleries_are_searched_apart_and_averaged(stored: Path) -> None:
    rows = [f"{name(w, t)},n{w},{w},{'G1' if w < 12 else 'G2'}" for w in range(PEOPLE) for t in range(2)]
    write(stored / "g.csv", "file,identity,template,gallery", rows)
    probes = [f"{name(w, t)},n{w},{w}" for w in range(PEOPLE) for t in range(2, EACH)]
    write(stored / "p.csv", "file,identity,template", probes)
    told = evaluate.identification(
        gallery=stored / "g.csv",
        probes=stored / "p.csv",
        embeddings=stored / "e.npz",
        weigh="score",
        fpirs=[0.1],
        **FAST,
    )
    assert [(g.gallery, g.people, g.templates, g.mated, g.non_mated) for g in told.galleries] == [
        ("G1", 12, 12, 12, 12), ("G2", 12, 12, 12, 12),
    ]  # fmt: skip
    assert told.templates
    assert told.failed_searches == 0, "a template is there as long as one of its pictures is"
    assert told.ranks[0].rate == pytest.approx(np.mean([g.ranks[0].rate for g in told.galleries]))
    assert told.at_fpir[0].fnir == pytest.approx(np.mean([g.at_fpir[0].fnir for g in told.galleries]))
    write(stored / "g.csv", "file,identity,gallery", [f"{name(0, 0)},n0,G1", f"{name(0, 1)},n0,G2"])
    with pytest.raises(errors.ValueRangeError, match="two galleries"):
        evaluate.identification(gallery=stored / "g.csv", probes=stored / "p.csv", embeddings=stored / "e.npz", **FAST)


def test_who_is_enrolled_without_a_face_is_missed(stored: Path) -> None:
    write(stored / "g.csv", "file,identity", [f"{name(3, 4)},n3", f"{name(0, 0)},n0"])
    write(stored / "p.csv", "file,identity", [f"{name(3, 0)},n3", f"{name(0, 1)},n0"])
    told = evaluate.identification(
        gallery=stored / "g.csv", probes=stored / "p.csv", embeddings=stored / "e.npz", **FAST
    )
    assert (told.galleries[0].people, told.galleries[0].not_enrolled) == (1, 1)
    assert [r.rate for r in told.ranks] == [0.5] * 4
    assert told.at_fpir == ()


def test_identification_of_photos(fakes: Any, tmp_path: Path) -> None:
    for who in range(6):
        for turn in range(2):
            image = fakes.picture((20 + 10 * turn, 20, 80, who), height=140, width=180)
            Image.fromarray(image).save(tmp_path / f"{who}_{turn}.png")
    write(tmp_path / "g.csv", "file,identity", [f"{w}_0.png,{w}" for w in range(4)])
    write(tmp_path / "p.csv", "file,identity", [f"{w}_1.png,{w}" for w in range(6)])
    told = evaluate.identification(
        gallery=tmp_path / "g.csv", probes=tmp_path / "p.csv", fpirs=[0.5], size=180, **FAST, **fakes.embed
    )
    assert told.ranks[0].rate == 1
    assert (told.galleries[0].mated, told.galleries[0].non_mated) == (4, 2)


def test_identification_without_sense(stored: Path) -> None:
    both = {"gallery": stored / "gallery.csv", "probes": stored / "probes.csv", "embeddings": stored / "e.npz"}
    for options in ({"ranks": [0]}, {"fpirs": [2.0]}, {"repeats": 0}, {"weigh": "most"}, {"weigh": "quality"}):
        with pytest.raises(errors.OptionError):
            evaluate.identification(**both, **options)
    write(stored / "p.csv", "file,identity", [f"{name(20, 0)},somebody"])
    with pytest.raises(errors.TableError, match="no probe shows somebody"):
        evaluate.identification(**{**both, "probes": stored / "p.csv"}, **FAST)


# ------------------------------------------------------------------------------------------- clustering


@pytest.mark.parametrize("method", ["average", "connected"])
def test_clusters_are_those_of_the_threshold(stored: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "labels": stored / "people.csv",
        "embeddings": stored / "e.npz",
        "method": method,
        "cluster_threshold": 0.6,
    }
    told = evaluate.clustering(**options, out=stored / "c.csv", **FAST)
    rows = list(csv.DictReader((stored / "c.csv").open()))
    clusters = {row["file"]: int(row["cluster"]) for row in rows}
    assert list(clusters.values()).count(clusters[name(3, 4)]) == 1, "a picture without a face is alone"
    assert told.clusters == len(set(clusters.values()))
    by_hand = metrics.bcubed([row["identity"] for row in rows], [row["cluster"] for row in rows])
    assert (told.bcubed_precision, told.bcubed_recall, told.bcubed_f) == (by_hand.precision, by_hand.recall, by_hand.f)
    assert told.bcubed_low <= told.bcubed_f <= told.bcubed_high
    at = vectors_of(stored)
    groups: dict[int, list[Any]] = {}
    for file, cluster in clusters.items():
        if file in at:
            groups.setdefault(cluster, []).append(at[file])
    between = [
        [float(a @ b) for a in one for b in other]
        for k, one in groups.items() for j, other in groups.items() if j > k
    ]  # fmt: skip
    if method == "average":
        assert max(np.mean(scores) for scores in between) < 0.6, "nothing more could be joined"
    else:
        assert max(max(scores) for scores in between) < 0.6
        for one in groups.values():  # a chain through every cluster
            reached, left = [one[0]], one[1:]
            while left:
                near = [v for v in left if max(float(v @ r) for r in reached) >= 0.6 - 1e-6]
                assert near
                reached, left = reached + near, [v for v in left if not any(v is n for n in near)]
        from mien.verbs.evaluate import _clustering

        monkeypatch.setattr(_clustering, "MOST", 10)
        monkeypatch.setattr(_clustering, "ROWS", 7)
        blocks = evaluate.clustering(**options, **FAST)
        assert (blocks.bcubed_f, blocks.clusters, blocks.curve) == (told.bcubed_f, told.clusters, None)
    assert told.curve is not None
    index = told.curve.threshold.index(0.6)
    assert told.curve.f[index] == told.bcubed_f
    assert list(told.curve.clusters) == sorted(told.curve.clusters)


def test_clusters_of_a_table_are_judged_without_pictures(stored: Path) -> None:
    rows = [f"{w}_{t}.jpg,n{w},{w if t else -1}" for w in range(3) for t in range(3)]
    told = evaluate.clustering(labels=write(stored / "l.csv", "file,identity,cluster", rows), **FAST)
    assert (told.method, told.clusters, told.threshold, told.curve) == ("table", 6, None, None)
    assert told.bcubed_precision == 1
    assert told.bcubed_recall == pytest.approx((2 * 2 / 3 + 1 / 3) / 3)
    assert told.ari < 1


def test_the_threshold_is_the_calibrated_one(fakes: Any, tmp_path: Path) -> None:
    for who in range(3):
        for turn in range(2):
            image = fakes.picture((20 + 10 * turn, 20, 80, who), height=140, width=180)
            Image.fromarray(image).save(tmp_path / f"{who}_{turn}.png")
    table = write(tmp_path / "l.csv", "file,identity", [f"{w}_{t}.png,{w}" for w in range(3) for t in range(2)])
    told = evaluate.clustering(labels=table, fmr=1e-3, size=180, **FAST, **fakes.embed)
    assert (told.threshold, told.threshold_from) == (0.7, "false match rate 0.001 on painted faces")
    assert (told.people, told.clusters, told.bcubed_f) == (3, 3, 1)


def test_clustering_without_sense(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"labels": stored / "people.csv", "embeddings": stored / "e.npz"}
    with pytest.raises(errors.OptionError, match="no threshold is known"):
        evaluate.clustering(**options, **FAST)
    with pytest.raises(errors.OptionError, match="unknown method"):
        evaluate.clustering(**options, method="kmeans")
    from mien.verbs.evaluate import _clustering

    monkeypatch.setattr(_clustering, "MOST", 10)
    with pytest.raises(errors.OptionError, match="too many pictures"):
        evaluate.clustering(**options, cluster_threshold=0.5, **FAST)
    write(stored / "twice.csv", "file,identity", [f"{name(0, 0)},a", f"{name(0, 0)},b"])
    with pytest.raises(errors.TableError, match="several rows"):
        evaluate.clustering(labels=stored / "twice.csv", embeddings=stored / "e.npz", **FAST)


# ------------------------------------------------------------------------------------------- reports


class Page(HTMLParser):
    """Tags that are open at the end, words, and addresses that lead away."""

    VOID = ("meta", "br", "img", "path", "use", "rect", "line")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.away: list[str] = []
        self.plots = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.plots += tag == "svg"
        self.away += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def checked(path: Path, *, plots: int) -> str:
    page = Page(path.read_text("utf-8"))
    assert page.open == []
    assert page.away == [], "a report needs no file beside it"
    assert page.plots == plots
    return " ".join(" ".join(page.words).split())


def test_reports_say_what_was_measured_and_how(stored: Path) -> None:
    told = evaluate.verification(
        pairs=stored / "pairs.csv", embeddings=stored / "e.npz", people=stored / "people.csv", fmrs=[0.1],
        report=stored / "out" / "v.html", plots=stored / "plots", **FAST,
    )  # fmt: skip
    assert told.report == str(stored / "out" / "v.html")
    text = checked(stored / "out" / "v.html", plots=4)
    for wanted in (
        f"{100 * told.accuracy:.2f} %", f"{100 * told.eer:.2f} %", "no person is in two folds", "vertex bootstrap",
        "96 of the same person and 96 of different people", "made-up@1", "VAL@FAR", "1 without a face",
    ):  # fmt: skip
        assert wanted in text, wanted
    names = {f"{name}.{ending}" for name in ("roc", "det", "scores", "reliability") for ending in ("svg", "png")}
    assert {path.name for path in (stored / "plots").iterdir()} == names

    evaluate.identification(
        gallery=stored / "gallery.csv", probes=stored / "probes.csv", embeddings=stored / "e.npz", fpirs=[0.1],
        report=stored / "i.html", **FAST,
    )  # fmt: skip
    text = checked(stored / "i.html", plots=3)
    assert "72, 1 of them without a face" in text
    assert "the people who are searched for" in text
    evaluate.clustering(
        labels=stored / "people.csv",
        embeddings=stored / "e.npz",
        cluster_threshold=0.6,
        report=stored / "c.html",
        **FAST,
    )
    assert "average linkage" in checked(stored / "c.html", plots=2)


def test_names_of_files_cannot_break_a_report(stored: Path) -> None:
    odd = stored / "<b>pairs & co.csv"
    odd.write_text((stored / "pairs.csv").read_text())
    evaluate.verification(pairs=odd, embeddings=stored / "e.npz", fmrs=[0.1], report=stored / "r.html", **FAST)
    assert "<b>pairs & co.csv" in checked(stored / "r.html", plots=4)


def test_without_matplotlib_a_report_is_refused_before_the_work(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(errors.MissingExtra, match=r"mien\[evaluate\]"):
        evaluate.verification(pairs=stored / "none.csv", report=stored / "r.html")
    told = evaluate.verification(pairs=stored / "pairs.csv", embeddings=stored / "e.npz", fmrs=[0.1], **FAST)
    assert told.accuracy > 0.5


def test_the_commands(stored: Path) -> None:
    for words in (
        ["identification", "--gallery", "gallery.csv", "--probes", "probes.csv", "--fpirs", "0.1", "--ranks", "1,2"],
        ["clustering", "--labels", "people.csv", "--cluster-threshold", "0.6"],
        ["verification", "--pairs", "pairs.csv", "--people", "people.csv", "--fmrs", "0.1", "--report", "r.html"],
    ):  # fmt: skip
        paths = [str(stored / word) if word.endswith((".csv", ".html")) else word for word in words]
        line = ["evaluate", *paths, "--embeddings", str(stored / "e.npz"), "--repeats", "20", "--json"]
        done = CliRunner().invoke(cli.build(), line, prog_name="mien")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["contract"] == "made-up@1"
    assert (stored / "r.html").exists()
