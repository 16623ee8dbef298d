"""One browser with one page of MiniWoB++ in it: its processes, its folder, and what is on the page.

Called by miniwob.py, which keeps a few of them; miniwob_oracle.py reads the pages.
Does not know actions, tasks or rewards of ours. selenium is not imported before the first browser
starts, miniwob not before its tasks are listed.

Nothing of a browser outlives the process that opened it, not even after kill -9: each browser is
started through two small shell scripts, which ask the kernel for a signal when their parent dies
(setpriv --pdeathsig) and remove the browser's folder of temporary files.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from envs import Box, WorldError, one_line

WIDTH = 160  # px of a task, the instruction's yellow strip included
HEIGHT = 210
# px, as the package's own windows and BrowserGym's: it decides where menus open.
WINDOW = (500, 320)
HOUR = 3_600_000  # ms: the time limit, so that a slow policy is not a wrong one


class BrowserLost(RuntimeError):
    """The browser or its driver has died, or does not answer."""


# ---- processes and folders that end with us ------------------------------------------------------

INSTALL = "apt-get install chromium chromium-driver && pip install miniwob==1.1.0"
INSTALL_SETPRIV = "apt-get install util-linux"
VARIABLES = {"chromium": "MINIWOB_CHROME_BINARY", "chromedriver": "MINIWOB_CHROMEDRIVER"}

# What is started in the place of chromedriver. The shell stays: it is told when Python dies, ends
# the driver and removes the folder. Should the shell itself be killed, the driver ends with it, and
# with the driver the browser; nobody is asked politely, for nothing is to be kept. A session of its
# own: ctrl+c is for Python, which would take a browser that hears it too for a crashed one.
DRIVER_SCRIPT = """#!/usr/bin/env -S setsid setpriv --pdeathsig TERM sh
[ "$PPID" = {python} ] || exit 1  # it died before the signal was asked for
export TMPDIR={folder} XDG_CACHE_HOME={folder} XDG_CONFIG_HOME={folder}
setpriv --pdeathsig KILL {chromedriver} "$@" &
driver=$!
trap 'kill -KILL "$driver"' TERM
while kill -0 "$driver" 2>/dev/null; do wait "$driver"; done
for attempt in 1 2 3 4 5 6 7 8 9 10; do  # the browser's last processes may still write
  rm -rf {folder} 2>/dev/null && break
  sleep 0.1
done
exit 1  # selenium waits half a minute for a driver that has ended with 0
"""
# What is started in the place of chromium. Scrolling in one go: a picture taken after a turn of the
# wheel would show some moment on the way.
BROWSER_SCRIPT = """#!/bin/sh
exec setpriv --pdeathsig KILL {chromium} --disable-smooth-scrolling "$@"
"""
PREFIX = "tracer1-browser-"


def find_programs() -> dict[str, str]:
    """Where chromium and chromedriver are: as the environment says, else in PATH.

    Raises WorldError, one line, when one is missing or only one of the two variables is set.
    """
    given = {program: os.environ.get(variable) for program, variable in VARIABLES.items()}
    if any(given.values()) and not all(given.values()):
        raise WorldError(f"set both of {' and '.join(VARIABLES.values())}, or neither")
    found = {}
    for program in (*VARIABLES, "setpriv"):
        path = shutil.which(given.get(program) or program)
        if path is None:
            named = given.get(program) or program
            install = INSTALL_SETPRIV if program == "setpriv" else INSTALL
            raise WorldError(f"there is no {named}; MiniWoB++ needs: {install}")
        found[program] = path
    return found


def version_of_pages() -> str:
    """Changes with the browser, with the tasks, and with what is read of a page.

    Raises WorldError, one line, when something is missing.
    """
    chromium = find_programs()["chromium"]
    answer = subprocess.run([chromium, "--version"], capture_output=True, check=False).stdout
    list_tasks()  # is the package there?
    parts = [answer, version("miniwob").encode(), Path(__file__).read_bytes()]
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:12]


@dataclass
class Nest:
    """The folder of one browser: the two scripts, and all its temporary files.

    The lock is held as long as this process lives; another one may remove what nobody holds.
    """

    folder: Path
    lock: TextIO


def make_nest(programs: dict[str, str]) -> Nest:
    remove_orphans()
    # Renamed when it is locked, so that nobody takes it for an orphan before that.
    young = Path(tempfile.mkdtemp(prefix="."))
    lock = open(young / "lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = young.with_name(PREFIX + young.name[1:])
    young.rename(folder)
    names = {program: shlex.quote(path) for program, path in programs.items()}
    driver = DRIVER_SCRIPT.format(python=os.getpid(), folder=shlex.quote(str(folder)), **names)
    for program, script in [("chromedriver", driver), ("chromium", BROWSER_SCRIPT.format(**names))]:
        (folder / program).write_text(script)
        (folder / program).chmod(0o700)
    return Nest(folder, lock)


def remove_orphans() -> None:
    """Remove folders whose process and whose scripts have all been killed at once."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with open(folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it is held, or another's, or has just gone
            continue


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a moment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- what is on a page ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """Something that can be seen on a page. Hidden and covered ones are left out.

    `label`: what a person would call it: its own text, the text beside a field, what an icon's
    name says; "textbox" and so on where there is nothing (numbered from the top where there are
    several); "" for what has no name at all.
    `whole`: its box in 0..1, cut to the task's area; `box`: the same, or where something covers the
    middle of it, a part that can be clicked.
    `operable`: a button, a link, a field, not mere text.
    """

    label: str
    box: Box
    whole: Box
    tag: str  # button, span, text (a piece of a paragraph), input, select, option, ...
    type: str = ""  # of an input: text, checkbox, radio, ...
    id: str = ""
    classes: str = ""  # its own and its parent's
    value: str = ""  # what a field holds
    on: bool = False  # a box that is ticked, an option that is chosen
    focused: bool = False
    selected: bool = False  # all of its text is marked: typing replaces it
    operable: bool = False


@dataclass(frozen=True)
class Word:
    """A word as it is drawn, the name of an icon, or what a field looks like.

    Fields are <field>, with the focus <cursor>; boxes to tick <on> and <off>; lists <more>.
    """

    text: str
    box: Box


@dataclass(frozen=True)
class Step:
    """What the miniwob package can be told to do; the fields that its kind does not need are empty.

    `coords`: px of the task; `key`: as the package writes it, C-a or <Enter>; `pause`: seconds to
    wait after it.
    """

    kind: str
    coords: tuple[float, float] | None = None
    text: str = ""
    key: str = ""
    pause: float = 0.0


@dataclass(frozen=True)
class Page:
    """One moment of a task. `raw_reward` counts once it is `done`; its time limit plays no role."""

    instruction: str
    elements: tuple[Element, ...]
    words: tuple[Word, ...]
    picture: bytes  # PNG of the window; the task is its top left corner
    done: bool = False
    raw_reward: float = 0.0
    reason: str = ""


# Runs in the browser: {instruction, elements, words, moving}, boxes in px of the task.
READ_PAGE = r"""
const [WIDTH, HEIGHT] = arguments;
const FIELDS = 'input, textarea, select';
const OPERABLE = 'button, a, input, textarea, select, [onclick]';
const KINDS = {
  text: 'textbox', password: 'textbox', 'select-one': 'list', 'select-multiple': 'list'};
const elements = [], words = [];
const clean = text => (text || '').replace(/\s+/g, ' ').trim();

// ---- where a thing is

function cut(rect) {  // to the task's area; null where nothing is left
  const left = Math.max(0, rect.left), right = Math.min(WIDTH, rect.right);
  const top = Math.max(0, rect.top), bottom = Math.min(HEIGHT, rect.bottom);
  return right - left >= 1 && bottom - top >= 1 ? [left, top, right, bottom] : null;
}

function largest(rects) {  // of a text that goes over several lines
  const size = rect => rect.width * rect.height;
  return [...rects].reduce((a, b) => size(a) >= size(b) ? a : b);
}

function hits(owner, x, y) {  // is a click there a click on this element?
  const hit = document.elementFromPoint(x, y);
  if (!hit) return false;
  if (hit.matches('body, html, #wrap, #area')) return hit === owner;
  return owner.contains(hit) || hit.contains(owner);
}

function clickable(owner, rect) {  // the box, or the part next to its middle that nothing covers
  const box = cut(rect);
  const style = getComputedStyle(owner);
  if (!box || style.visibility !== 'visible' || style.opacity === '0') return null;
  const [left, top, right, bottom] = box;
  const at = (i, j) => [left + (right - left) * i / 10, top + (bottom - top) * j / 10];
  if (hits(owner, ...at(5, 5))) return box;
  const places = [];
  for (const i of [1, 3, 5, 7, 9]) for (const j of [1, 3, 5, 7, 9]) places.push([i, j]);
  places.sort((a, b) => Math.hypot(a[0] - 5, a[1] - 5) - Math.hypot(b[0] - 5, b[1] - 5));
  const free = places.find(([i, j]) => hits(owner, ...at(i, j)));
  return free ? [...at(free[0] - 1, free[1] - 1), ...at(free[0] + 1, free[1] + 1)] : null;
}

// ---- what fields and icons are called

const ticks = field => field.type === 'radio' || field.type === 'checkbox';
const presses = field => ['button', 'submit', 'reset'].includes(field.type);

function neighbour(node, step) {  // the next node with something in it
  do node = node[step]; while (node && !clean(node.textContent) && !node.matches?.(FIELDS));
  return node;
}

function shortText(node) {  // the node, if it holds a few words and nothing to operate
  if (!node || node.matches?.(OPERABLE) || node.querySelector?.(OPERABLE)) return null;
  const length = clean(node.textContent).length;
  return length > 0 && length <= 40 ? node : null;
}

function beside(field) {  // the node that names a field: after a box to tick, else before it
  if (ticks(field)) return shortText(neighbour(field, 'nextSibling'));
  const before = neighbour(field, 'previousSibling');
  if (before) return shortText(before);
  const cell = field.parentElement;  // of a table, or of divs that stand for one
  if (cell.id || clean(cell.textContent)) return shortText(neighbour(field, 'nextSibling'));
  return shortText(neighbour(cell, 'previousElementSibling'));
}

const fieldOf = new Map();  // a node whose text names a field -> the field
const nameOf = new Map();  // a field -> its name
for (const field of document.querySelectorAll('#area input, #area textarea, #area select')) {
  const tied = [...(field.labels || [])].find(label => clean(label.innerText));
  const node = tied || beside(field);
  if (node) fieldOf.set(node, field);
  nameOf.set(field, clean(tied ? tied.innerText : node ? node.textContent : field.placeholder));
}

function iconName(element) {  // what its author called it, if that was a word
  const classes = [...element.classList];
  if (classes.includes('ui-icon-closethick')) return 'x';  // what the icon looks like
  const title = clean(element.title || element.dataset.color);
  return title || [element.id, ...classes].find(name => /^[a-z]+$/i.test(name)) || '';
}

// ---- going through the page

function add(owner, rect, more) {
  const box = clickable(owner, rect);
  if (!box) return;
  const pointer = getComputedStyle(owner).cursor === 'pointer';
  const operable = pointer || owner.closest(OPERABLE + ', label') !== null;
  const focused = document.activeElement === owner;
  const own = owner.getAttribute('class') || '';
  const parents = owner.parentElement.getAttribute('class') || '';
  const tag = owner.tagName.toLowerCase(), classes = clean(`${own} ${parents}`);
  elements.push({tag, id: owner.id, classes, focused, operable, box, whole: cut(rect), ...more});
}

function addField(field) {
  const rect = field.getBoundingClientRect();
  const label = ticks(field) && field.labels[0];  // a click on it ticks the box
  const whole = label ? largest([rect, ...label.getClientRects()]) : rect;
  const text = field.value || '';
  add(label || field, whole, {
    tag: field.tagName.toLowerCase(), id: field.id, type: field.type, operable: true,
    label: presses(field) ? clean(text) : nameOf.get(field) || '',
    kind: presses(field) ? '' : KINDS[field.type] || field.type,
    value: ticks(field) || presses(field) ? '' : text, on: field.checked === true,
    focused: document.activeElement === field,
    selected: text !== '' && field.selectionStart === 0 && field.selectionEnd === text.length,
  });
  for (const option of field.options || []) {
    const drawn = option.getBoundingClientRect().width > 0;  // else the list is closed
    const more = {tag: 'option', label: clean(option.text), on: option.selected, operable: true};
    add(drawn ? option : field, drawn ? option.getBoundingClientRect() : rect, more);
  }
  addLooks(field, clickable(field, rect));
}

function addLooks(field, box) {  // what is drawn of it, and the first word in it
  if (!box) return;
  let looks = document.activeElement === field ? '<cursor>' : '<field>', text = field.value;
  if (ticks(field)) looks = field.checked ? '<on>' : '<off>';
  if (field.options) [looks, text] = ['<more>', field.selectedOptions[0]?.text];
  if (!presses(field)) words.push([looks, box]);
  if (ticks(field) || field.type === 'password' || !clean(text)) return;
  const [left, top, right, bottom] = box;
  words.push([clean(text).split(' ')[0], [left + 16, top, right + 16, bottom]]);
}

function addWords(node, owner) {
  const range = document.createRange();
  for (const match of node.data.matchAll(/\S+/g)) {
    range.setStart(node, match.index);
    range.setEnd(node, match.index + match[0].length);
    const rects = range.getClientRects();
    const box = rects.length ? clickable(owner, rects[0]) : null;
    if (box) words.push([match[0], box]);
  }
}

function addText(node, owner, alone) {  // `alone`: it is all that its owner holds
  addWords(node, owner);
  if (fieldOf.has(node) || fieldOf.has(owner)) return;  // the field bears this name
  const range = document.createRange();
  range.selectNodeContents(node);
  const rects = range.getClientRects();
  if (!rects.length) return;
  const thing = owner.closest('button, .ui-sortable-handle');  // is pressed or dragged as a whole
  if (thing) add(thing, thing.getBoundingClientRect(), {label: clean(thing.textContent)});
  else if (alone) add(owner, largest(owner.getClientRects()), {label: clean(owner.textContent)});
  else add(owner, largest(rects), {tag: 'text', label: clean(node.data)});
}

function addIcon(element) {
  const rect = element.getBoundingClientRect(), label = iconName(element);
  const box = clickable(element, rect);
  if (box && label) words.push([label, box]);
  add(element, rect, {label});
}

function walk(element) {
  const hidden = !element.getClientRects().length;
  if (hidden || element.matches('#reward-display, #sync-task-cover, #click-canvas, #query')) return;
  if (element.matches(FIELDS)) return addField(element);
  const holds = node => node instanceof Element || (node instanceof Text && clean(node.data));
  const children = [...element.childNodes].filter(holds);
  for (const node of children) {
    if (node instanceof Element) walk(node);
    else addText(node, element, children.length === 1);
  }
  const layout = element.matches('body, div:not([class], [id]), p, ul, br, hr, #area, #wrap');
  if (!children.length && !layout) addIcon(element);
}
walk(document.body);

const nameless = Map.groupBy(elements.filter(e => e.kind && !e.label), e => e.kind);
for (const [kind, fields] of nameless) {
  fields.sort((a, b) => a.box[1] - b.box[1] || a.box[0] - b.box[0]);
  fields.forEach((field, i) => field.label = fields.length > 1 ? `${kind} ${i + 1}` : kind);
}

// ---- is something still opening or closing?

const endless = animation => animation.effect.getComputedTiming().endTime > 2000;
const running = animation => animation.playState === 'running' && !endless(animation);
const moving = window.jQuery?.(':animated').length > 0 || document.getAnimations().some(running);
const said = core.getUtterance();  // of some tasks an object with the sentence in it
return {instruction: said.utterance || said, elements, words, moving};
"""
# Runs in the browser: how the task stands. A page that was left, or loaded anew, is no task.
READ_STATUS = """
if (!window.here) return {done: true, raw_reward: 0, reason: 'the page was left'};
return {done: WOB_DONE_GLOBAL, raw_reward: WOB_RAW_REWARD_GLOBAL, reason: WOB_REWARD_REASON || ''};
"""

SETTLE = 1.0  # seconds at most that dialogs and menus get to come to rest before they are looked at

# Runs in the browser, once a page.
PREPARE_PAGE = """
const style = document.createElement('style');
style.textContent = '* { caret-animation: manual; }';  // else one picture in two has no cursor
document.head.append(style);
core.EPISODE_MAX_TIME = arguments[0];
window.here = true;
"""


# Runs in the browser: the texts of some pages, hidden parts included; a list of pages.
COLLECT_TEXTS = """
const [first, pages] = arguments;
const NOT_THE_TASK = '#reward-display, #sync-task-cover, #query';
const found = [];
for (let seed = first; seed < first + pages; seed++) {
  Math.seedrandom(seed);
  core.startEpisodeReal();
  const said = core.getUtterance();
  const texts = [said.utterance || said];
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const shown = !nodes.currentNode.parentElement.closest('script, style, ' + NOT_THE_TASK);
    if (shown) texts.push(nodes.currentNode.data);
  }
  for (const field of document.querySelectorAll('input, textarea')) texts.push(field.value);
  found.push(texts.join('\\n'));
}
return found;
"""
SLICE = 25  # pages in one call: a script may run for half a minute


def list_tasks() -> tuple[str, ...]:
    """The package's tasks that are drawn on 160 x 210 px: all but the three of FlightWoB.

    Raises WorldError, one line, when it is not installed.
    """
    try:
        import gymnasium
        import miniwob
    except ImportError:
        raise WorldError(f"miniwob is not installed; MiniWoB++ needs: {INSTALL}")
    gymnasium.register_envs(miniwob)
    names = []
    for name in gymnasium.registry:
        found = re.fullmatch(r"miniwob/([a-z0-9-]+)-v1", name)
        if found:
            names.append(found[1])
    return tuple(sorted(names))


class Browser:
    """A chromium of our own. All that goes wrong between us and it is a BrowserLost."""

    def __init__(self, task: str):
        """Start it with the page of a task; about a second.

        Raises WorldError, one line, when something is missing or it cannot be started, and
        RuntimeError outside the main thread: the kernel's signal comes when a *thread* ends.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a browser must be started in the main thread: it ends with it")
        for attempt in (1, 2):  # on a busy machine a start now and then takes too long
            try:
                self.start(task)
                return
            except BrowserLost as error:
                self.close()
                if attempt == 2:
                    raise WorldError(f"chromium cannot be started: {error}")

    def start(self, task: str) -> None:
        programs = find_programs()
        try:
            from miniwob.selenium_instance import SeleniumInstance
        except ImportError:
            raise WorldError(f"miniwob is not installed; MiniWoB++ needs: {INSTALL}")
        self.scale = 0
        self.nest = make_nest(programs)
        # Without a field extractor of its own a text that it does not expect is an error.
        self.instance = SeleniumInstance(0, task, headless=True, field_extractor=lambda text: [])
        scripts = {VARIABLES[program]: str(self.nest.folder / program) for program in VARIABLES}
        with environment(scripts), lost_browsers():
            self.instance.create_driver()

    def load(self, task: str, seed: int, scale: int) -> Page:
        """The first moment of a task; `scale`: px of the picture for one px of the page.

        The page is loaded anew, so that the same seed gives the same page whatever was played
        before: no focus, no open menu and no half-run timer is left, and the widgets of a second
        task on a page are not quite those of the first. The mouse waits outside, where nothing
        lights up under it.
        """
        from miniwob.selenium_actions import execute_move_coords

        driver = self.instance.driver
        with lost_browsers():
            if scale != self.scale:
                self.set_scale(scale)
            execute_move_coords(WINDOW[0] - 1, WINDOW[1] - 1, driver)
            driver.get(f"{self.instance.url.rpartition('/')[0]}/{task}.html")
            driver.execute_script(PREPARE_PAGE, HOUR)
            self.instance.begin_task(seed)
            return self.look()

    def set_scale(self, scale: int) -> None:
        """More px for the same page: words stay crisp, clicks stay where they were."""
        width, height = WINDOW
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.instance.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.scale = scale

    def collect_texts(self, task: str, first: int, pages: int) -> list[str]:
        """All that can be read on each of these pages."""
        self.load(task, first, 1)
        texts = []
        with lost_browsers():
            for start in range(first, first + pages, SLICE):
                script = self.instance.driver.execute_script
                texts += script(COLLECT_TEXTS, start, min(SLICE, first + pages - start))
        return texts

    def perform(self, steps: Sequence[Step]) -> None:
        """Do these steps, up to the one that ends the task."""
        from miniwob.action import ActionSpaceConfig, ActionTypes
        from miniwob.constants import ALL_POSSIBLE_KEYS

        config = ActionSpaceConfig(list(ActionTypes), allowed_keys=ALL_POSSIBLE_KEYS)
        kinds = [kind.value for kind in ActionTypes]
        with lost_browsers():
            for number, step in enumerate(steps):
                if number > 0 and self.status()["done"]:
                    break
                # All that is not needed is left out: create_action would fill it in at random.
                action = {"action_type": kinds.index(step.kind), "text": step.text}
                if step.coords is not None:
                    action["coords"] = step.coords
                if step.key:
                    action["key"] = ALL_POSSIBLE_KEYS.index(step.key)
                self.instance.perform(action, config)
                time.sleep(step.pause)

    def status(self) -> dict:
        return self.instance.driver.execute_script(READ_STATUS)

    def look(self, before: Page | None = None) -> Page:
        """The page as it is now; at the end of a task the last moment `before` it.

        What opens or closes gets a second to come to rest, since a step of an agent is not over
        before its consequences can be seen.
        """
        with lost_browsers():
            status = self.status()
            if status["done"] and before is not None:
                return replace(before, **status)
            driver = self.instance.driver
            deadline = time.monotonic() + SETTLE
            found = driver.execute_script(READ_PAGE, WIDTH, HEIGHT)
            while found["moving"] and time.monotonic() < deadline:
                time.sleep(0.05)
                found = driver.execute_script(READ_PAGE, WIDTH, HEIGHT)
            picture = driver.get_screenshot_as_png()
        elements = [read_element(element) for element in found["elements"]]
        words = [Word(text, share(box)) for text, box in found["words"]]
        return Page(found["instruction"], tuple(elements), tuple(words), picture, **status)

    def close(self) -> None:
        """End it, whatever state it is in; its scripts remove the folder."""
        driver = getattr(self.instance, "driver", None)
        if driver is not None:
            process = driver.service.process
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.nest.folder, ignore_errors=True)
        self.nest.lock.close()


def share(box: Sequence[float]) -> Box:
    """From px of the task to 0..1."""
    left, top, right, bottom = box
    return left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT


def read_element(found: dict) -> Element:
    """An element as READ_PAGE describes it, without what only that script needs."""
    known = {field.name for field in fields(Element)}
    values = {name: value for name, value in found.items() if name in known}
    for name in ("box", "whole"):
        values[name] = share(values[name])
    return Element(**values)


@contextmanager
def lost_browsers() -> Iterator[None]:
    """What selenium, its connection and a page that does not get ready raise becomes one line."""
    from selenium.common.exceptions import WebDriverException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (WebDriverException, HTTPError, OSError, RuntimeError) as error:
        raise BrowserLost(one_line(str(error).strip().partition("\n")[0], 200)) from error
