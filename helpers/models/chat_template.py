"""From words to token ids and back: chat templates, prompts, thoughts."""

import re
from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import CourseError

ROUND_TRIP_TEXTS = (
    "plain words",
    "  two spaces,  twice",
    "line\n\nbreaks\tand tabs",
    "Greek: TNF-α, IFN-γ, β-cell",
    "signs: ≥ 3.5 µg/L, ±, →, °C",
    "accents: Sjögren, Guillain–Barré",
    "digits 2021 and 20,788",
)
MARK = "\ue000"  # a private-use character that stands for the question while the template is rendered
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}  # for templates that insist on one
OPEN, CLOSE = "<think>", "</think>"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
CHECKED_ROWS = 200


def round_trip(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """{text: does it survive decode(encode(text))?} over spaces, newlines, Greek letters and signs."""
    return {
        text: tokenizer.decode(plain_ids(tokenizer, text), clean_up_tokenization_spaces=False) == text
        for text in ROUND_TRIP_TEXTS
    }


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text` in which nothing becomes a special token, whatever the text says.

    What the template marks turns or thoughts with is cut after its first letter, as tokenizers spare only
    those of their added tokens that are called special, which `<think>` often is not.
    """
    found = [mark for mark in marks_of(tokenizer) if mark in text]
    inside = "|".join(f"(?<={re.escape(mark[0])})(?={re.escape(mark[1:])})" for mark in found)
    parts = re.split(inside, text) if found else [text]
    encoded = [tokenizer(part, add_special_tokens=False, split_special_tokens=True).input_ids for part in parts]
    return [token for ids in encoded for token in ids]


@lru_cache(maxsize=32)
def marks_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The special tokens as text, and the other added tokens that the chat template or a thought uses."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    used = [token for token, special in added.items() if special or token in template or token in (OPEN, CLOSE)]
    return [mark for mark in sorted({*tokenizer.all_special_tokens, *used}) if len(mark.strip()) > 2]


def render_template(tokenizer: PreTrainedTokenizerBase, *contents: str, **options: bool) -> str:
    """The chat template around these contents, said by user and assistant in turn.

    A template that refuses a conversation without a system message gets the plainest one. Raises CourseError if
    it refuses that too, or leaves a content out.
    """
    turns = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    for before in ([], [SYSTEM]):
        try:
            text = tokenizer.apply_chat_template([*before, *turns], tokenize=False, **options)
        except Exception as error:  # a template is a program that came with the model, and may do anything
            problem = f"the chat template refuses a question: {str(error)[:120]}"
        else:
            if all(content in text for content in contents):
                return text
            problem = "the chat template leaves out what was said"
    raise CourseError(problem, "choose another instruct model as MODEL_NAME", "no-usable-chat-template")


def close_thought(text: str, template: str) -> str:
    """A prompt after which no thought follows: one empty, closed thought at its end, if the template knows thoughts.

    R1's template opens a thought, Qwen3's closes an empty one when it is told to, others leave it to the model.
    """
    if CLOSE not in template or text.rstrip().endswith(CLOSE):
        return text
    return (text[: text.rindex(OPEN)] if text.rstrip().endswith(OPEN) else text) + EMPTY_THOUGHT


@lru_cache(maxsize=32)
def split_template(tokenizer: PreTrainedTokenizerBase, thinking: bool, template: str) -> tuple[str, str]:
    """What the chat template puts before a question, and from it to where the answer (or the thought) begins."""
    text = render_template(tokenizer, MARK, add_generation_prompt=True, enable_thinking=thinking, thinking=thinking)
    before, _, after = text.partition(MARK)
    return before, after if thinking else close_thought(after, template)


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: str, thinking: bool = False) -> str:
    """The question inside the model's chat template, up to where the answer (or the thought) begins."""
    before, after = split_template(tokenizer, thinking, tokenizer.get_chat_template())
    return before + question.strip() + after


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, thinking: bool = False) -> list[int]:
    """Token ids of `prompt_text`; special tokens come from the template only, never from the question."""
    if not any(mark in question for mark in marks_of(tokenizer)):
        return tokenizer(prompt_text(tokenizer, question, thinking), add_special_tokens=False).input_ids
    before, after = split_template(tokenizer, thinking, tokenizer.get_chat_template())
    ids = [tokenizer(part, add_special_tokens=False).input_ids for part in (before, after)]
    return [*ids[0], *plain_ids(tokenizer, question.strip()), *ids[1]]


def knows_thoughts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model's template has thoughts: whether it is a reasoning model."""
    return CLOSE in tokenizer.get_chat_template()


def opens_thought(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a prompt with `thinking` ends inside a thought, so that the model's words begin without `<think>`."""
    return split_template(tokenizer, True, tokenizer.get_chat_template())[1].rstrip().endswith(OPEN)


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which the template ends what an assistant says; tokenizers often name another as their eos.

    Raises CourseError if neither the template nor the tokenizer has one.
    """
    return cached_end_id(tokenizer, tokenizer.get_chat_template(), tokenizer.eos_token_id)


@lru_cache(maxsize=32)
def cached_end_id(tokenizer: PreTrainedTokenizerBase, template: str, eos: int | None) -> int:
    """`end_id`, worked out once."""
    tail = render_template(tokenizer, MARK, MARK + MARK).rpartition(MARK)[2]
    added = set(tokenizer.get_added_vocab().values())
    found = (token for token in tokenizer(tail, add_special_tokens=False).input_ids if token in added)
    end = next(found, eos)
    if end is None:
        raise CourseError(
            "neither the chat template nor the tokenizer has a token that ends an answer",
            "choose another instruct model as MODEL_NAME",
            "no-usable-chat-template",
        )
    return end


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end an answer: the model's, the tokenizer's and the template's."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return sorted({i for i in [*own, tokenizer.eos_token_id, end_id(tokenizer)] if i is not None})


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Token ids of an answer and of the token that the template ends an answer with."""
    return [*plain_ids(tokenizer, answer), end_id(tokenizer)]


def running_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of text that nobody asked for, with what the tokenizer begins and ends a text with."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    opening = [begin] if begin is not None and tokenizer("a").input_ids[:1] == [begin] else []
    return [*opening, *plain_ids(tokenizer, text), end_id(tokenizer) if end is None else end]


def thinks_first(tokenizer: PreTrainedTokenizerBase, answer: str) -> bool:
    """Whether a written answer is a thought and what is said after it, and the model's template knows thoughts."""
    return all(split_thinking(answer)) and knows_thoughts(tokenizer)


def row_ids(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[list[int], list[int]]:
    """(prompt ids, graded ids) of a training row. The prompt is the one that the model will be asked with.

    The graded ids never pass through the chat template, which would delete a thought. An answer that begins
    with one is learnt with it, after the prompt that leaves the thought open.
    """
    if not thinks_first(tokenizer, answer):
        return prompt_ids(tokenizer, question), answer_ids(tokenizer, answer)
    thought, said = split_thinking(answer)
    opening = "" if opens_thought(tokenizer) else f"{OPEN}\n"
    tags = [tokenizer(tag, add_special_tokens=False).input_ids for tag in (opening, f"\n{CLOSE}\n\n")]
    graded = [*tags[0], *plain_ids(tokenizer, thought), *tags[1], *answer_ids(tokenizer, said)]
    return prompt_ids(tokenizer, question, thinking=True), graded


def require_same_prefix(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict]) -> None:
    """Compare training rows (`prompt`, `completion`, `input_ids`, `answer_from`) with how the model will be asked.

    Some hundred rows, evenly spread. Before the answer stands what `prompt_ids` gives, and that is what the
    tokenizer itself makes of the rendered conversation; after it, the answer and the template's end of a turn.

    Raises CourseError that names the first row of which this is not so.
    """
    for number in range(0, len(rows), max(1, len(rows) // CHECKED_ROWS)):
        row = rows[number]
        if row["prompt"] and not same_prefix(tokenizer, row):
            raise CourseError(
                f"training row {number + 1}: its tokens are not those the model will be asked with and should answer",
                "choose another instruct model as MODEL_NAME: the chat template of this one cannot be followed",
                "no-usable-chat-template",
            )


def same_prefix(tokenizer: PreTrainedTokenizerBase, row: dict) -> bool:
    """Whether a row's ids are the prompt as asked, the answer, and the end of a turn, cut at most at the end."""
    question, read = row["prompt"].strip(), list(row["input_ids"])
    thinking = thinks_first(tokenizer, row["completion"])
    asked, (prompt, graded) = (
        prompt_ids(tokenizer, question, thinking),
        row_ids(tokenizer, question, row["completion"]),
    )
    if asked != prompt or row["answer_from"] != len(asked) or read != (asked + graded)[: len(read)]:
        return False
    if graded[-1] != end_id(tokenizer) or any(mark in question for mark in marks_of(tokenizer)):
        return graded[-1] == end_id(tokenizer)
    text = render_template(
        tokenizer, question, add_generation_prompt=True, enable_thinking=thinking, thinking=thinking
    )
    text = text if thinking else close_thought(text, tokenizer.get_chat_template())
    return asked == tokenizer(text, add_special_tokens=False).input_ids


def split_thinking(response: str, opened: bool = False) -> tuple[str, str]:
    """(thinking, answer): split at the last `</think>`; an unfinished thought is all thinking.

    The opening tag may be missing, because templates put it into the prompt: `opened` says that this one did.
    """
    thinking, tag, answer = response.rpartition(CLOSE)
    if tag:
        return thinking.replace(OPEN, "").strip(), answer.strip()
    if opened or response.lstrip().startswith(OPEN):
        return response.replace(OPEN, "").strip(), ""
    return "", response.strip()
