"""``mien curate label``: the session, the server, the command, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mien
from mien.cli import OK, build
from mien.errors import MediaNotFound, MissingExtra, OptionError
from mien.verbs.curate._answers import Answers, key_of
from mien.verbs.curate._faces import FaceStore, Found, thumbnail
from mien.verbs.curate._session import Session

PEOPLE, EACH = 5, 12
TOKEN = "word"


def photo(person: int, row: int, side: int = 120) -> Any:
    """A round "face" of a colour of its own; nobody's."""
    import cv2

    rng = np.random.default_rng(person * 100 + row)
    image = np.full((side, side + 40, 3), 205 - 3 * row, np.uint8)
    colour = tuple(int(v) for v in np.random.default_rng(person).integers(40, 216, 3))
    cv2.circle(image, (side // 2 + 20, side // 2), side // 3, colour, -1)
    for x in (-14, 14):
        cv2.circle(image, (side // 2 + 20 + x, side // 2 - 10), 5, (20, 20, 30), -1)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Sixty faces of five people whose embeddings lie in heaps, and their pictures on the disk."""
    import cv2

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(PEOPLE, 32))
    labels = np.tile(np.arange(PEOPLE), EACH)
    x = centres[labels] / np.linalg.norm(centres[labels], axis=1, keepdims=True) + 0.13 * rng.normal(
        size=(len(labels), 32)
    )
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    folder = tmp_path / "album"
    folder.mkdir()
    keys, crops, sizes = [], [], {}
    for row, person in enumerate(labels):
        name = f"p{person}_{row:02d}.png"
        image = photo(int(person), row)
        cv2.imwrite(str(folder / name), image[..., ::-1])
        keys.append(key_of(name, (40, 20, 120, 100)))
        crops.append(thumbnail(image, (40, 20, 120, 100)))
        sizes[name] = (160, 120)
    return Found(folder, tuple(keys), np.ones(len(keys), np.float32), x.astype(np.float32), sizes, crops.__getitem__)


def truth(found: Found, face: int) -> str:
    return {"0": "Ada", "1": "Ben Ott", "2": "Cleo", "3": "Dan", "4": "Eve"}[found.keys[face][0][1]]


def opened(found: Found, **more: Any) -> Session:
    session = Session(found, Answers(found.folder / "labels.csv"), alike=0.5, **more)
    session.purpose = "a test"
    return session


# --- The session -----------------------------------------------------------------------------------------------------


def test_few_questions_name_everybody(found: Found) -> None:
    session, asked = opened(found), 0
    while (ask := session.next()) is not None:
        session.answer(ask.face, "is", truth(found, ask.face))
        asked += 1
        for batch in session.batches():
            rows = [one["face"] for one in batch["faces"]]
            right = [row for row in rows if truth(found, row) == batch["name"]]
            assert len(right) >= 0.9 * len(rows)
            session.confirm(batch["name"], right, [row for row in rows if row not in right])
    assert session.counts()["named"] == PEOPLE * EACH
    assert asked < PEOPLE * EACH / 2
    assert [one["name"] for one in session.people()] == ["Ada", "Ben Ott", "Cleo", "Dan", "Eve"]
    assert sum(one["count"] for one in session.people()) == 60


def test_a_group_without_a_name_comes_first_and_then_each_other_group(found: Found) -> None:
    session = opened(found)
    seen = []
    for _ in range(PEOPLE):
        ask = session.next()
        assert ask is not None
        assert ask.why == "first"
        seen.append(truth(found, ask.face))
        session.answer(ask.face, "is", seen[-1])
    assert len(set(seen)) == PEOPLE
    ask = session.next()
    assert ask is None or ask.why == "unclear"


def test_suggestions_put_the_likeliest_first(found: Found) -> None:
    session = opened(found)
    for row in range(2 * PEOPLE):
        session.answer(row, "is", truth(found, row))
    ask = session.ask(31)
    assert ask.suggestions[0].name == truth(found, 31)
    assert len(ask.suggestions) == PEOPLE
    confidences = [one.confidence for one in ask.suggestions]
    assert confidences == sorted(confidences, reverse=True)
    assert all(0 <= value <= 1 for value in confidences)
    assert truth(found, ask.suggestions[0].face) == ask.suggestions[0].name  # a face to compare with


def test_the_first_name_is_suggested_by_similarity(found: Found) -> None:
    """One person has no negatives, and so no classifier."""
    session = opened(found)
    session.answer(0, "is", "Ada")
    assert session.ask(5).suggestions[0].name == "Ada"
    assert session.ask(5).suggestions[0].confidence > session.ask(1).suggestions[0].confidence


def test_a_batch_without_some_faces_asks_about_these_next(found: Found) -> None:
    session = opened(found)
    for row in range(2 * PEOPLE):
        session.answer(row, "is", truth(found, row))
    batch = session.batches()[0]
    rows = [one["face"] for one in batch["faces"]]
    session.confirm(batch["name"], rows[1:], rows[:1])
    ask = session.next()
    assert ask is not None
    assert (ask.face, ask.why) == (rows[0], "doubt")
    assert batch["name"] not in [one.name for one in ask.suggestions]
    assert all(rows[0] != one["face"] for b in session.batches() if b["name"] == batch["name"] for one in b["faces"])
    session.answer(rows[0], "is", batch["name"])  # a second thought counts
    assert session.pool.persons[session.pool.labels[rows[0]]] == batch["name"]


def test_strangers_and_what_is_no_face_are_never_named(found: Found) -> None:
    session = opened(found)
    for row in range(2 * PEOPLE):
        session.answer(row, "is", truth(found, row))
    session.answer(20, "stranger")
    session.answer(21, "not a face")
    assert session.counts()["rejected"] == 2
    assert not {20, 21} & {one["face"] for batch in session.batches() for one in batch["faces"]}
    assert not {20, 21} & set(np.flatnonzero(session.pool.free >= 0))


def test_what_was_skipped_comes_last(found: Found) -> None:
    session = opened(found)
    first = session.next()
    assert first is not None
    session.answer(first.face, "skip")
    order = []
    while (ask := session.next()) is not None and ask.face not in order:
        order.append(ask.face)
        if ask.why == "skipped":
            break
        session.answer(ask.face, "is", truth(found, ask.face))
        for batch in session.batches():
            session.confirm(batch["name"], [one["face"] for one in batch["faces"] if one["face"] != first.face])
        if first.face in np.flatnonzero(session.pool.free >= 0):
            return  # it got a certain name, which is in a batch
    assert order[-1] == first.face


def test_undo_goes_back_answer_by_answer_and_over_a_restart(found: Found) -> None:
    session = opened(found)
    session.answer(0, "is", "Ada")
    session.answer(1, "is", "Ben Ott")
    session.answer(1, "stranger")
    session.confirm("Ada", [5, 10], [2])
    assert session.counts()["named"] == 3
    session = opened(found)  # as after a kill
    assert session.counts()["named"] == 3
    assert session.counts()["rejected"] == 1
    assert sorted(session.undo()) == [2, 5, 10]
    assert session.counts()["named"] == 1
    assert session.undo() == [1]
    ask = session.next()
    assert ask is not None
    assert ask.face == 1  # what was taken back is asked again
    assert session.counts()["named"] == 2
    assert session.undo() == [1]
    assert session.undo() == [0]
    assert session.undo() == []
    assert session.counts()["named"] == 0


def test_a_killed_session_goes_on_with_the_same_state(found: Found) -> None:
    session = opened(found)
    for row in range(25):
        session.answer(row, "is", truth(found, row))
    session.confirm("Ada", [25], [26])
    session.settle()
    again = opened(found)
    np.testing.assert_array_equal(again.pool.labels >= 0, session.pool.labels >= 0)
    assert [p["name"] for p in again.people()] == [p["name"] for p in session.people()]
    assert [again.pool.persons[p] for p in again.pool.labels[:26]] == [truth(found, row) for row in range(25)] + ["Ada"]
    assert again.answers.denied(found.keys[26]) == ["Ada"]
    assert again.pool.denied[0].tolist() == [26]


def test_boxes_that_moved_a_little_are_the_same_faces(found: Found) -> None:
    opened(found).answer(0, "is", "Ada")
    name = found.keys[0][0]
    moved = replace(found, keys=(key_of(name, (42, 21, 121, 99)), *found.keys[1:]))
    assert opened(moved).counts()["named"] == 1
    elsewhere = replace(found, keys=(key_of(name, (300, 21, 380, 99)), *found.keys[1:]))
    assert opened(elsewhere).counts()["named"] == 0


def test_two_names_become_one(found: Found) -> None:
    session = opened(found)
    session.answer(0, "is", "Ada")
    session.answer(5, "is", "Adda")
    session.answer(1, "is", "Ben Ott")
    assert session.rename("Adda", "  Ada ") == 1
    assert [p["name"] for p in session.people()] == ["Ada", "Ben Ott"]
    session.undo()
    assert [p["name"] for p in session.people()] == ["Ada", "Adda", "Ben Ott"]
    with pytest.raises(OptionError, match="nobody"):
        session.rename("Nobody", "Ada")


def test_answers_that_cannot_be(found: Found) -> None:
    session = opened(found)
    for wrong in ("", "   ", "x" * 200, "a\x00b"):
        with pytest.raises(OptionError, match="no name"):
            session.answer(0, "is", wrong)
    with pytest.raises(OptionError, match="verdict"):
        session.answer(0, "maybe")
    with pytest.raises(OptionError, match="no such face"):
        session.answer(60, "skip")
    with pytest.raises(OptionError, match="twice"):
        session.confirm("Ada", [1, 2], [2])
    assert session.answers.lines == []


def test_the_end_writes_what_the_machine_is_certain_of_and_takes_it_back_again(found: Found) -> None:
    session = opened(found)
    for row in range(2 * PEOPLE):
        session.answer(row, "is", truth(found, row))
    written = session.finish()
    machine = [line for line in session.answers.lines if line.by == "machine"]
    assert written == len(machine) > 0
    assert all(0 < line.confidence <= 1 for line in machine)
    right = [line.name == truth(found, session.row[line.key]) for line in machine]
    assert np.mean(right) > 0.9
    assert session.finish() == written  # a second time adds nothing
    assert len([line for line in session.answers.lines if line.by == "machine"]) == written
    row = session.row[machine[0].key]
    session.answer(row, "stranger")
    session.finish()
    assert session.answers.said(found.keys[row], "machine") is None


def test_answers_that_do_not_fit_the_others_are_asked_again(found: Found) -> None:
    session = opened(found, questions=5)
    wrong = 5
    session.answer(wrong, "is", "Eve")  # it is Ada
    seen: list[str] = []
    for row in range(6, 60):
        if session.pool.labels[row] < 0:
            session.answer(row, "is", truth(found, row))
        ask = session.next()
        if ask is not None and ask.why == "again":
            seen.append(f"{ask.face} {ask.said}")
            session.answer(ask.face, "is", truth(found, ask.face))
    assert f"{wrong} Eve" in seen
    assert session.pool.persons[session.pool.labels[wrong]] == "Ada"


def test_a_folder_without_faces(found: Found) -> None:
    empty = replace(found, keys=(), scores=np.zeros(0, np.float32), embeddings=np.zeros((0, 0), np.float32))
    session = opened(empty)
    assert session.next() is None
    assert session.batches() == []
    assert session.counts()["faces"] == 0
    assert session.finish() == 0


# --- The server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(found: Found) -> Iterator[Any]:
    pytest.importorskip("fastapi", reason="the extra server is not installed")
    pytest.importorskip("httpx", reason="FastAPI's test client needs it")
    from fastapi.testclient import TestClient

    from mien.verbs.curate._server import make_app

    session = opened(found)
    session.purpose = None
    kept: list[str] = []
    stopped: list[bool] = []
    app = make_app(session, TOKEN, keep_purpose=kept.append, stop=lambda: stopped.append(True))
    with TestClient(app, base_url=f"http://127.0.0.1/{TOKEN}/") as made:
        made.session, made.kept, made.stopped = session, kept, stopped  # type: ignore[attr-defined]
        yield made


def begun(client: Any) -> Any:
    answer = client.post("api/purpose", json={"purpose": "a family  album", "agreed": True})
    assert answer.status_code == 200
    return answer.json()


def test_nothing_is_shown_without_the_word(client: Any) -> None:
    for path in ("/", "/wrong/", "/wrong/api/state", f"/{TOKEN}x/", "/docs", "/openapi.json", f"/{TOKEN}/docs"):
        assert client.get(f"http://127.0.0.1{path}").status_code == 404
    assert client.get("").status_code == 200


def test_a_foreign_name_that_leads_here_is_refused(client: Any) -> None:
    assert client.get("api/state", headers={"host": "evil.example:80"}).status_code == 404
    assert client.get("api/state", headers={"host": "localhost:1234"}).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client: Any) -> None:
    answer = client.get("")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    for name in ("", "page.css", "page.js"):
        text = client.get(name).text
        assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), name
        assert "@import" not in text
    for name in ("page.css", "page.js"):
        assert name in answer.text


def test_no_face_before_a_purpose(client: Any) -> None:
    state = client.get("api/state").json()
    assert state["purpose"] is None
    assert "question" not in state
    assert client.get("face/0.jpg").status_code == 409
    assert client.get("photo/0.jpg").status_code == 409
    assert client.post("api/answer", json={"face": 0, "verdict": "skip"}).status_code == 409
    assert client.post("api/purpose", json={"purpose": "x", "agreed": True}).status_code == 422
    assert client.post("api/purpose", json={"purpose": "a family album", "agreed": False}).status_code == 409
    state = begun(client)
    assert state["purpose"] == "a family album"
    assert client.kept == ["a family album"]
    assert client.get("face/0.jpg").content[:2] == b"\xff\xd8"
    assert client.get("photo/0.jpg").headers["content-type"] == "image/jpeg"
    assert client.get("face/99.jpg").status_code == 404


def test_a_form_of_another_page_cannot_answer(client: Any) -> None:
    begun(client)
    answer = client.post("api/answer", content='{"face":0,"verdict":"skip"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert client.session.answers.lines == []


def test_the_whole_way_by_http(client: Any, found: Found) -> None:
    state = begun(client)
    for _ in range(2 * PEOPLE):
        face = state["question"]["face"]
        state = client.post("api/answer", json={"face": face, "verdict": "is", "name": truth(found, face)}).json()
        if state["question"] is None:
            break
    assert state["counts"]["named"] >= PEOPLE
    assert state["can_undo"]
    batch = state["batches"][0]
    faces = [one["face"] for one in batch["faces"]]
    state = client.post("api/batch", json={"name": batch["name"], "yes": faces[1:], "no": faces[:1]}).json()
    assert state["question"]["face"] == faces[0]
    before = state["counts"]["named"]
    state = client.post("api/undo", json={}).json()
    assert state["counts"]["named"] == before - len(faces) + 1
    state = client.post("api/rename", json={"old": "Ada", "new": "Ada Lovelace"}).json()
    assert "Ada Lovelace" in [one["name"] for one in state["people"]]
    done = client.post("api/finish", json={}).json()
    assert done["written"] > 0
    assert client.stopped == [True]
    assert json.dumps(state)  # plain values only


def test_wrong_answers_say_what_is_wrong(client: Any) -> None:
    begun(client)
    answer = client.post("api/answer", json={"face": 0, "verdict": "is", "name": " "})
    assert answer.status_code == 422
    assert answer.json()["error"]["what"] == "this is no name"
    assert client.post("api/answer", json={"face": "zero"}).status_code == 422
    assert client.post("api/answer", json={"face": 10_000, "verdict": "skip"}).status_code == 422


def test_two_at_once_lose_nothing(client: Any, found: Found) -> None:
    begun(client)
    codes: list[int] = []

    def say(rows: range) -> None:
        for row in rows:
            body = {"face": row, "verdict": "is", "name": truth(found, row)}
            codes.append(client.post("api/answer", json=body).status_code)

    threads = [threading.Thread(target=say, args=(range(start, 16, 2),)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 16
    assert len(Answers(client.session.answers.path).lines) == 16


# --- The faces of a folder -------------------------------------------------------------------------------------------


class Pipeline:
    """Stands for detector and embedder: one face a picture, whose embedding is its mean colour."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, source: Any, plan: Any, *, sink: Any, **_: Any) -> Any:
        from mien.faces import Faces, Failure
        from mien.media import Photo, read_images

        failures = []
        for photo in read_images(source):
            if isinstance(photo, Failure):
                failures.append(photo)
                continue
            assert isinstance(photo, Photo)
            self.seen.append(Path(photo.info.source).name)
            z = photo.image.mean((0, 1)).astype(np.float32)
            sink(
                photo,
                Faces(
                    image=[0], boxes=[[40, 20, 120, 100]], scores=[0.9], embeddings=[z / np.linalg.norm(z)],
                    images=[photo.info],
                ),
            )  # fmt: skip
        return Faces.empty(failures=failures)


def test_faces_are_looked_for_once(found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.verbs import _pipeline

    pipeline = Pipeline()
    monkeypatch.setattr(_pipeline, "run", pipeline)
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("p0_00.png", "p1_01.png", "p2_02.png"):
        shutil.copy(found.folder / name, folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "notes.txt").write_text("no picture")
    plan = _pipeline.Plan(embedder="mien-embedder")
    told: list[tuple[int, Any]] = []
    store = FaceStore(tmp_path / "labels.faces")
    first = store.look(folder, plan, progress=lambda done, total, what: told.append((done, total)))
    assert [key[0] for key in first.keys] == ["p0_00.png", "p1_01.png", "p2_02.png"]
    assert [Path(failure.source).name for failure in first.failures] == ["broken.jpg"]
    assert first.embeddings.shape == (3, 3)
    assert first.sizes["p0_00.png"] == (160, 120)
    assert first.crops(0)[:2] == b"\xff\xd8"
    assert told[-1] == (4, 4)
    store.close()

    pipeline.seen.clear()
    shutil.copy(found.folder / "p3_03.png", folder / "p3_03.png")
    (folder / "p0_00.png").unlink()
    os.utime(folder / "p1_01.png", (1, 1))
    store = FaceStore(tmp_path / "labels.faces")
    second = store.look(folder, plan)
    assert sorted(pipeline.seen) == ["p1_01.png", "p3_03.png"]
    assert [key[0] for key in second.keys] == ["p1_01.png", "p2_02.png", "p3_03.png"]

    pipeline.seen.clear()
    store.look(folder, replace(plan, min_face=50.0))
    assert len(pipeline.seen) == 3  # other numbers find other faces
    store.put("purpose", "a test")
    assert store.get("purpose") == "a test"
    store.forget()
    assert not list(tmp_path.glob("labels.faces*"))


def test_small_pictures_show_the_face_in_the_middle() -> None:
    import cv2

    for size in ((200, 300), (2000, 3000)):
        image = np.zeros((*size, 3), np.uint8)
        scale = size[0] / 200
        box = np.array([200, 20, 260, 80]) * scale
        x0, y0, x1, y1 = (int(value) for value in box)
        image[y0:y1, x0:x1] = 255
        small = cv2.imdecode(np.frombuffer(thumbnail(image, box), np.uint8), cv2.IMREAD_COLOR)
        assert small is not None
        assert small.shape == (256, 256, 3)
        rows, columns = np.nonzero(small[..., 0] > 128)
        assert rows.mean() == pytest.approx(127.5, abs=1.5)
        assert columns.mean() == pytest.approx(127.5, abs=1.5)
        assert np.ptp(rows) == pytest.approx(128, abs=3)


# --- The command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn", reason="the extra server is not installed")
    with pytest.raises(MediaNotFound):
        mien.curate.label(str(tmp_path / "nowhere"), browser=False)
    for wrong in ({"rule": "highest"}, {"questions": 0}, {"port": 70_000}):
        with pytest.raises(OptionError):
            mien.curate.label(str(tmp_path), browser=False, **wrong)  # type: ignore[arg-type]
    assert CliRunner().invoke(build(), ["curate", "label", "--help"]).exit_code == OK
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r"uvicorn"):
        mien.curate.label(str(tmp_path), browser=False)


def served(words: list[str], env: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """The command, running, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mien.cli", "curate", "label", *words, "--no-browser"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if address := re.search(r"http://127\.0\.0\.1:\d+/\S+/", line):
            return process, address[0]
    raise AssertionError("".join(lines))


def said(address: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """The real detector and embedder on the portrait of the demo; answer, kill -9, start again, finish."""
    pytest.importorskip("uvicorn", reason="the extra server is not installed")
    data = pytest.importorskip("skimage.data", reason="the extra demo is not installed")
    from mien.media import save_image

    album = tmp_path / "album"
    album.mkdir()
    portrait = np.ascontiguousarray(data.astronaut())
    save_image(album / "a.jpg", portrait)
    save_image(album / "b.jpg", portrait[:, ::-1].copy())
    out = str(tmp_path / "labels.csv")
    words = [str(album), "--out", out, "--purpose", "a test"]
    process, address = served(words, dict(os.environ))
    try:
        state = said(address, "api/state")
        assert state["counts"]["pictures"] == 2
        assert state["counts"]["faces"] >= 2
        face = state["question"]["face"]
        said(address, "api/answer", {"face": face, "verdict": "is", "name": "Eileen Collins"})
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    finally:
        process.kill()
    process, address = served(words, dict(os.environ))
    try:
        state = said(address, "api/state")
        assert [one["name"] for one in state["people"]] == ["Eileen Collins"]
        assert state["purpose"] == "a test"
        said(address, "api/finish", {})
        stdout, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == OK
    assert "Eileen" not in stdout
    assert "labels.csv" in stdout
    assert "Eileen Collins" in Path(out).read_text("utf-8")


# --- The page in a browser -------------------------------------------------------------------------------------------


def a_browser() -> str | None:
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@pytest.fixture
def address(found: Found) -> Iterator[tuple[str, Session]]:
    uvicorn = pytest.importorskip("uvicorn", reason="the extra server is not installed")
    from mien.verbs.curate._label import _listen
    from mien.verbs.curate._server import make_app

    session = opened(found)
    session.purpose = None
    listening = _listen(0)
    server = uvicorn.Server(uvicorn.Config(make_app(session, TOKEN), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/", session
    server.should_exit = True
    thread.join(10)
    listening.close()


@pytest.mark.slow
def test_the_page_is_answered_by_keys(address: tuple[str, Session], found: Found, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = a_browser()
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    url, session = address
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(30_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        foreign: list[str] = []
        page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith(url) else None)
        page.goto(url)
        page.fill("#purpose", "a family album")
        page.check("#agreed")
        page.press("#purpose", "Enter")
        page.wait_for_selector("#question:visible")

        def face() -> int:
            return int(page.get_attribute("#face", "src").split("/")[1].split(".")[0])

        def settled(count: int) -> None:
            deadline = time.monotonic() + 30
            while len(session.answers.lines) < count:
                assert time.monotonic() < deadline, "no answer came"
                page.wait_for_timeout(20)
            page.wait_for_selector("body:not(.busy)")

        lines = 0
        for _ in range(PEOPLE):  # names typed
            page.keyboard.press("n")
            page.keyboard.type(truth(found, face()))
            page.keyboard.press("Enter")
            lines += 1
            settled(lines)
        assert len(session.people()) == PEOPLE
        page.keyboard.press("z")
        lines += 1
        settled(lines)
        assert len(session.people()) == PEOPLE - 1
        name = truth(found, face())
        page.keyboard.press("n")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        lines += 1
        settled(lines)

        page.wait_for_selector("#batch:visible")
        shown = page.locator("#grid .tile").count()
        page.locator("#grid .tile").first.click()  # this one is not
        page.keyboard.press("c")
        lines += shown
        settled(lines)
        verdicts = [line.verdict for line in session.answers.lines[-shown:]]
        assert verdicts.count("is") == shown - 1
        assert verdicts.count("not") == 1

        page.wait_for_selector("#why.doubt")
        page.keyboard.press("n")
        page.keyboard.type("be")  # completed by what was typed before
        page.wait_for_selector("#menu li")
        assert page.locator("#menu li").first.inner_text() == "Ben Ott"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        lines += 1
        settled(lines)
        assert session.answers.lines[-1].name == "Ben Ott"
        for key, verdict in (("s", "skip"), ("u", "stranger"), ("x", "not a face")):
            if page.is_hidden("#question"):
                break
            page.keyboard.press(key)
            lines += 1
            settled(lines)
            assert session.answers.lines[-1].verdict == verdict
        page.click("#finish")
        page.wait_for_selector("#ended:visible")
        browser.close()
    assert wrong == []
    assert foreign == []
