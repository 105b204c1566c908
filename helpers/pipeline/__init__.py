"""The eight stages: which are done, running them, and what they leave behind."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "colab": ["prepare_colab"],
        "runner": ["NOT_PASSED", "hold_run_lock"],
        "session": ["begin"],
        "stages": ["TRAINS", "artefact_path"],
    },
)
