"""Foreign work under a clock: whatever it does, an outcome comes back and nothing is raised.

Called by the toy tool world (extras/toy_tools.py) and by the toolbox (benchmarks/toolbox.py).
It is no sandbox: the work runs in this process, with all that this process may do.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from envs import one_line


@dataclass(frozen=True)
class Outcome:
    """How a piece of work ended.

    status "ok": `value` is what the work returned, None included.
    status "unavailable": the work cannot be done on this machine; `value` is a line that says why.
    status "error": it raised or was too slow; `value` is a line that says why.
    """

    status: str
    value: object


def guarded(work: Callable[[], object], seconds: float) -> Outcome:
    """Do `work()` and say how it ended; after so many seconds it is given up.

    Work says that it cannot be done here by raising NotImplementedError. A SystemExit is an error
    like any other; only KeyboardInterrupt passes, so that the user can still stop the program.

    >>> guarded(lambda: 1 + 1, seconds=5)
    Outcome(status='ok', value=2)
    >>> guarded(lambda: 1 / 0, seconds=5)
    Outcome(status='error', value='error: division by zero')
    """
    try:
        with alarm_clock(seconds):
            return Outcome("ok", work())
    except NotImplementedError as problem:
        return Outcome("unavailable", f"not available here: {problem}")
    except (Exception, SystemExit) as problem:
        # A tool is foreign code on a model's arguments: each of its errors is an observation.
        reason = one_line(str(problem), 200)
        if not reason:
            reason = type(problem).__name__
        return Outcome("error", f"error: {reason}")


@contextmanager
def alarm_clock(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the `with` block once it has taken so many seconds.

    The clock is the main thread's alarm, which stops the work for good and costs nothing (a thread
    costs milliseconds on a busy machine). In another thread and on Windows there is none, and the
    block may take as long as it wants. There is one alarm: clocks cannot be nested.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not hasattr(signal, "setitimer"):
        yield
        return
    running = True

    def ring(*_) -> None:
        if running:  # not when the work is done already
            raise TimeoutError(f"no answer within {seconds:g} s")

    handler_before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler_before)
