"""browser.py: a browser ends with the process that opened it, whatever happens, and leaves nothing;
and what stands on a page is named as a person would name it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import browser
from benchmarks.browser import Browser, Step, environment, find_programs, make_nest, remove_orphans

ROOT = Path(__file__).resolve().parent.parent


def missing() -> str:
    """What a real browser wants and this machine does not have; "": nothing."""
    programs = [name for name in ("chromium", "chromedriver", "setpriv") if not shutil.which(name)]
    packages = [name for name in ("miniwob", "selenium") if find_spec(name) is None]
    return ", ".join(programs + packages)


in_a_browser = pytest.mark.skipif(missing() != "", reason=f"not installed: {missing()}")


# ---- what is needed ------------------------------------------------------------------------------


@pytest.fixture
def no_paths(monkeypatch):
    for variable in browser.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def test_programs_are_found_in_path_or_where_the_environment_says(no_paths, tmp_path):
    for name in ("chromium", "chromedriver", "setpriv", "other"):
        (tmp_path / name).touch(mode=0o755)
    no_paths.setenv("PATH", str(tmp_path))
    assert find_programs() == {
        name: str(tmp_path / name) for name in ("chromium", "chromedriver", "setpriv")
    }
    for variable in browser.VARIABLES.values():
        no_paths.setenv(variable, str(tmp_path / "other"))
    assert find_programs()["chromium"] == find_programs()["chromedriver"] == str(tmp_path / "other")


@pytest.mark.parametrize("variable", browser.VARIABLES.values())
def test_one_of_the_two_paths_is_not_enough(no_paths, variable):
    no_paths.setenv(variable, "/usr/bin/true")
    with pytest.raises(ValueError, match="set both of MINIWOB_CHROME_BINARY and MINIWOB_CHROMED"):
        find_programs()


@pytest.mark.parametrize("there", [(), ("chromium",), ("chromium", "chromedriver")])
def test_what_is_missing_is_said_with_what_to_install(no_paths, tmp_path, there):
    for name in there:
        (tmp_path / name).touch(mode=0o755)
    no_paths.setenv("PATH", str(tmp_path))
    missing_one = ("chromium", "chromedriver", "setpriv")[len(there)]
    package = ("chromium", "chromium-driver", "util-linux")[len(there)]
    message = f"there is no {missing_one}; .*apt-get install .*{package}"
    with pytest.raises(ValueError, match=message) as error:
        find_programs()
    assert "\n" not in str(error.value)


def test_environment_is_as_it_was_afterwards(monkeypatch):
    monkeypatch.setenv("HAD_A_VALUE", "1")
    monkeypatch.delenv("HAD_NONE", raising=False)
    with pytest.raises(KeyError), environment({"HAD_A_VALUE": "2", "HAD_NONE": "3"}):
        assert (os.environ["HAD_A_VALUE"], os.environ["HAD_NONE"]) == ("2", "3")
        raise KeyError
    assert os.environ["HAD_A_VALUE"] == "1"
    assert "HAD_NONE" not in os.environ


# ---- folders -------------------------------------------------------------------------------------

NOBODY = {name: f"/bin/{name}" for name in ("chromium", "chromedriver", "setpriv")}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nests_whose_process_is_gone_are_removed_and_others_are_not(temporary):
    ours = make_nest(NOBODY)
    dead = make_nest(NOBODY)
    dead.lock.close()  # as the kernel does when a process dies
    foreign = temporary / "tracer1-browser-without-a-lock"
    foreign.mkdir()
    remove_orphans()
    assert sorted(temporary.iterdir()) == sorted([ours.folder, foreign])


def test_a_nest_holds_two_scripts_that_can_be_run_by_us_alone(temporary):
    nest = make_nest(NOBODY | {"chromium": "/opt/my browser"})
    for name in ("chromium", "chromedriver"):
        assert (nest.folder / name).stat().st_mode & 0o777 == 0o700
    assert "'/opt/my browser'" in (nest.folder / "chromium").read_text()
    assert f'"$PPID" = {os.getpid()}' in (nest.folder / "chromedriver").read_text()


# ---- processes -----------------------------------------------------------------------------------


def processes_of(folder: str) -> dict[int, str]:
    """The live processes that know of a folder: their numbers and command lines.

    What is dead and only not yet buried has no command line any more.
    """
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            known = command + (process / "environ").read_text()
        except OSError:  # it has just ended
            continue
        if folder in known:
            found[int(process.name)] = command.replace("\0", " ")
    return found


def browsers_of(folder: str) -> list[str]:
    """The same without the script that removes the folder."""
    commands = processes_of(folder).values()
    return [command for command in commands if command.split()[0] not in ("sh", "rm", "sleep")]


def ports_of(folder: str) -> set[int]:
    """Where the driver listens, and where the browser does."""
    commands = " ".join(processes_of(folder).values())
    ports = {int(port) for port in re.findall(r" --port=(\d+)", commands)}
    for file in Path(folder).rglob("DevToolsActivePort"):
        ports.add(int(file.read_text().splitlines()[0]))
    return ports


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


OPEN_AND_WAIT = """
    import os, signal, sys, time
    sys.path.insert(0, {root!r})
    from benchmarks.browser import Browser
    # Where the tests run in the background, a shell has told all of them to ignore ctrl+c.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    browser = Browser("click-test")
    browser.load("click-test", 1, 1)
    try:  # what is printed may be answered with ctrl+c at once
        print(browser.nest.folder, browser.instance.driver.service.process.pid, flush=True)
        sys.stdin.readline()
    except KeyboardInterrupt:
        time.sleep(0.5)
        print(browser.load("click-test", 2, 1).instruction, flush=True)
    os._exit(0)
"""


@pytest.fixture
def other_python():
    """Another Python with a browser: (it, the folder, the process id of the browser's script)."""
    script = textwrap.dedent(OPEN_AND_WAIT.format(root=str(ROOT)))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folder, script_id = process.stdout.readline().split()
    assert len(processes_of(folder)) > 3
    yield process, folder, int(script_id)
    process.kill()
    process.wait()
    process.stdout.close()


@in_a_browser
@pytest.mark.parametrize("way", ["killed", "ended in the middle"])
def test_nothing_outlives_a_python_that_dies(other_python, way):
    process, folder, _script_id = other_python
    ports = ports_of(folder)
    assert len(ports) == 2 and all(is_open(port) for port in ports)
    if way == "killed":
        process.kill()
    else:
        process.stdin.write("\n")
        process.stdin.close()
    assert wait_for(lambda: not browsers_of(folder), 2.0), browsers_of(folder)
    assert not any(is_open(port) for port in ports)
    assert wait_for(lambda: not processes_of(folder), 10.0)
    assert not Path(folder).exists()


@in_a_browser
def test_ctrl_c_is_heard_by_python_alone(other_python):
    """Else an episode that was interrupted would be written down as one that crashed."""
    process, folder, _script_id = other_python
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.stdout.readline() == "Click the button.\n"
    assert wait_for(lambda: not processes_of(folder), 10.0)


@in_a_browser
def test_when_all_is_killed_at_once_the_next_start_removes_the_folder(other_python):
    process, folder, script_id = other_python
    os.kill(script_id, signal.SIGSTOP)  # it would be quicker than the second kill
    process.kill()
    process.wait()
    os.kill(script_id, signal.SIGKILL)
    assert wait_for(lambda: not browsers_of(folder), 2.0), browsers_of(folder)
    assert Path(folder).exists()
    remove_orphans()
    assert not Path(folder).exists()


@pytest.fixture(scope="module")
def one():
    """A browser for all tests that only look at pages."""
    if missing():
        pytest.skip(f"not installed: {missing()}")
    browser = Browser("click-test")
    yield browser
    browser.close()


def test_close_ends_a_browser_whatever_state_it_is_in():
    if missing():
        pytest.skip(f"not installed: {missing()}")
    browser = Browser("click-test")
    folder = str(browser.nest.folder)
    assert any("--disable-smooth-scrolling" in line for line in processes_of(folder).values())
    for number, command in processes_of(folder).items():
        if f"--user-data-dir={folder}" in command:
            os.kill(number, signal.SIGKILL)
    browser.close()
    assert wait_for(lambda: not processes_of(folder), 2.0)
    assert not Path(folder).exists()


@in_a_browser
@pytest.mark.parametrize("driver", ["true", "false"])
def test_a_driver_that_ends_at_once_is_not_waited_for(no_paths, driver):
    """selenium waits half a minute for one that has ended well, and we start it twice."""
    no_paths.setenv("MINIWOB_CHROME_BINARY", shutil.which("chromium"))
    no_paths.setenv("MINIWOB_CHROMEDRIVER", shutil.which(driver))
    begun = time.monotonic()
    with pytest.raises(ValueError, match="chromium cannot be started: .*exited") as error:
        Browser("click-test")
    assert "\n" not in str(error.value)
    assert time.monotonic() - begun < 15


@in_a_browser
def test_a_browser_cannot_be_started_in_a_thread_that_may_end_before_it():
    caught = []

    def start():
        with pytest.raises(RuntimeError, match="main thread") as error:
            Browser("click-test")
        caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert caught


# ---- pages ---------------------------------------------------------------------------------------


def show(one: Browser, html: str):
    """A page of our own in the place of a task's."""
    if one.scale == 0 or one.status()["done"]:
        one.load("click-test", 1, 1)
    driver = one.instance.driver
    driver.execute_script("document.getElementById('area').innerHTML = arguments[0]", html)
    return one.look()


def labels(page) -> list[str]:
    return [element.label for element in page.elements]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<button>Save as</button>", ["Save as"]),
        ("<button><b>Save</b> <i>as</i></button>", ["Save as", "Save as"]),
        ("<input type=submit value=Go>", ["Go"]),
        ("<p><label>Name</label><input></p>", ["Name"]),
        ("<label for=n>Name</label><br><input id=n>", ["Name"]),
        ("<label>Name <input></label>", ["Name"]),
        ("<table><tr><th>Name</th><td><input></td></tr></table>", ["Name"]),
        ("<div><div>Name</div><div><input></div></div>", ["Name"]),
        ("<div><input><div>Name</div></div>", ["Name"]),
        ("<input placeholder=Name>", ["Name"]),
        ("<label><input type=checkbox>wet</label>", ["wet"]),
        ("<input type=radio>wet<input type=radio>dry", ["wet", "dry"]),
        ("<input>", ["textbox"]),
        ("<input><textarea></textarea><input>", ["textbox 1", "textarea", "textbox 2"]),
        ("<input><button>Save</button>", ["textbox", "Save"]),  # a button names no field
        (f"<p>{'long ' * 10}</p><input>", [" ".join(["long"] * 10), "textbox"]),  # nor a paragraph
        ("<span class='big trash' style='padding:9px'></span>", ["big"]),
        ("<span title=Delete style='padding:9px'></span>", ["Delete"]),
        ("<span class='ui-icon ui-icon-closethick' style='padding:9px'></span>", ["x"]),
        ("<div>one <b>two</b> three</div>", ["one", "two", "three"]),
        ("<select><option>a b<option>c</select>", ["list", "a b", "c"]),
        ("<p style='display:none'>no</p><p style='visibility:hidden'>no</p>", []),
        ("<p style='position:absolute; top:400px'>below</p>", []),
    ],
)
def test_things_are_called_as_a_person_would_call_them(one, html, expected):
    assert labels(show(one, html)) == expected


def test_the_box_of_a_thing_is_cut_to_what_is_seen_of_it(one):
    style = "position:absolute; margin:0; border:0; left:80px; top:105px; width:200px; height:42px"
    [button] = show(one, f"<button style='{style}'>Save</button>").elements
    assert button.box == button.whole == pytest.approx((0.5, 0.5, 1.0, 0.7))


def test_where_the_middle_is_covered_another_part_is_found(one):
    place = "position:absolute; margin:0; border:0; padding:0; left:0; top:100px; height:20px"
    below = f"<button style='{place}; width:100px'>Save</button>"
    above = f"<div style='{place}; width:80px; background:red' class=cover></div>"
    save, cover = show(one, below + above).elements
    assert save.whole == pytest.approx((0.0, 100 / 210, 100 / 160, 120 / 210))
    left, _top, right, _bottom = save.box
    assert 80 / 160 <= (left + right) / 2 <= 100 / 160
    assert cover.box == cover.whole


def test_what_is_covered_altogether_is_not_there(one):
    place = "position:absolute; left:0; top:100px; width:100px; height:20px"
    covered = f"<button style='{place}'>Save</button>"
    above = f"<div style='{place}; background:red; width:150px; height:40px' class=cover></div>"
    assert labels(show(one, covered + above)) == ["cover"]


def test_what_fields_hold_and_which_has_the_focus(one):
    page = show(one, "<input value=abc id=x><label><input type=checkbox checked>on</label>")
    field, box = page.elements
    assert (field.value, field.focused, field.selected, field.on) == ("abc", False, False, False)
    assert (box.value, box.on, box.operable) == ("", True, True)
    one.instance.driver.execute_script("x.focus(); x.select()")
    field = one.look().elements[0]
    assert (field.focused, field.selected) == (True, True)


def test_words_stand_where_they_are_drawn_and_fields_have_a_sign(one):
    html = (
        "<div style='position:absolute; left:32px; top:64px'>red <b>blue</b></div>"
        "<div style='position:absolute; left:32px; top:96px'><input value='green tea'></div>"
        "<div style='position:absolute; left:32px; top:128px'><input type=checkbox checked></div>"
        "<span class=trash style='position:absolute; left:32px; top:160px; padding:9px'></span>"
    )
    page = show(one, html)
    words = {word.text: word.box for word in page.words}
    assert list(words) == ["red", "blue", "<field>", "green", "<on>", "trash"]
    assert words["red"][0] * 160 == pytest.approx(32)
    assert words["red"][2] < words["blue"][0]
    assert words["green"][0] * 160 == pytest.approx(words["<field>"][0] * 160 + 16)


def test_a_page_that_was_left_is_no_task_any_more(one):
    before = one.load("click-test", 1, 1)
    one.instance.driver.refresh()
    after = one.look(before)
    assert (after.done, after.raw_reward, after.reason) == (True, 0, "the page was left")
    assert after.elements == before.elements


def test_a_page_is_looked_at_when_it_has_come_to_rest(one):
    show(one, "<div id=d style='height:20px'>Save</div>")
    one.instance.driver.execute_script(
        "d.animate([{opacity: 0}, {opacity: 0}], {duration: 400}); "
        "setTimeout(() => { d.textContent = 'Saved'; }, 300);"
    )
    assert labels(one.look()) == ["Saved"]


def test_steps_after_the_end_of_a_task_are_not_done(one):
    before = one.load("click-test-2", 1, 1)
    [first] = [element for element in before.elements if element.label == "ONE"]
    [second] = [element for element in before.elements if element.label == "TWO"]
    middles = []
    for left, top, right, bottom in (first.box, second.box):
        middles.append(((left + right) * 80, (top + bottom) * 105))
    one.perform([Step("CLICK_COORDS", middles[0]), Step("CLICK_COORDS", middles[1])])
    assert one.look(before).raw_reward == 1.0
