"""Written questions and how answers to them are graded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "judge": ["grade_again"],
        "questions": ["load_questions"],
        "rubric": ["Graded", "criteria_hash", "grade_answer", "mean_score"],
    },
)
