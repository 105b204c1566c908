"""Answers to prompts: the chat template, greedy or sampled tokens, and text again."""

import random
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.models.chat_template import end_ids, opens_thought, prompt_ids, split_thinking
from helpers.models.decoding import generate_continuations, greedy_tokens, sample_tokens


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int = 160,
    watch: Callable[[int], None] = lambda tokens: None,
    samples: int = 0,
    temperature: float = 0.7,
    top_p: float = 0.95,
    seed: int = 0,
    thinking: bool = False,
) -> list[dict]:
    """Greedy answers to a batch: [{"response", "thinking", "finish_reason", "tokens"}] in the order asked.

    `finish_reason` is "stop" if the model ended its answer and "length" if it was cut. With `samples` each answer
    also has "samples": so many more answers of the same form, drawn at `temperature` from the likeliest words of
    probability `top_p` together. What is drawn depends on `seed`, the prompt and the number of the sample, not
    on who else is in the batch. `watch` is told the number of tokens the answers have reached. Thoughts are closed
    before they begin, or with `thinking` left open: `max_new_tokens` then count for thought and answer together.
    """
    asked = [prompt_ids(tokenizer, prompt, thinking) for prompt in prompts]
    opened = thinking and opens_thought(tokenizer)
    ends, per = end_ids(model, tokenizer), 1 + samples
    dice = [random.Random(f"{seed} {n} {prompt}") for prompt in prompts for n in range(per)]

    def choose(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        tokens = greedy_tokens(logits)
        if sampled := [place for place, row in enumerate(rows) if row % per]:
            chances = torch.tensor([dice[rows[place]].random() for place in sampled], device=logits.device)
            tokens[sampled] = sample_tokens(logits[sampled], chances, temperature, top_p)
        return tokens

    found = generate_continuations(model, asked, per, max_new_tokens, ends, choose, watch)
    told = [finish_answer(tokenizer, ids, ends, opened) for ids in found]
    together = [told[start : start + per] for start in range(0, len(told), per)]
    return [answer | ({"samples": more} if more else {}) for answer, *more in together]


def finish_answer(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int], opened: bool = False) -> dict:
    """One row of generated ids as text, cut at the first token that ends an answer; `opened` inside a thought."""
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    thinking, answer = split_thinking(tokenizer.decode(ids[:stop], skip_special_tokens=True), opened)
    return {
        "response": answer,
        "thinking": thinking,
        "finish_reason": "length" if stop is None else "stop",
        "tokens": len(ids) if stop is None else stop,
    }
