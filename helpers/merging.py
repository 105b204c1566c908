"""An adapter merged into its base, one model that needs neither peft nor bitsandbytes; and how far it moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import chat, generation, likelihood, models
from helpers.hardware import compute_dtype, device

DTYPE = "float16"  # of the merged weights; its 11 bits hold the sum, the 8 of bfloat16 lose part of what was learnt


class Said(NamedTuple):
    """What a model says: its greedy answers, and the log-probability (nats) of every token of some texts."""

    answers: list[str]
    chances: torch.Tensor


def merge(base: Path, adapter: Path, out: Path, attention: str, dtype: str) -> None:
    """Write the model of `base` with `adapter` merged into it to `out`, with its tokenizer, as safetensors in DTYPE.

    The adapter was trained on what NF4 makes of the base's weights, and corrects those. So it is added to the values
    that NF4 gives them (in `dtype`), and not to the original weights, which it has never seen.

    Raises CourseError where `models.load` and `models.load_adapter` do.
    """
    four_bit = models.load(base, "nf4", attention, dtype)
    values = four_bit.dequantize().to(getattr(torch, DTYPE))
    model = models.load_adapter(values, adapter).merge_and_unload(safe_merge=True)
    tokenizer = models.load_tokenizer(adapter)
    model.config.name_or_path = ""
    model.generation_config.eos_token_id = chat.ends(model, tokenizer)  # for those who call generate themselves
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def difference(
    base: Path,
    adapter: Path,
    merged: Path,
    attention: str,
    dtype: str,
    questions: Sequence[str],
    texts: Sequence[str],
    most: int,
) -> dict:
    """How far `merged` is from `base` and `adapter` apart: see `compared`; "arithmetic" is the precision of both.

    On a CPU both are asked in float32: 16-bit arithmetic alone moves an answer more than merging does. A GPU may
    not hold that, and asks in `dtype`.
    """
    wide = device() == "cpu"
    tokenizer = models.load_tokenizer(adapter)
    apart = models.unpack(models.load(base, "nf4", attention, dtype))
    apart = models.load_adapter(apart.float() if wide else apart, adapter)
    arithmetic = "float32" if wide else compute_dtype(dtype)
    before = ask(apart, tokenizer, questions, texts, most)
    del apart
    after = ask(models.load(merged, arithmetic, attention), tokenizer, questions, texts, most)
    return compared(before, after) | {"arithmetic": arithmetic, "stored": DTYPE}


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    texts: Sequence[str],
    most: int,
) -> Said:
    """Greedy answers of `most` tokens at most, and how probable the model finds each token of the texts."""
    said = [answer["response"] for answer in generation.generate(model, tokenizer, list(questions), most)]
    return Said(said, torch.cat([chances(model, tokenizer, text) for text in texts]))


@torch.inference_mode()
def chances(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """Log-probability in nats of each token of `text` after those before it, (tokens), float32."""
    ids = torch.tensor([[likelihood.beginning(tokenizer), *chat.plain_ids(tokenizer, text)]], device=model.device)
    scores = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return scores.gather(1, ids[0, 1:, None])[:, 0].cpu()


def compared(apart: Said, merged: Said) -> dict[str, float]:
    """How many answers are the same, and how log-probabilities differ, in nats a token.

    {"answers", "same", "tokens", "mean" and "most" (of the absolute differences), "apart" and "merged" (the mean
    log-probability itself)}.
    """
    differences = (merged.chances - apart.chances).abs()
    return {
        "answers": len(apart.answers),
        "same": sum(a == b for a, b in zip(apart.answers, merged.answers, strict=True)),
        "tokens": len(differences),
        "mean": differences.mean().item(),
        "most": differences.max().item(),
        "apart": apart.chances.mean().item(),
        "merged": merged.chances.mean().item(),
    }
