"""From papers to training rows and test items."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "build": ["SHARE_HELD_OUT", "as_text", "build_rows", "load_rows"],
        "contamination": [
            "LENGTH",
            "count_planted_found",
            "find_contamination",
            "item_texts",
            "tested_texts",
            "word_runs",
        ],
        "formats": ["derive_row"],
        "general_text": ["VIEW", "guard_rows", "replay_rows"],
        "held_out": ["held_out_text", "load_held_out"],
        "items": ["build_items", "count_items"],
        "placebo": ["build_placebo", "compare_groups"],
        "seen_rows": ["askable_items", "read_seen_rows"],
    },
)
