"""A process that enrols made-up people until it is killed, and says what was acknowledged.

    python enrolling.py GALLERY NAME FIRST [BATCHES]

Person "NAME-7" has the picture of number 7. After every acknowledged batch a line ``first last`` is written. A picture
that both writers of a test have, "shared", comes along with each batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

# Started by its path, so that its neighbours are no package to it.
sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    from tests.gallery.conftest import CONTRACT, face_of

    from mien.gallery import Batch, Gallery

    path, name, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
    batches = int(sys.argv[4]) if len(sys.argv) > 4 else 1 << 30
    rng = np.random.default_rng(first)
    with Gallery.open(path, contract=CONTRACT, create=True) as gallery:
        for _ in range(batches):
            last = first + int(rng.integers(0, 30))
            numbers = range(first, last + 1)
            people = [f"{name}-{number}" for number in numbers]
            rows = [face_of(name, number) for number in numbers]
            keys = [f"{name}-{number}" for number in numbers]
            gallery.add(
                Batch(people=[*people, "shared"], embeddings=np.stack([*rows, face_of("shared", 0)]),
                      sha256=[*keys, "shared"]),
            )  # fmt: skip
            sys.stdout.write(f"{first} {last}\n")
            sys.stdout.flush()
            first = last + 1


if __name__ == "__main__":
    main()
