"""What pages of MiniWoB++ look like after something was done on them, so that training asks the
browser once for each.

Called by miniwob.py: when train.py plays there, what was seen is kept in a file beside the warm
starts, and every demonstration, screen and reward that needs the same page again has it from there.
It starts no browser, and it is not used for the pages of the split `test`.
"""

import dataclasses
import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.browser import Element, Page, Step, Word
from envs import WorldError


@dataclass(frozen=True)
class Place:
    """A page and all that has been done on it: what is seen there depends on nothing else.

    `scale`: of the picture; `done`: for each action the steps that it became.
    """

    task: str
    seed: int
    scale: int
    done: tuple[tuple[Step, ...], ...] = ()

    def after(self, steps: tuple[Step, ...]) -> "Place":
        return replace(self, done=(*self.done, steps))

    @property
    def name(self) -> str:
        return json.dumps(dataclasses.astuple(self))


class Memory:
    """Pages by their places, and words by their tasks.

    Processes may share a file, and one that is killed leaves it whole. Raises ValueError, one line,
    for a file that is none of ours, and OSError where nothing more can be written.
    """

    def __init__(self, file: Path | None = None):
        """`file`: made where it is not there; None: until the process ends."""
        self.where = ":memory:" if file is None else str(file)
        try:
            # Autocommit: what was seen is kept at once.
            self.rows = sqlite3.connect(self.where, timeout=60, isolation_level=None)
            self.rows.execute("PRAGMA synchronous = OFF")  # only a power cut could harm it
            self.rows.execute(
                "CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, text TEXT, picture BLOB)"
            )
        except sqlite3.Error as error:
            raise self.damaged(error) from error

    def damaged(self, error: sqlite3.Error) -> WorldError:
        return WorldError(f"{self.where}, where pages are kept: {error}; remove it")

    def find(self, place: Place) -> Page | None:
        found = self.row(place.name)
        return None if found is None else read_page(*found)

    def keep(self, place: Place, page: Page) -> None:
        values = dataclasses.asdict(page)
        picture = values.pop("picture")
        self.write(place.name, values, picture)

    def find_words(self, tasks: tuple[str, ...]) -> tuple[str, ...] | None:
        found = self.row(f"words of {','.join(tasks)}")
        return None if found is None else tuple(json.loads(found[0]))

    def keep_words(self, tasks: tuple[str, ...], words: tuple[str, ...]) -> None:
        self.write(f"words of {','.join(tasks)}", words, b"")

    def row(self, name: str) -> tuple[str, bytes] | None:
        try:
            found = self.rows.execute("SELECT text, picture FROM kept WHERE name = ?", [name])
            return found.fetchone()
        except sqlite3.Error as error:
            raise self.damaged(error) from error

    def write(self, name: str, value: object, picture: bytes) -> None:
        # What another process has written meanwhile stays: it is the same.
        row = (name, json.dumps(value), picture)
        try:
            self.rows.execute("INSERT OR IGNORE INTO kept VALUES (?, ?, ?)", row)
        except sqlite3.Error as error:  # the disk is full
            raise OSError(None, str(error), self.where) from error

    def close(self) -> None:
        self.rows.close()


def read_page(text: str, picture: bytes) -> Page:
    """The page that Memory.keep has written down, equal in all its parts."""
    values = json.loads(text)
    elements = []
    for element in values.pop("elements"):
        for name in ("box", "whole"):
            element[name] = tuple(element[name])
        elements.append(Element(**element))
    words = [Word(word["text"], tuple(word["box"])) for word in values.pop("words")]
    return Page(elements=tuple(elements), words=tuple(words), picture=picture, **values)
