"""The one exception a reader of the course should ever see on purpose."""

from helpers.core.redaction import make_visible

GUIDE = "TROUBLESHOOTING.md"


class CourseError(Exception):
    """What is wrong (with the name and the bad value), what to do about it, and where to read more.

    `entry` is the anchor of a heading in TROUBLESHOOTING.md, "" for an error that has none there.
    Notebooks show it as two or three plain lines instead of a traceback.
    """

    def __init__(self, problem: str, way_out: str, entry: str = ""):
        super().__init__(problem, way_out, entry)
        self.problem, self.way_out, self.entry = problem, way_out, entry

    def __str__(self) -> str:
        more = f"\n  see {GUIDE}#{self.entry}" if self.entry else ""
        return make_visible(f"{self.problem}\n→ {self.way_out}{more}")

    def _render_traceback_(self) -> list[str]:
        """Read by IPython in place of a traceback."""
        return f"CourseError: {self}".splitlines()
