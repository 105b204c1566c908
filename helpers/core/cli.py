"""The command line of every command: one reader of `NAME=value` words, and one way to end."""

import difflib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from helpers.core.errors import CourseError
from helpers.core.settings import NAMES


class Stopped(BaseException):
    """A signal asked the process to end; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def parse_words(words: Iterable[str], example: str, options: Iterable[str] = ()) -> dict[str, str]:
    """{name: value} of `NAME=value` words; the names are settings, or `options` of the command.

    Raises CourseError for a word of another form, with the `example`, and for an unknown name, with the nearest one.
    """
    values, known = {}, (*NAMES, *options)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise CourseError(f"{word!r} is not NAME=value", f"{example}, for example", "a-setting-is-refused")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            raise CourseError(
                f"{name} is not a setting",
                f"did you mean {near[0]}?" if near else "see .env.example for every name",
                "a-setting-is-refused",
            )
        values[name] = value
    return values


def run_command(work: Callable[[], int], stopped: str) -> int:
    """Do `work` and return the process's exit status: its own, 1 after a CourseError, 128 + n after signal n.

    `stopped` says what a signal has left, and how to go on.
    """
    try:
        with catch_signals():
            return work()
    except CourseError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        print(f"\nstopped ({signal.Signals(number).name}); {stopped}", file=sys.stderr)
        return 128 + number


@contextmanager
def catch_signals() -> Iterator[None]:
    """Turn Ctrl-C and the polite signals into Stopped; a second one ends the process at once."""
    polite = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _frame: object) -> None:
        for other in polite:
            signal.signal(other, signal.SIG_DFL)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in polite}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
