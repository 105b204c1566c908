"""Asking models, comparing them, and what can be concluded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "instruments": ["summarise_items", "values_by_variant"],
        "items": ["CHOICES", "is_right", "item_context", "item_values"],
        "measures": ["INSTRUMENTS", "summarise_task"],
        "preregistration": ["PRIMARY", "check_preregistration", "describe_preregistration", "preregister"],
        "retrieval": ["Library"],
        "run": ["Candidate", "answer_questions", "measure_variants", "open_candidate", "read_evidence"],
        "scores": ["score_run"],
        "simulation": ["simulate_procedure"],
        "statistics": ["number_labels", "sign_patterns"],
    },
)
