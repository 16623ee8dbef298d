"""Scripts that solve tasks of MiniWoB++: from a page to the actions that are still to be done.

Called by miniwob.py, for the reference of stage 1 and for `--planner oracle`.
A script knows what an adapter has: the instruction and the elements that can be seen now. It reads
no hidden part of the page, no JavaScript and no reward, and it has no memory: it can be asked on
any page of its task, also after a wrong step.
"""

import operator
import re
from collections.abc import Callable, Sequence

from benchmarks.browser import Element, Page
from envs import POINTING, Action, centre

Script = Callable[[Page], list[Action]]


class NotSeen(LookupError):
    """Nothing of that kind on the page: perhaps it is still coming."""


def plan(task: str, page: Page) -> list[Action]:
    """What is to be done from here, to the end as far as it can be known; never empty.

    Where the next thing cannot be seen, the plan is to wait for it. Raises KeyError for a task
    without a script.
    """
    script = SCRIPTS[task]
    try:
        actions = script(page)
    except NotSeen:
        actions = []
    if not actions:
        return [Action("wait")]
    if actions[0].kind in POINTING and actions[0].point is None:
        return [Action("wait"), *actions]
    return actions


# ---- words of the scripts ------------------------------------------------------------------------


def seen(page: Page, label: str | None = None, css: str = "", **wanted: str) -> list[Element]:
    """The elements with this label, this class (their own or their parent's), this tag, ..."""
    fitting = []
    for element in page.elements:
        if label is not None and element.label != label:
            continue
        if css and css not in element.classes.split():
            continue
        if all(getattr(element, name) == value for name, value in wanted.items()):
            fitting.append(element)
    return fitting


def find(page: Page, label: str | None = None, css: str = "", **wanted: str) -> Element:
    """The first of them. Raises NotSeen."""
    fitting = seen(page, label, css, **wanted)
    if not fitting:
        raise NotSeen(f"{label} {css} {wanted}")
    return fitting[0]


def quoted(page: Page) -> list[str]:
    return re.findall(r'"([^"]*)"', page.instruction)


def asked(page: Page, pattern: str) -> str:
    """The first group of a pattern in the instruction."""
    return re.search(pattern, page.instruction)[1]


def click(element: Element) -> Action:
    return Action("click", element.label, centre(element.box))


def submit(page: Page) -> list[Action]:
    """Without a point as long as a menu hides the button."""
    buttons = seen(page, "Submit")
    return [click(buttons[0])] if buttons else [Action("click", "Submit")]


def fill(field: Element, text: str) -> list[Action]:
    """What puts a text into a field; nothing when it is there."""
    if field.value == text:
        return []
    actions = []
    if not field.focused:
        actions.append(click(field))
    if field.value and not field.selected:
        actions.append(Action("key", "ctrl+a"))
    return [*actions, Action("type", text)]


def textbox(page: Page) -> Element:
    for element in page.elements:
        if element.tag == "input" and element.type in ("text", "password"):
            return element
    raise NotSeen("textbox")


# ---- one click -----------------------------------------------------------------------------------


def click_only_button(page: Page) -> list[Action]:
    return [click(find(page, tag="button"))]


def click_button(page: Page) -> list[Action]:
    return [click(find(page, quoted(page)[0], tag="button"))]


def click_named_button(page: Page) -> list[Action]:
    return [click(find(page, asked(page, r"button (\w+)")))]


def click_link(page: Page) -> list[Action]:
    return [click(find(page, quoted(page)[0], css="alink"))]


def click_in_dialog(page: Page) -> list[Action]:
    return [click(find(page, quoted(page)[0]))]


def click_tab(page: Page) -> list[Action]:
    return [click(find(page, asked(page, r"(Tab #\d)")))]


def click_color(page: Page) -> list[Action]:
    return [click(find(page, asked(page, r"the (\w+) colored")))]


def click_widget(page: Page) -> list[Action]:
    kind = quoted(page)[0]
    if kind in ("textarea", "button"):
        return [click(find(page, tag=kind))]
    return [click(find(page, tag="input", type=kind))]


def focus_text(page: Page) -> list[Action]:
    return [click(textbox(page))]


def focus_nth_text(page: Page) -> list[Action]:
    position = asked(page, r"(\d)")
    return [click(find(page, f"textbox {position}"))]


# ---- look for it, then click it ------------------------------------------------------------------


def next_of(elements: Sequence[Element], css: str) -> Element:
    """The one after the one that is open now, the first after the last; the first if none is."""
    if not elements:
        raise NotSeen(css)
    for number, element in enumerate(elements):
        if css in element.classes.split():
            return elements[(number + 1) % len(elements)]
    return elements[0]


def search_tabs(page: Page) -> list[Action]:
    wanted = quoted(page)[0]
    links = seen(page, wanted, css="alink")
    if links:
        return [click(links[0])]
    tabs = seen(page, css="ui-tabs-anchor")
    return [click(next_of(tabs, "ui-tabs-active")), Action("click", wanted)]


def search_sections(page: Page) -> list[Action]:
    wanted = quoted(page)[0]
    links = seen(page, wanted, css="alink")
    if links:
        return [click(links[0])]
    headers = seen(page, css="ui-accordion-header")
    return [click(next_of(headers, "ui-accordion-header-active")), Action("click", wanted)]


def open_section(page: Page) -> list[Action]:
    header = find(page, css="ui-accordion-header")
    if "ui-accordion-header-active" in header.classes:
        return submit(page)
    return [click(header), *submit(page)]


def search_tree(page: Page) -> list[Action]:
    """Folders from top to bottom; where they stand, an open one is followed by what is in it."""
    wanted = quoted(page)[0]
    files = seen(page, wanted)
    if files:
        return [click(files[0])]
    closed = [element for element in seen(page, css="folder") if "expandable" in element.classes]
    if not closed:
        raise NotSeen("folder")
    return [click(closed[0]), Action("click", wanted)]


def click_in_order(page: Page) -> list[Action]:
    """The button that was pressed last has the focus."""
    first = find(page, "ONE")
    second = [click(find(page, "TWO"))]
    return second if first.focused else [click(first), *second]


# ---- boxes to tick and lists ---------------------------------------------------------------------


def tick(page: Page) -> list[Action]:
    wanted = asked(page, r"Select (.*) and click Submit").split(", ")
    actions = []
    for box in [*seen(page, type="checkbox"), *seen(page, type="radio")]:
        to_be_on = box.label in wanted
        if box.on != to_be_on and (to_be_on or box.type == "checkbox"):
            actions.append(click(box))
    return actions + submit(page)


def choose_from_list(page: Page) -> list[Action]:
    option = find(page, asked(page, r"Select (.*) from the list"), tag="option")
    if option.on:
        return submit(page)
    return [Action("select", option.label, centre(option.box)), *submit(page)]


# ---- texts ---------------------------------------------------------------------------------------


def enter_text(page: Page) -> list[Action]:
    return fill(textbox(page), quoted(page)[0]) + submit(page)


def enter_in_case(page: Page) -> list[Action]:
    text = quoted(page)[0]
    text = text.upper() if "upper case" in page.instruction else text.lower()
    return fill(textbox(page), text) + submit(page)


def enter_password(page: Page) -> list[Action]:
    password = quoted(page)[0]
    actions = []
    for field in seen(page, type="password"):
        actions += fill(field, password)
    return actions + submit(page)


def log_in(page: Page) -> list[Action]:
    user, password = quoted(page)[:2]
    actions = fill(find(page, "Username", tag="input"), user)
    actions += fill(find(page, "Password", tag="input"), password)
    return actions + [click(find(page, id="subbtn"))]


def log_in_with_popup(page: Page) -> list[Action]:
    """The popup covers the fields, and the other button of it ends the task."""
    cancel = seen(page, "Cancel")
    return [click(cancel[0])] if cancel else log_in(page)


def enter_segments(page: Page, value: str, keys: str) -> list[Action]:
    """A field for a date or a time takes digits for its parts, and the tab key finds the first."""
    [field] = seen(page, tag="input")
    if field.value == value:
        return submit(page)
    to_the_first_part = [] if field.focused else [Action("key", "tab")]
    return [*to_the_first_part, Action("type", keys), *submit(page)]


def enter_date(page: Page) -> list[Action]:
    month, day, year = re.search(r"(\d+)/(\d+)/(\d+)", page.instruction).groups()
    return enter_segments(page, f"{year}-{month}-{day}", f"{month}{day}{year}")


def enter_time(page: Page) -> list[Action]:
    hour, minute, half = re.search(r"(\d+):(\d+)\s*([AP])M", page.instruction).groups()
    hours = int(hour) % 12  # since midnight
    if half == "P":
        hours += 12
    keys = f"{int(hour):02}{minute}{half.lower()}"
    return enter_segments(page, f"{hours:02}:{minute}", keys)


def autocomplete(page: Page) -> list[Action]:
    """The list opens late, and of a long one the end hangs below the page, for keys to reach."""
    start, *more = quoted(page)
    end = more[0] if more else ""
    field = find(page, tag="input")
    items = seen(page, css="ui-menu-item-wrapper")
    if len(field.value) > len(start) and is_between(field.value, start, end):
        close = [Action("key", "tab")] if items else []
        return close + submit(page)
    for item in items:
        if is_between(item.label, start, end):
            return [click(item), *submit(page)]
    if items:
        return [Action("key", "up")]  # from the last one upwards
    typing = fill(field, start)
    return typing if typing else [Action("key", "down")]  # opens the list


def is_between(text: str, start: str, end: str) -> bool:
    return text.startswith(start) and text.endswith(end)


def read_table(page: Page) -> list[Action]:
    wanted = asked(page, r"the value of (.*) into")
    return fill(textbox(page), table(page)[wanted]) + submit(page)


def read_two_of_table(page: Page) -> list[Action]:
    values = table(page)
    actions = []
    for field in seen(page, tag="input"):
        actions += fill(field, values[field.label.rstrip(":")])
    return actions + submit(page)


def table(page: Page) -> dict[str, str]:
    """A table with two columns."""
    cells = [element.label for element in seen(page, tag="td")]
    return dict(zip(cells[::2], cells[1::2], strict=False))


def find_word(page: Page) -> list[Action]:
    words = find(page, tag="p").label.split()
    word = words[int(asked(page, r"the (\d+)")) - 1]
    return fill(textbox(page), re.sub(r"\W", "", word)) + submit(page)


def calculate(page: Page) -> list[Action]:
    field = textbox(page)  # which is named by the problem before it
    first, sign, second = re.match(r"(\d+) (.) (\d+)", field.label).groups()
    operation = {"+": operator.add, "-": operator.sub, "x": operator.mul}[sign]
    return fill(field, str(operation(int(first), int(second)))) + submit(page)


def solve(page: Page) -> list[Action]:
    """x + 3 = 57, x - 3 = 57, 3 + x = 57 or 3 - x = 57."""
    problem = find(page, id="math-problem").label
    left, sign, right, result = re.match(r"(\w+) (.) (\w+) = (-?\d+)", problem).groups()
    if sign == "+":
        x = int(result) - int(right if left == "x" else left)
    elif left == "x":
        x = int(result) + int(right)
    else:
        x = int(left) - int(result)
    return fill(textbox(page), str(x)) + submit(page)


def search_movie(page: Page) -> list[Action]:
    genre, name, year = re.search(
        r"for (.*) movies directed by (.*) from year (\d+)", page.instruction
    ).groups()
    texts = {"Genre": genre, "Director": name, "Year": year, "Date": year}
    actions = []
    for field in seen(page, tag="input"):
        for word, text in texts.items():
            if word in field.label:
                actions += fill(field, text)
    for label in ("Submit", "Search", "Go!"):
        actions += [click(element) for element in seen(page, label)]
    return actions


def search_engine(page: Page) -> list[Action]:
    name = quoted(page)[0]
    number = int(asked(page, r"the (\d+)")) - 1
    actions = fill(textbox(page), name)
    results = seen(page, css="search-title")
    if actions or not results:
        return [*actions, click(find(page, "Search", tag="button"))]
    turn = str(number // 3 + 1)
    [now] = seen(page, css="active")
    if now.label != turn:
        return [click(find(page, turn, css="page-link"))]
    return [click(results[number % 3])]


def fill_sequence(page: Page) -> list[Action]:
    position = asked(page, r"the (\d)\w+ (?:radio|checkbox)")
    kind = asked(page, r"the \d\w+ (radio|checkbox)")
    box = find(page, f"{kind} {position}")
    place = asked(page, r"the (\d)\w+ textbox")
    field = find(page, f"textbox {place}")
    ticked = [] if box.on else [click(box)]
    return ticked + fill(field, quoted(page)[0]) + submit(page)


# ---- drags ---------------------------------------------------------------------------------------


def drag(element: Element, goal: Element) -> Action:
    return Action(
        "drag", f"{element.label} to {goal.label}", centre(element.box), centre(goal.whole)
    )


def drag_box(page: Page) -> list[Action]:
    small = find(page, id="draggableSmall")
    large = find(page, id="draggableLarge")
    x1, y1, x2, y2 = small.whole
    left, top, right, bottom = large.whole
    if left < x1 and top < y1 and x2 < right and y2 < bottom:
        return submit(page)
    return [drag(small, large), *submit(page)]


def drag_item(page: Page) -> list[Action]:
    items = [item for item in seen(page, css="ui-sortable-handle") if item.label]
    labels = [item.label for item in items]
    name, where = re.match(r"Drag (.*?) (to the|down by|up by) ", page.instruction).groups()
    old = labels.index(name)
    if where == "down by":
        new = old + 1
    elif where == "up by":
        new = old - 1
    elif "to the top" in page.instruction:
        new = 0
    elif "to the bottom" in page.instruction:
        new = len(items) - 1
    else:
        new = int(asked(page, r"the (\d)")) - 1
    return [drag(items[old], items[new])]


def sort_numbers(page: Page) -> list[Action]:
    """Put the smallest first, then the second smallest, and so on."""
    items = [item for item in seen(page, css="ui-sortable-handle") if item.label]
    order = sorted(items, key=lambda item: int(item.label))
    for now, wanted in zip(items, order, strict=True):
        if now is not wanted:
            return [drag(wanted, now)]
    return submit(page)


SCRIPTS: dict[str, Script] = {
    "choose-list": choose_from_list,
    "click-button": click_button,
    "click-button-sequence": click_in_order,
    "click-checkboxes": tick,
    "click-checkboxes-large": tick,
    "click-checkboxes-transfer": tick,
    "click-collapsible": open_section,
    "click-collapsible-nodelay": open_section,
    "click-collapsible-2": search_sections,
    "click-collapsible-2-nodelay": search_sections,
    "click-color": click_color,
    "click-dialog": click_in_dialog,
    "click-dialog-2": click_in_dialog,
    "click-link": click_link,
    "click-option": tick,
    "click-tab": click_tab,
    "click-tab-2": search_tabs,
    "click-tab-2-easy": search_tabs,
    "click-tab-2-hard": search_tabs,
    "click-tab-2-medium": search_tabs,
    "click-test": click_only_button,
    "click-test-2": click_named_button,
    "click-test-transfer": click_named_button,
    "click-widget": click_widget,
    "drag-box": drag_box,
    "drag-items": drag_item,
    "drag-sort-numbers": sort_numbers,
    "enter-date": enter_date,
    "enter-password": enter_password,
    "enter-text": enter_text,
    "enter-text-2": enter_in_case,
    "enter-text-dynamic": enter_text,
    "enter-time": enter_time,
    "find-word": find_word,
    "focus-text": focus_text,
    "focus-text-2": focus_nth_text,
    "form-sequence-2": fill_sequence,
    "login-user": log_in,
    "login-user-popup": log_in_with_popup,
    "multi-layouts": search_movie,
    "multi-orderings": search_movie,
    "navigate-tree": search_tree,
    "read-table": read_table,
    "read-table-2": read_two_of_table,
    "search-engine": search_engine,
    "simple-algebra": solve,
    "simple-arithmetic": calculate,
    "use-autocomplete": autocomplete,
    "use-autocomplete-nodelay": autocomplete,
}
