"""The page's server: on this machine only, behind a random word in the address; nothing leaves the machine.

Imported by the verb when it serves, since FastAPI and uvicorn belong to the extra ``server``.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from mien.errors import MienError
from mien.verbs.curate._session import Session

KINDS = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The page may load nothing from anywhere else, be shown in no frame, and its address goes to nobody."""

PHOTO = 1600
"""Long side in pixels of a whole picture on the page."""


class Purpose(BaseModel):
    """What for, and that those in the pictures agreed or the law allows it."""

    purpose: str = Field(min_length=3, max_length=400)
    agreed: bool


class Said(BaseModel):
    """An answer about one face."""

    face: int
    verdict: str
    name: str = ""


class Confirmed(BaseModel):
    """A batch: these faces are the person, those are not."""

    name: str
    yes: list[int] = Field(max_length=1000)
    no: list[int] = Field(default=[], max_length=1000)


class Renamed(BaseModel):
    """A new name for everybody of the old one."""

    old: str
    new: str


def make_app(
    session: Session,
    token: str,
    *,
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost"}),
    keep_purpose: Callable[[str], None] = lambda purpose: None,
    stop: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application.

    Parameters
    ----------
    session
        What it serves.
    token
        The word in the address; without it everything is 404.
    hosts
        Names under which it may be called: a foreign name that leads here is an attack.
    keep_purpose
        Keeps the purpose that was stated.
    stop
        Ends the server.
    """
    app = FastAPI(title="mien curate label", docs_url=None, redoc_url=None, openapi_url=None)
    routes = APIRouter(prefix="/{token}")

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        host = request.headers.get("host", "").rsplit(":", 1)[0]
        word = request.url.path.split("/")[1]
        if host not in hosts or not secrets.compare_digest(word.encode(), token.encode()):
            return Response("not found", 404, HEADERS, "text/plain")
        if request.method == "POST" and not request.headers.get("content-type", "").startswith("application/json"):
            return Response("JSON is wanted", 415, HEADERS, "text/plain")
        answer = await call(request)
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    @app.exception_handler(MienError)
    async def told(request: Request, error: MienError) -> JSONResponse:
        return JSONResponse({"error": error.to_dict()}, 422)

    def stated() -> None:
        if session.purpose is None:
            raise HTTPException(409, "state the purpose first")

    def known(face: int) -> int:
        if not 0 <= face < len(session.found):
            raise HTTPException(404, "there is no such face")
        return face

    @routes.get("/")
    def page() -> Response:
        return _asset("page.html")

    @routes.get("/page.css")
    def css() -> Response:
        return _asset("page.css")

    @routes.get("/page.js")
    def script() -> Response:
        return _asset("page.js")

    @routes.get("/icon.svg")
    def icon() -> Response:
        return _asset("icon.svg")

    @routes.get("/face/{face}.jpg")
    def face_picture(face: int) -> Response:
        stated()
        with session.lock:
            return _picture(session.found.crops(known(face)))

    @routes.get("/photo/{face}.jpg")
    def photo(face: int) -> Response:
        stated()
        return _picture(whole_picture(session, known(face)))

    @routes.get("/api/state")
    def state() -> dict[str, Any]:
        return session.state() if session.purpose is not None else unstated(session)

    @routes.post("/api/purpose")
    def purpose(said: Purpose) -> dict[str, Any]:
        if not said.agreed:
            raise HTTPException(409, "label faces only of people who agreed, or where the law allows it")
        session.purpose = " ".join(said.purpose.split())
        keep_purpose(session.purpose)
        return session.state()

    @routes.post("/api/answer")
    def answer(said: Said) -> dict[str, Any]:
        stated()
        session.answer(said.face, said.verdict, said.name)
        return session.state()

    @routes.post("/api/batch")
    def batch(said: Confirmed) -> dict[str, Any]:
        stated()
        session.confirm(said.name, said.yes, said.no)
        return session.state()

    @routes.post("/api/rename")
    def rename(said: Renamed) -> dict[str, Any]:
        stated()
        session.rename(said.old, said.new)
        return session.state()

    @routes.post("/api/undo")
    def undo() -> dict[str, Any]:
        stated()
        session.undo()
        return session.state()

    @routes.post("/api/finish")
    def finish() -> dict[str, Any]:
        written = session.finish() if session.purpose is not None else 0
        stop()
        return {"written": written, "labels": str(session.answers.path), "counts": session.counts()}

    app.include_router(routes)
    return app


def unstated(session: Session) -> dict[str, Any]:
    """What is shown before a purpose was stated: no face."""
    return {
        "folder": session.found.folder.name, "labels": str(session.answers.path), "purpose": None,
        "counts": session.counts(),
    }  # fmt: skip


def whole_picture(session: Session, face: int) -> bytes:
    """The picture that a face is in, JPEG, at most PHOTO pixels long."""
    import cv2

    from mien.media import load_image

    image = load_image(session.found.folder / session.found.keys[face][0], reduce_to=PHOTO)
    good, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert good
    return data.tobytes()


def _asset(name: str) -> Response:
    text = (files("mien.verbs.curate") / "page" / name).read_text("utf-8")
    return Response(text, media_type=KINDS[name])


def _picture(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})
