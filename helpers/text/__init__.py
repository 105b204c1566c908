"""English of scientific abstracts: sentences, abbreviations, names, numbers, polarity."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "abbreviations": [
            "expand_abbreviations",
            "find_definitions",
            "has_undefined_abbreviation",
            "numbered_abbreviations",
            "starts_with_vowel",
            "uncapitalise",
        ],
        "cloze": ["Gap", "find_name_gaps", "find_number_gaps", "open_gap"],
        "entities": ["defined_term", "find_entities", "mesh_pattern"],
        "polarity": ["DOWN", "UP", "VERB_STEMS", "find_polar_word", "negate", "opposite_of"],
        "sentences": [
            "FURNITURE",
            "can_open",
            "capitalise",
            "drop_statistics",
            "is_complete",
            "split_sentences",
            "stands_alone",
            "tidy_sentence",
        ],
    },
)
