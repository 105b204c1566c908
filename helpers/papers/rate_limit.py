"""One pace for every process of this user: when the next request to a server may start."""

import fcntl
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TIMES = struct.Struct("dd")  # when they were written, and before when nothing may start


class Stopped(Exception):
    """Raised in every thread that sleeps, or is about to, by a clock that was stopped."""


class Clock:
    """The time of day, which all processes share, and a sleep that can be cut short from another thread."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise Stopped


@contextmanager
def lock_pace(name: str) -> Iterator[int]:
    """The descriptor of a small file that one thread of this user's processes holds at a time."""
    path = Path(tempfile.gettempdir()) / f"course-{os.getuid()}-{name}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Pace:
    """Starts of requests to the server `name`, `interval` seconds apart at least, whoever makes them.

    Nobody sleeps with the lock in hand: whoever wakes first when the time has come takes the turn.
    """

    name: str
    interval: float
    clock: Clock = field(default_factory=Clock)

    def left(self) -> float:
        """Seconds until the next request may start."""
        with lock_pace(f"{self.name}.pace") as file:
            return max(0.0, self.opens(file) - self.clock.time())

    def wait(self) -> float:
        """Sleep until it is our turn; the moment the turn began."""
        while True:
            with lock_pace(f"{self.name}.pace") as file:
                opens, now = self.opens(file), self.clock.time()
                if now >= opens:
                    self.write(file, now + self.interval)
                    return now
            self.clock.sleep(opens - now)

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long: the server asked for it."""
        with lock_pace(f"{self.name}.pace") as file:
            self.write(file, max(self.opens(file), self.clock.time() + seconds))

    def opens(self, file: int) -> float:
        """The time in the file; a clock that was set back since it was written makes nobody wait for hours."""
        times = os.pread(file, TIMES.size, 0)
        written, opens = TIMES.unpack(times) if len(times) == TIMES.size else (0.0, 0.0)
        now = self.clock.time()
        return opens if written <= now else min(opens, now + self.interval)

    def write(self, file: int, opens: float) -> None:
        os.pwrite(file, TIMES.pack(self.clock.time(), opens), 0)
