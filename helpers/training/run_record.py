"""A finished training on disk: what happened, the weights, and how to know them again."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import RECORD, CourseError, atomic_folder, hash_file, read_json, require_space, write_json
from helpers.models import end_ids


@dataclass
class History:
    """What happened: one line per update, and one per look at what is not trained on. Losses in nats per token."""

    updates: list[dict] = field(default_factory=list)  # step, tokens (without padding), loss, learning_rate
    held_out: list[dict] = field(default_factory=list)  # step, loss, and guard: the loss on general text
    chosen: int | None = None  # the update whose weights are the result; None until that is settled
    chosen_by: list[str] = field(default_factory=list)  # papers, or pieces of general text, that had a say in that
    read: list[int] = field(default_factory=list)  # numbers of the rows that were read, general text left out
    declared: str = ""  # hash of what counted as success when this training began
    # differs from run to run, so it is kept beside the result, not in it:
    pace: list[dict] = field(default_factory=list)  # step, seconds, memory: bytes held at most so far

    @property
    def tokens(self) -> int:
        """Tokens read in training so far."""
        return sum(update["tokens"] for update in self.updates)

    @property
    def seconds(self) -> float:
        """Time spent in updates; looks and saving are not counted."""
        return sum(update["seconds"] for update in self.pace)

    @property
    def peak_memory(self) -> int:
        """Bytes."""
        return max((update["memory"] for update in self.pace), default=0)

    @property
    def kept(self) -> dict:
        """The look at the weights that are the result."""
        return next(look for look in self.held_out if look["step"] == self.chosen)

    def lasting(self) -> dict:
        """What is the same on every run."""
        return {name: value for name, value in asdict(self).items() if name != "pace"}


def save_trained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: dict,
    history: History,
    key: str,
    base: dict,
    out: Path,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """The trained weights, the tokenizer and training.json in `out`, complete or not at all.

    `state` has the weights where the model itself holds only its process's part of them.
    """
    require_space(out, sum(4 * w.numel() for w in model.parameters() if w.requires_grad), "saving the result")
    with atomic_folder(out) as temporary:
        if hasattr(model, "peft_config"):
            config = model.peft_config["default"]
            config.base_model_name_or_path, config.revision = base["id"], base["revision"]
            config.target_modules = sorted(config.target_modules)  # a set, whose order changes from run to run
            model.save_pretrained(temporary, save_embedding_layers=False)
            (temporary / "README.md").unlink(missing_ok=True)  # peft's card is an empty form
        else:
            model.config.name_or_path = ""
            model.generation_config.eos_token_id = end_ids(model, tokenizer)  # for those who call generate themselves
            model.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        hashes = {file.name: hash_file(file) for file in sorted(temporary.iterdir()) if file.is_file()}
        record = {"key": key, "base": base, "recipe": recipe, "history": history.lasting(), "files": hashes}
        write_json(temporary / RECORD, record)


def find_finished(out: Path, key: str, work: Path) -> History | None:
    """The history of a training that `out` already holds, whole and made the same way; else None."""
    if not (out / RECORD).exists():
        return None
    try:
        record = read_json(out / RECORD)
        whole = all((out / n).exists() and hash_file(out / n) == sha for n, sha in record["files"].items())
        done = History(**record["history"]) if whole and record["key"] == key else None
    except (CourseError, KeyError, TypeError, AttributeError):  # a damaged record is no record
        return None
    if done:
        done.pace = read_pace(work, key)
    return done


def save_pace(history: History, key: str, work: Path) -> None:
    """Keep what differs from run to run beside `work`, so that the result itself is the same every time."""
    write_json(pace_file(work), {"key": key, "pace": history.pace})


def read_pace(work: Path, key: str) -> list[dict]:
    """The pace of the training `key` as it was kept; [] if it was not."""
    try:
        kept = read_json(pace_file(work))
        return kept["pace"] if kept["key"] == key else []
    except (CourseError, KeyError, TypeError):
        return []


def pace_file(work: Path) -> Path:
    return work.with_name(f"{work.name}.json")
