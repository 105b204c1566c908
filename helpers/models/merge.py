"""An adapter merged into its base, one model that needs neither peft nor bitsandbytes; and how far it moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import compute_dtype, device_name
from helpers.models.chat_template import end_ids, plain_ids
from helpers.models.generate import generate_answers
from helpers.models.load import dequantise, load_adapter, load_model, load_tokenizer
from helpers.models.loglikelihood import start_token

DTYPE = "float16"  # of the merged weights; its 11 bits hold the sum, the 8 of bfloat16 lose part of what was learnt


class Spoken(NamedTuple):
    """What a model says: its greedy answers, and the log-probability (nats) of every token of some texts."""

    answers: list[str]
    chances: torch.Tensor


def merge_adapter(base: Path, adapter: Path, out: Path, attention: str, dtype: str) -> None:
    """Write the model of `base` with `adapter` merged into it to `out`, with its tokenizer, as safetensors in DTYPE.

    The adapter was trained on what NF4 makes of the base's weights, and corrects those. So it is added to the values
    that NF4 gives them (in `dtype`), and not to the original weights, which it has never seen.

    Raises CourseError where `models.load` and `models.load_adapter` do.
    """
    four_bit = load_model(base, "nf4", attention, dtype)
    values = four_bit.dequantize().to(getattr(torch, DTYPE))
    model = load_adapter(values, adapter).merge_and_unload(safe_merge=True)
    tokenizer = load_tokenizer(adapter)
    model.config.name_or_path = ""
    model.generation_config.eos_token_id = end_ids(model, tokenizer)  # for those who call generate themselves
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def measure_difference(
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
    wide = device_name() == "cpu"
    tokenizer = load_tokenizer(adapter)
    apart = dequantise(load_model(base, "nf4", attention, dtype))
    apart = load_adapter(apart.float() if wide else apart, adapter)
    arithmetic = "float32" if wide else compute_dtype(dtype)
    before = ask_both(apart, tokenizer, questions, texts, most)
    del apart
    after = ask_both(load_model(merged, arithmetic, attention), tokenizer, questions, texts, most)
    return compare_answers(before, after) | {"arithmetic": arithmetic, "stored": DTYPE}


def ask_both(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    texts: Sequence[str],
    most: int,
) -> Spoken:
    """Greedy answers of `most` tokens at most, and how probable the model finds each token of the texts."""
    said = [answer["response"] for answer in generate_answers(model, tokenizer, list(questions), most)]
    return Spoken(said, torch.cat([token_logprobs(model, tokenizer, text) for text in texts]))


@torch.inference_mode()
def token_logprobs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """Log-probability in nats of each token of `text` after those before it, (tokens), float32."""
    ids = torch.tensor([[start_token(tokenizer), *plain_ids(tokenizer, text)]], device=model.device)
    scores = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return scores.gather(1, ids[0, 1:, None])[:, 0].cpu()


def compare_answers(apart: Spoken, merged: Spoken) -> dict[str, float]:
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
