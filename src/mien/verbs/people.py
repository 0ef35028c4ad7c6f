"""``people``: who is in a gallery; list, show, rename, merge, delete, and how long somebody may be kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mien.gallery import Deleted, Face, Gallery, Person
from mien.verbs.enroll import opened


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A person with all faces and where they come from."""

    person: Person
    faces: tuple[Face, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What became of a person.

    Parameters
    ----------
    person
        As they are now.
    faces
        How many faces were touched.
    """

    person: Person
    faces: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def list_people(
    *, gallery: str | os.PathLike[str] | Gallery, match: str | None = None, after: int = 0, most: int | None = None
) -> tuple[Person, ...]:
    """Lists who is in a gallery, with how many faces, on what basis, and until when.

    Parameters
    ----------
    gallery
        A file, or milvus://host:port; in Python also an open gallery.
    match
        Only names with this in them.
    after
        Only people of higher numbers: to page through many.
    most
        At most so many.

    Returns
    -------
    tuple of Person

    Raises
    ------
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with opened(gallery) as place:
        return place.people(match=match, after=after, most=most)


def show_person(name: str, *, gallery: str | os.PathLike[str] | Gallery) -> Shown:
    """Shows a person's faces: from which pictures, of what quality, by whom and on what basis they were enrolled.

    Parameters
    ----------
    name
        Name, or number as "#17".
    gallery
        A file, or milvus://host:port; in Python also an open gallery.

    Returns
    -------
    Shown

    Raises
    ------
    UnknownPerson
        Nobody is called that.
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with opened(gallery) as place:
        return Shown(person=place.person(name), faces=place.faces(name))


def rename_person(name: str, target: str, *, gallery: str | os.PathLike[str] | Gallery, purpose: str = "") -> Changed:
    """Gives a person another name.

    Parameters
    ----------
    name
        Name as it is, or number as "#17".
    target
        The new name, which nobody else has.
    gallery
        A file, or milvus://host:port; in Python also an open gallery.
    purpose
        For the log.

    Returns
    -------
    Changed

    Raises
    ------
    UnknownPerson, OptionError
        Nobody is called that; somebody has the new name already.
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with opened(gallery) as place:
        number = place.rename(name, target, note=purpose)
        person = place.person(f"#{number}")
        return Changed(person=person, faces=person.faces)


def merge_people(name: str, target: str, *, gallery: str | os.PathLike[str] | Gallery, purpose: str = "") -> Changed:
    """Makes one person of two: all faces of the first go to the second, and the first is gone.

    Parameters
    ----------
    name
        Who is going to be gone.
    target
        Who stays.
    gallery
        A file, or milvus://host:port; in Python also an open gallery.
    purpose
        For the log.

    Returns
    -------
    Changed

    Raises
    ------
    UnknownPerson, OptionError
        Nobody is called that; both are the same person.
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with opened(gallery) as place:
        moved = place.merge(name, target, note=purpose)
        return Changed(person=place.person(target), faces=moved)


def delete_person(
    name: str,
    *,
    gallery: str | os.PathLike[str] | Gallery,
    faces: tuple[int, ...] | None = None,
    purpose: str = "",
) -> Deleted:
    """Deletes a person with all faces, or some faces; it is overwritten in every file, and only the log remembers that
    there was a number.

    Parameters
    ----------
    name
        Name, or number as "#17".
    gallery
        A file, or milvus://host:port; in Python also an open gallery.
    faces
        Only faces of these numbers, as "mien people show" tells them; the person stays.
    purpose
        For the log.

    Returns
    -------
    Deleted

    Raises
    ------
    UnknownPerson, OptionError
        Nobody is called that; a face is not theirs.
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with opened(gallery) as place:
        if faces is not None:
            return place.delete_faces(name, tuple(faces), note=purpose)
        return place.delete([name], note=purpose)


def retain_person(
    name: str, *, gallery: str | os.PathLike[str] | Gallery, until: str | None = None, purpose: str = ""
) -> Changed:
    """Sets the last day on which a person may be kept; after it they are no longer found, and expire deletes them.

    Parameters
    ----------
    name
        Name, or number as "#17".
    gallery
        A file, or milvus://host:port; in Python also an open gallery.
    until
        YYYY-MM-DD. Default: no end.
    purpose
        For the log.

    Returns
    -------
    Changed

    Raises
    ------
    UnknownPerson, OptionError
        Nobody is called that; it is no date.
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with opened(gallery) as place:
        place.retain(name, until, note=purpose)
        person = place.person(name)
        return Changed(person=person, faces=person.faces)


COMMANDS: dict[str, Callable[..., Any]] = {
    "list": list_people,
    "show": show_person,
    "rename": rename_person,
    "merge": merge_people,
    "delete": delete_person,
    "retain": retain_person,
}

# `mien.people.rename` is what `mien people rename` calls.
list = list_people
show = show_person
rename = rename_person
merge = merge_people
delete = delete_person
retain = retain_person
