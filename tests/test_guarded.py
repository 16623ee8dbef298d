"""extras/guarded.py: whatever foreign work does, an outcome comes back in time."""

import signal
import threading
import time

import pytest

from extras.guarded import Outcome, guarded


def divide_by_zero():
    return 1 / 0


def hang():
    time.sleep(5)


def leave():
    raise SystemExit(1)


def not_here():
    raise NotImplementedError("no search engine")


def say(message: str):
    raise ValueError(message)


def interrupt():
    raise KeyboardInterrupt


def test_what_the_work_returns_is_the_value():
    assert guarded(lambda: "2", 5.0) == Outcome("ok", "2")
    assert guarded(lambda: None, 5.0) == Outcome("ok", None)


def test_work_that_raises_becomes_an_error_of_one_line():
    assert guarded(divide_by_zero, 5.0) == Outcome("error", "error: division by zero")
    assert guarded(leave, 5.0) == Outcome("error", "error: 1")
    assert guarded(lambda: say(""), 5.0) == Outcome("error", "error: ValueError")
    assert guarded(lambda: say("one\ntwo\r\nthree"), 5.0) == Outcome(
        "error", "error: one two three"
    )
    assert guarded(lambda: say("x" * 1000), 5.0) == Outcome("error", "error: " + "x" * 200)


def test_work_that_cannot_be_done_here_is_unavailable():
    expected = Outcome("unavailable", "not available here: no search engine")
    assert guarded(not_here, 5.0) == expected


def test_work_that_hangs_is_given_up():
    start = time.perf_counter()
    outcome = guarded(hang, 0.1)
    assert outcome == Outcome("error", "error: no answer within 0.1 s")
    assert time.perf_counter() - start < 2


def test_the_clock_is_off_afterwards():
    before = signal.getsignal(signal.SIGALRM)
    for work in (divide_by_zero, not_here, hang, lambda: "done"):
        guarded(work, 0.05)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) == before
    time.sleep(0.1)  # nothing rings late


def test_the_user_can_still_stop_the_program():
    with pytest.raises(KeyboardInterrupt):
        guarded(interrupt, 5.0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_another_thread_there_is_no_clock():
    outcomes = []

    def work_in_a_thread():
        outcomes.append(guarded(lambda: time.sleep(0.05), 0.01))
        outcomes.append(guarded(divide_by_zero, 0.01))

    thread = threading.Thread(target=work_in_a_thread)
    thread.start()
    thread.join()
    assert outcomes == [Outcome("ok", None), Outcome("error", "error: division by zero")]
