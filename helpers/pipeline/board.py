"""The stages on the terminal: a table that redraws itself, or plain lines where there is no screen."""

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from helpers.core import Stage, format_clock, make_visible, read_jsonl

QUIET_SECONDS = 30  # without a screen, the running stage is heard of this often
COLOURS = {"done": "green", "running": "bold yellow", "failed": "bold red", "skipped": "cyan"}


@dataclass
class BoardRow:
    """One stage as shown: its state, when it began and ended (monotonic seconds), and a word on it."""

    stage: Stage
    state: str = "waiting"
    began: float | None = None
    ended: float | None = None
    note: str = ""

    def elapsed(self) -> str:
        return "" if self.began is None else format_clock((self.ended or time.monotonic()) - self.began)


class Board:
    """Shows the stages while it is open; `change` tells it what happened."""

    def __init__(self, stages: Iterable[Stage], progress: Path):
        self.rows = {stage.number: BoardRow(stage) for stage in stages}
        self.progress = progress
        self.console = Console(highlight=False)
        screen = sys.stdout.isatty() and not self.console.is_dumb_terminal
        self.live = Live(get_renderable=self.table, console=self.console, refresh_per_second=2) if screen else None
        self.closing = threading.Event()
        self.ticker = threading.Thread(target=self.tick, daemon=True)

    def __enter__(self) -> "Board":
        self.live.start() if self.live else self.ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.live.stop() if self.live else self.ticker.join()

    def change(self, number: int, state: str, note: str = "") -> None:
        """Stage `number` is now done, skipped, running, waiting, failed or not needed."""
        row = self.rows[number]
        row.state, row.note = state, note
        if state == "running":
            row.began, row.ended = time.monotonic(), None
        elif row.began is not None:
            row.ended = time.monotonic()
        if self.live is None:
            time_taken = "" if state == "running" else row.elapsed()
            print(" · ".join(filter(None, [f"stage {number}", row.stage.title, state, time_taken, note])), flush=True)

    def table(self) -> Table:
        """The eight rows: number, title, state, elapsed time, what is being done."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading, extra in (
            ("", {"justify": "right"}),
            ("stage", {"no_wrap": True}),
            ("", {"no_wrap": True}),
            ("time", {"justify": "right", "no_wrap": True}),
            ("", {"ratio": 1}),
        ):
            table.add_column(heading, header_style="dim", **extra)
        for number, row in self.rows.items():
            colour = COLOURS.get(row.state, "dim")
            doing = (row.state == "running" and self.doing()) or row.note
            state = f"[{colour}]{row.state}[/]"
            table.add_row(str(number), row.stage.title, state, row.elapsed(), Text(doing))
        return table

    def doing(self) -> str:
        """What the running stage last said of itself, "training 120 of 800"; "" if nothing yet."""
        said = read_jsonl(self.progress)
        if not said:
            return ""
        doing, done, total = (said[-1].get(name, 0) for name in ("doing", "done", "total"))
        return make_visible(f"{doing} {done:,.0f} of {total:,.0f}" if total else str(doing))

    def tick(self) -> None:
        """Without a screen: one line on the running stage, at most every QUIET_SECONDS, if there is news."""
        said, spoken = "", time.monotonic()
        while not self.closing.wait(1):
            running = next((row for row in self.rows.values() if row.state == "running"), None)
            doing = self.doing() if running else ""
            if doing and doing != said and time.monotonic() - spoken >= QUIET_SECONDS:
                print(f"stage {running.stage.number} · {running.elapsed()} · {doing}", flush=True)
                said, spoken = doing, time.monotonic()
