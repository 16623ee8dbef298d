"""benchmarks/miniwob_pages.py: what is kept of pages, and that it comes back equal."""

import io
import multiprocessing
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.browser import Element, Page, Step, Word
from benchmarks.miniwob_pages import Memory, Place

shares = st.floats(0, 1)
boxes = st.tuples(shares, shares, shares, shares)
elements = st.builds(Element, label=st.text(), box=boxes, whole=boxes, tag=st.text())
pages = st.builds(
    Page,
    instruction=st.text(),
    elements=st.lists(elements, max_size=3).map(tuple),
    words=st.lists(st.builds(Word, text=st.text(), box=boxes), max_size=3).map(tuple),
    picture=st.binary(),
    done=st.booleans(),
    raw_reward=st.floats(-1, 1),
    reason=st.text(),
)
HERE = Place("click-tab", 7, 1)
CLICK = (Step("CLICK_COORDS", (8.0, 16.5)),)


def page(colour: str = "white") -> Page:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "png")
    box = (0.0, 0.1, 0.2, 1 / 3)
    seen = Element("Tab #1", box=box, whole=box, tag="a", focused=True, operable=True)
    return Page("Click.", (seen,), (Word("Tab", box),), file.getvalue())


@given(pages)
def test_a_page_comes_back_equal_in_all_its_parts(seen):
    memory = Memory()
    memory.keep(HERE, seen)
    assert memory.find(HERE) == seen


def test_every_place_is_another():
    places = [
        HERE,
        Place("click-test", 7, 1),
        Place("click-tab", 8, 1),
        Place("click-tab", 7, 2),
        HERE.after(CLICK),
        HERE.after(CLICK).after(CLICK),
        HERE.after((*CLICK, *CLICK)),  # one action of two steps: the page rests only after both
        HERE.after((Step("TYPE_TEXT", text="a"),)),
        HERE.after((Step("NONE", pause=0.5),)),
    ]
    memory = Memory()
    for number, place in enumerate(places):
        assert memory.find(place) is None
        memory.keep(place, Page(str(number), (), (), b""))
    found = [memory.find(place).instruction for place in places]
    assert found == [str(number) for number in range(len(places))]
    assert HERE.done == ()


def test_what_was_seen_first_stays():
    memory = Memory()
    memory.keep(HERE, page("white"))
    memory.keep(HERE, page("red"))
    assert memory.find(HERE) == page("white")


def test_a_file_is_kept_and_read_by_the_next_process(tmp_path):
    file = tmp_path / "pages.sqlite"
    memory = Memory(file)
    memory.keep(HERE, page())
    memory.keep_words(("click-tab", "click-test"), ("Tab", "#"))
    memory.close()
    again = Memory(file)
    assert again.find(HERE) == page()
    assert again.find_words(("click-tab", "click-test")) == ("Tab", "#")
    assert again.find_words(("click-tab",)) is None


def keep_some(file, first: int) -> None:
    memory = Memory(file)
    for seed in range(first, first + 30):
        memory.keep(Place("click-tab", seed, 1), page())


def test_processes_share_a_file(tmp_path):
    file = tmp_path / "pages.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=keep_some, args=(file, first)) for first in (0, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    memory = Memory(file)
    assert all(memory.find(Place("click-tab", seed, 1)) == page() for seed in range(50))


def test_a_file_that_is_none_of_ours_is_one_line(tmp_path):
    file = tmp_path / "pages.sqlite"
    file.write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(
        ValueError, match=r"pages\.sqlite, where pages are kept: .*remove it"
    ) as error:
        Memory(file)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="where pages are kept"):
        Memory(tmp_path / "no folder" / "pages.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE things (name TEXT)")
    other.close()
    assert Memory(tmp_path / "other.sqlite").find(HERE) is None


def test_a_disk_that_is_full_is_an_error_of_the_disk(tmp_path):
    """As train.py tells it: the file, and that --resume goes on."""
    memory = Memory(tmp_path / "pages.sqlite")
    memory.rows.execute("PRAGMA max_page_count = 3")
    with pytest.raises(OSError, match="full") as error:
        for seed in range(50):
            memory.keep(Place("click-tab", seed, 1), replace(page(), picture=bytes(5000)))
    assert error.value.filename == str(tmp_path / "pages.sqlite")
