"""``curate label``: names for the faces of a folder, asked on a page of this machine."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.errors import MissingExtra, OptionError, WeightsError
from mien.faces import Failure
from mien.verbs._pipeline import Plan, Progress

if TYPE_CHECKING:
    from mien.verbs.curate._faces import FaceStore
    from mien.verbs.curate._session import Session

log = logging.getLogger(__name__)

RULES = ("lowest", "random", "margin", "entropy")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What a session ended with.

    Parameters
    ----------
    labels
        The labels file.
    faces
        Found in the folder.
    people
        Names.
    named
        Faces that a person named.
    certain
        Faces that the machine named, and nobody has confirmed; they stand in the file as the machine's.
    rejected, skipped, open
        Faces of strangers or none; those that were passed over; those that nobody has said anything about.
    failures
        Pictures that could not be read.
    """

    labels: str
    faces: int
    people: int
    named: int
    certain: int
    rejected: int
    skipped: int
    open: int
    failures: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def label(
    path: str,
    *,
    out: str | None = None,
    recursive: bool = False,
    purpose: str | None = None,
    rule: str = "lowest",
    questions: int = 10,
    forget: bool = False,
    threshold: float | None = None,
    size: int = 640,
    min_face: float = 24.0,
    weights: str = "mien-embedder",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    port: int = 0,
    browser: bool = True,
    progress: Progress | None = None,
) -> Labelled:
    """Labels the faces of a folder on a local page: it asks about the unclear ones and proposes the certain ones.

    Faces are found and embedded once; then a page is served on 127.0.0.1, behind a random word in its address, until
    it is finished there or interrupted. Every answer is appended to the labels file at once, and a session that was
    killed goes on where it stopped. Nothing is sent anywhere. The method is that of mien.papers.aspl.

    Parameters
    ----------
    path
        Folder of pictures.
    out
        Labels file (CSV). Default: ``mien-labels.csv`` in the folder. Faces, embeddings and small pictures are kept
        beside it, in a file of its name that ends in ``.faces``.
    recursive
        Go into the folders of the folder.
    purpose
        What the labels are for. Default: the page asks for it. Either way it is kept, and nobody is shown before.
    rule
        Which faces are asked about: "lowest" (no classifier is sure), "margin", "entropy" or "random".
    questions
        Answers after which the machine grows bolder, and asks again about answers that do not fit the others.
    forget
        Delete the file of faces at the end; the labels stay, and a next session looks at all pictures again.
    threshold
        Least score of a face, 0 to 1. Default: the one declared with the weights.
    size
        Long side in pixels at which pictures are looked at.
    min_face
        Least side of a face in pixels of the picture.
    weights
        Name of the embedder's weights.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    port
        Of the page. Default: any that is free.
    browser
        Open the page in a browser.
    progress
        Called as ``progress(done, total, what)`` while faces are looked for.

    Returns
    -------
    Labelled
        Counts, and the place of the labels file.

    Raises
    ------
    MissingExtra
        FastAPI or uvicorn is not installed (extra ``server``).
    MediaError
        There is no such folder, no picture in it, or the labels cannot be written.
    TableError
        The labels file is something else.
    OptionError
        An option is out of range, or the port is taken.
    WeightsError, DeviceUnavailable
        What was asked for is not there.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtra("fastapi" if "fastapi" in str(error) else "uvicorn", extra="server") from error

    from mien.verbs.curate._server import make_app

    if questions < 1:
        raise OptionError("questions is out of range", got=questions, expected="at least 1")
    if rule not in RULES:
        raise OptionError.unknown("unknown rule", rule, RULES)
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size, min_face=min_face,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    folder = Path(path)
    target = folder / "mien-labels.csv" if out is None else Path(out)
    listening = _listen(port)
    with listening:
        store, session = opened(
            folder, target, plan, recursive=recursive, rule=rule, questions=questions, progress=progress
        )
        session.purpose = " ".join(purpose.split()) if purpose else store.get("purpose")
        if purpose:
            store.put("purpose", purpose)
        token = secrets.token_urlsafe(16)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/"

        def stop() -> None:
            server.should_exit = True

        app = make_app(session, token, keep_purpose=lambda said: store.put("purpose", said), stop=stop)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
        counts = session.counts()
        log.info("%d faces in %d pictures; label them at %s", counts["faces"], counts["pictures"], address)
        if browser:
            import webbrowser

            webbrowser.open(address)  # the socket listens already, so the browser waits for the server
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in order and passes it on
            server.run(sockets=[listening])
    if session.purpose is not None:
        session.finish()
    counts = session.counts()
    result = Labelled(
        labels=str(target), people=len(session.people()), failures=session.found.failures,
        **{name: counts[name] for name in ("faces", "named", "certain", "rejected", "skipped", "open")},
    )  # fmt: skip
    if forget:
        store.forget()
    else:
        store.close()
    return result


def opened(
    folder: Path, target: Path, plan: Plan, *, recursive: bool, rule: str, questions: int,
    progress: Progress | None = None,
) -> tuple[FaceStore, Session]:  # fmt: skip
    """The file of faces, all of them found, and the session over them."""
    from mien.verbs.calibrate import bundled_calibration
    from mien.verbs.curate._answers import Answers
    from mien.verbs.curate._faces import FaceStore
    from mien.verbs.curate._session import Session

    if not folder.is_dir():
        # Said before a file is made beside it.
        from mien.errors import MediaNotFound, NotAFile

        kind = NotAFile if folder.exists() else MediaNotFound
        raise kind("faces are labelled in a folder of pictures", got=str(folder), hint="give the folder")
    answers = Answers(target)
    store = FaceStore(target.with_suffix(".faces"))
    found = store.look(folder, plan, recursive=recursive, progress=progress)
    assert plan.embedder is not None
    try:
        alike = bundled_calibration(plan.embedder).threshold_at(1e-3)
    except (WeightsError, OptionError):  # imported weights come without a table; half way is what most of them need
        alike = 0.5
    return store, Session(found, answers, rule=rule, questions=questions, alike=alike)


def _listen(port: int) -> socket.socket:
    """A socket of this machine alone, which listens."""
    if not 0 <= port <= 65535:
        raise OptionError("port is out of range", got=port, expected="0 (any) to 65535")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise OptionError(
            "the port cannot be had", got=f"{port}: {error.strerror}", expected="a free one, or 0"
        ) from error
    return listening
