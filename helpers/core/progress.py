"""What a stage is doing right now: a line in the notebook, and a file the runner's table reads."""

import json
import time
from pathlib import Path

from IPython.display import DisplayHandle, Markdown

_listener: Path | None = None  # the file that the runner reads; None where somebody works by hand


def listen(path: Path | None) -> None:
    """From now on this process says what it is doing in `path`, which the runner reads; None for nobody."""
    global _listener
    _listener = path


def is_executed() -> bool:
    """Whether the runner is executing this notebook: nobody is there to click."""
    return _listener is not None


def report_progress(doing: str, done: float = 0, total: float = 0) -> None:
    """Tell the runner, if one is listening, what is being done and how far it has come."""
    if _listener is not None:
        temporary = _listener.with_suffix(".new")
        temporary.write_text(json.dumps({"doing": doing, "done": done, "total": total, "at": time.time()}))
        temporary.replace(_listener)


class ProgressLine:
    """One line of a notebook's output that is rewritten in place, at most twice a second."""

    def __init__(self) -> None:
        self.handle = DisplayHandle()
        self.started = self.shown = self.first = 0.0

    def show(self, doing: str, done: float, total: float, note: str = "") -> None:
        """Redraw: what, a bar, done of total, elapsed and remaining time, and `note`.

        The time that remains is told from what was done since the first call: what was resumed took none.
        """
        now = time.monotonic()
        if not self.started:
            self.started, self.first = now, done
        if done < total and now - self.shown < 0.5:
            return
        share = done / total if total else 1.0
        elapsed, left = now - self.started, ""
        if self.first < done < total:
            left = f", {format_clock(elapsed * (total - done) / (done - self.first))} left"
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        line = Markdown(
            f"{doing} `{bar}` {done:,.0f} of {total:,.0f} · {format_clock(elapsed)}{left} {note}".rstrip()
        )
        if self.shown:
            self.handle.update(line)
        else:
            self.handle.display(line)
        self.shown = now
        report_progress(doing, done, total)


def format_clock(seconds: float) -> str:
    """75 → "1:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
