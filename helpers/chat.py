"""From words to token ids and back: chat templates, prompts, thoughts."""

from transformers import PreTrainedTokenizerBase

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
CLOSED_THOUGHT = "\n</think>\n\n"


def round_trip(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """{text: does it survive decode(encode(text))?} over spaces, newlines, Greek letters and signs."""
    return {
        text: tokenizer.decode(plain_ids(tokenizer, text), clean_up_tokenization_spaces=False) == text
        for text in ROUND_TRIP_TEXTS
    }


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text` in which nothing becomes a special token, whatever the text says."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """The question inside the model's chat template, up to where the answer begins.

    Reasoning templates open a thought here; it is closed at once, in training and in serving alike.
    """
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False, enable_thinking=False
    )
    return text.rstrip("\n") + CLOSED_THOUGHT if text.rstrip().endswith("<think>") else text


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Token ids of `prompt_text`; special tokens come from the template only, never from the question."""
    before, _, after = prompt_text(tokenizer, MARK).partition(MARK)
    ids = [tokenizer(part, add_special_tokens=False).input_ids for part in (before, after)]
    return [*ids[0], *plain_ids(tokenizer, question.strip()), *ids[1]]


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Token ids of an answer and of the token that ends it."""
    return [*plain_ids(tokenizer, answer), tokenizer.eos_token_id]


def split_thinking(response: str) -> tuple[str, str]:
    """(thinking, answer): split at the last `</think>`; an unfinished thought is all thinking.

    The opening tag may be missing, because templates put it into the prompt.
    """
    thinking, closed, answer = response.rpartition("</think>")
    if closed:
        return thinking.replace("<think>", "").strip(), answer.strip()
    if response.lstrip().startswith("<think>"):
        return response.replace("<think>", "").strip(), ""
    return "", response.strip()
