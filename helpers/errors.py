"""The one exception a reader of the course should ever see on purpose."""


class CourseError(Exception):
    """What is wrong (with the name and the bad value), and what to do about it.

    Notebooks show it as two plain lines instead of a traceback.
    """

    def __init__(self, problem: str, way_out: str):
        super().__init__(problem, way_out)
        self.problem, self.way_out = problem, way_out

    def __str__(self) -> str:
        return f"{self.problem}\n→ {self.way_out}"

    def _render_traceback_(self) -> list[str]:
        """Read by IPython in place of a traceback."""
        return [f"CourseError: {self.problem}", f"→ {self.way_out}"]
