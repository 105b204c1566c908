"""A model is asked in batches, and what it said is on disk before it is asked again."""

from collections import Counter

import pytest
import torch
from support import tiny

from helpers.core import io
from helpers.evaluation import answers
from helpers.models import chat_template, decoding, load
from helpers.models import generate as generation

QUESTIONS = [
    {"id": n, "category": "lupus", "difficulty": "easy", "question": f"Why is TNF-α {'so ' * (2 * n % 5)}raised? {n}"}
    for n in range(13)
]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    folder = tiny.write_model(tmp_path_factory.mktemp("base"))
    return load.load_model(folder, "float32"), load.load_tokenizer(folder)


@pytest.fixture(autouse=True)
def ten_together(monkeypatch):
    """Two batches of the thirteen questions."""
    monkeypatch.setitem(answers.TOGETHER, "cpu", 10)


@pytest.fixture
def asked(monkeypatch):
    """The prompts that `generate` was given, batch by batch."""
    batches, generate = [], generation.generate_answers

    def counted(model, tokenizer, prompts, *rest, **how):
        batches.append(prompts)
        return generate(model, tokenizer, prompts, *rest, **how)

    monkeypatch.setattr(answers, "generate_answers", counted)
    return batches


def ask(speaker, notes, questions=QUESTIONS, identity="model", length=6, force=False):
    return answers.ask_questions(
        *speaker, questions, row="base", identity=identity, max_new_tokens=length, notes=notes, force=force
    )


def said(rows):
    return [(row["id"], row["response"], row["finish_reason"], row["tokens"]) for row in rows]


def test_a_batch_is_answered_as_one_at_a_time(speaker):
    prompts = [q["question"] for q in QUESTIONS[:6]]
    together = generation.generate_answers(*speaker, prompts, 12)
    assert together == [generation.generate_answers(*speaker, [prompt], 12)[0] for prompt in prompts]
    assert len({answer["response"] for answer in together}) > 1, "they are different answers"
    assert all(answer["finish_reason"] == "length" and answer["tokens"] == 12 for answer in together)


def most_likely(speaker, prompt, n):
    """The ids of `n` tokens, each the likeliest after those before it."""
    ids, found = chat_template.prompt_ids(speaker[1], prompt), []
    for _ in range(n):
        with torch.no_grad():
            found.append(speaker[0](torch.tensor([ids + found])).logits[0, -1].argmax().item())
    return found


def test_greedy_is_the_likeliest_token_each_time(speaker):
    expected = speaker[1].decode(most_likely(speaker, "Is it lupus?", 6)).strip()
    assert generation.generate_answers(*speaker, ["Is it lupus?"], 6)[0]["response"] == expected


def test_an_answer_stops_where_the_model_ends_it(speaker, monkeypatch):
    first, second, third = most_likely(speaker, "Is it lupus?", 3)
    assert third not in (first, second)
    monkeypatch.setattr(generation, "end_ids", lambda *_: [2, third])
    ended, other = generation.generate_answers(*speaker, ["Is it lupus?", "Why?"], 8)
    assert (ended["finish_reason"], ended["tokens"]) == ("stop", 2)
    assert ended["response"] == speaker[1].decode([first, second]).strip()
    assert other == generation.generate_answers(*speaker, ["Why?"], 8)[0], "the one beside it is not cut"


def reference(model, prompts, most, ends):
    """transformers' own greedy tokens, one prompt at a time, up to and with the end."""
    tokens = []
    for ids in prompts:
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=2,
        )
        tokens.append(out[0, len(ids) :].tolist())
    return tokens


def greedy(model, prompts, most, ends):
    return decoding.generate_continuations(
        model, prompts, 1, most, ends, lambda logits, rows: decoding.greedy_tokens(logits), lambda depth: None
    )


def test_tokens_are_those_of_transformers_and_rows_end_at_their_own_time(speaker):
    model, tokenizer = speaker
    prompts = [chat_template.prompt_ids(tokenizer, "Why? " * n) for n in range(12)]
    plain = reference(model, prompts, 100, [2])
    assert greedy(model, prompts, 100, [2]) == plain, "also where the cache makes room"
    common = [token for token, _ in Counter(t for row in plain for t in set(row)).most_common(30)]
    expected = reference(model, prompts, 100, [2, *common[::3]])
    assert len({len(row) for row in expected}) > 3, "they end at many depths"
    assert greedy(model, prompts, 100, [2, *common[::3]]) == expected


@pytest.mark.slow
def test_the_embedded_model_says_what_it_says_to_transformers():
    model, tokenizer = load.load_model(tiny.embedded(), "float32"), tiny.embedded_tokenizer()
    prompts = [chat_template.prompt_ids(tokenizer, question) for question in ("Hi", "What is lupus, in a few words?")]
    assert greedy(model, prompts, 12, [2]) == reference(model, prompts, 12, [2])


def test_rows_that_have_ended_cost_nothing(speaker, monkeypatch):
    model, tokenizer = speaker
    prompts = [chat_template.prompt_ids(tokenizer, "Why? " * n) for n in range(6)]
    sizes, forward = [], model.forward

    def counted(*args, **options):
        sizes.append(len(options["input_ids"]))
        return forward(*args, **options)

    monkeypatch.setattr(model, "forward", counted)
    plain = greedy(model, prompts, 30, [])
    ends = [plain[0][3], plain[1][7]]
    sizes.clear()
    lengths = [len(row) for row in greedy(model, prompts, 30, ends)]
    assert min(lengths) < 30
    assert sizes == [6, *(sum(length > depth for length in lengths) for depth in range(1, max(lengths)))]


def test_samples_are_drawn_alike_in_any_company(speaker, monkeypatch):
    read, known = [], decoding.read_prompts
    monkeypatch.setattr(
        decoding, "read_prompts", lambda model, prompts: read.append(len(prompts)) or known(model, prompts)
    )
    prompts = [q["question"] for q in QUESTIONS[:5]]
    together = generation.generate_answers(*speaker, prompts, 12, samples=3)
    assert read == [5], "every prompt is read once"
    alone = [generation.generate_answers(*speaker, [prompt], 12, samples=3)[0] for prompt in reversed(prompts)]
    assert together == alone[::-1]
    assert together == [
        {**plain, "samples": said["samples"]}
        for plain, said in zip(generation.generate_answers(*speaker, prompts, 12), together, strict=True)
    ]
    fewer = generation.generate_answers(*speaker, prompts[:1], 12, samples=1)
    assert fewer[0]["samples"] == together[0]["samples"][:1]
    assert len({sample["response"] for said in together for sample in said["samples"]}) == 15
    assert (
        generation.generate_answers(*speaker, prompts, 12, samples=3, seed=1)[0]["samples"] != together[0]["samples"]
    )
    careful = generation.generate_answers(*speaker, prompts[:1], 12, samples=2, top_p=1e-6)[0]
    assert [sample["response"] for sample in careful["samples"]] == [careful["response"]] * 2


@pytest.mark.parametrize(("words", "flat"), [(5, 1.0), (2000, 1.0), (2000, 0.0)])
def test_what_is_drawn_has_the_nucleus_probabilities(words, flat):
    logits = torch.randn(words, generator=torch.Generator().manual_seed(1)) * (1 - flat) * 4
    logits[1] = 8.0
    likely = (logits / 0.7).softmax(-1)
    order = likely.argsort(descending=True)
    size = int((likely[order].cumsum(0) < 0.9).sum()) + 1
    nucleus = set((likely >= likely[order[size - 1]]).nonzero()[:, 0].tolist())
    chances = (torch.arange(4000) + 0.5) / 4000
    found = Counter(decoding.sample_tokens(logits.expand(4000, -1), chances, 0.7, 0.9).tolist())
    mass = sum(likely[word].item() for word in nucleus)
    assert found.keys() <= nucleus
    assert all(abs(found[word] / 4000 - likely[word].item() / mass) < 1.5 / 4000 for word in nucleus)
    assert decoding.sample_tokens(logits[None], torch.tensor([1.0]), 0.7, 0.9).item() in range(words)


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        ("Lupus.", True, {"response": "Lupus.", "thinking": "", "finish_reason": "stop"}),
        ("Lupus.", False, {"response": "Lupus.", "thinking": "", "finish_reason": "length"}),
        ("", True, {"response": "", "thinking": "", "finish_reason": "stop"}),
        ("<think>It may be", False, {"response": "", "thinking": "It may be", "finish_reason": "length"}),
        ("hm</think>\n\nLupus.", True, {"response": "Lupus.", "thinking": "hm", "finish_reason": "stop"}),
    ],
)
def test_how_an_answer_ended_is_told(speaker, text, ended, expected):
    tokenizer = speaker[1]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    padded = [*ids, 2, 2, 2] if ended else ids
    assert generation.finish_answer(tokenizer, padded, [2]) == {**expected, "tokens": len(ids)}


def test_every_token_that_ends_an_answer_is_known(speaker, monkeypatch):
    model, tokenizer = speaker
    for own, ends in ((None, [2]), (0, [0, 2]), ([1, 0], [0, 1, 2])):
        monkeypatch.setattr(model.generation_config, "eos_token_id", own)
        assert chat_template.end_ids(model, tokenizer) == ends


def test_rows_have_the_seeds_keys_first_and_honest_times(speaker, tmp_path):
    rows = ask(speaker, tmp_path / "notes.jsonl")
    assert [row["id"] for row in rows] == [q["id"] for q in QUESTIONS]
    seed = ["id", "category", "difficulty", "question", "response", "time_seconds", "timestamp"]
    assert all(list(row)[:7] == seed for row in rows)
    assert [row["batch_size"] for row in rows] == [10] * 10 + [3] * 3
    shares = [row["batch_seconds"] / row["batch_size"] for row in rows]
    assert [row["time_seconds"] for row in rows] == pytest.approx(shares, abs=1e-3)


def test_every_batch_is_noted_before_the_next_and_not_asked_again(speaker, tmp_path, asked, monkeypatch):
    notes = tmp_path / "notes.jsonl"
    undisturbed = ask(speaker, tmp_path / "other.jsonl")
    asked.clear()
    generate = answers.generate_answers

    def killed_at_the_second(*args, **how):
        if asked:
            raise KeyboardInterrupt
        return generate(*args, **how)

    monkeypatch.setattr(answers, "generate_answers", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        ask(speaker, notes)
    assert len(io.read_jsonl(notes)) == 10
    monkeypatch.setattr(answers, "generate_answers", generate)
    asked.clear()
    rows = ask(speaker, notes)
    assert asked == [[q["question"] for q in QUESTIONS[10:]]]
    assert said(rows) == said(undisturbed)
    assert ask(speaker, notes) == rows and len(asked) == 1


def test_a_line_torn_by_a_kill_costs_one_answer(speaker, tmp_path, asked):
    notes = tmp_path / "notes.jsonl"
    before = ask(speaker, notes)
    notes.write_bytes(notes.read_bytes()[:-40])
    asked.clear()
    assert said(ask(speaker, notes)) == said(before)
    assert asked == [[QUESTIONS[-1]["question"]]]
    asked.clear()
    ask(speaker, notes)
    assert not asked, "the torn line does not spoil the one written after it"


@pytest.mark.parametrize("change", [{"identity": "other model"}, {"length": 5}])
def test_another_model_or_length_is_asked_anew(speaker, tmp_path, asked, change):
    ask(speaker, tmp_path / "notes.jsonl")
    asked.clear()
    ask(speaker, tmp_path / "notes.jsonl", **change)
    assert sum(map(len, asked)) == len(QUESTIONS)


def test_a_reworded_question_is_asked_anew_and_no_other(speaker, tmp_path, asked):
    ask(speaker, tmp_path / "notes.jsonl")
    asked.clear()
    ask(speaker, tmp_path / "notes.jsonl", [*QUESTIONS[1:], {**QUESTIONS[0], "question": "Reworded?"}])
    assert asked == [["Reworded?"]]


def test_force_asks_again_and_the_newest_answer_counts(speaker, tmp_path, asked, monkeypatch):
    notes = tmp_path / "notes.jsonl"
    ask(speaker, notes)
    asked.clear()
    forced = ask(speaker, notes, force=True)
    assert sum(map(len, asked)) == len(QUESTIONS)
    assert ask(speaker, notes) == forced


def test_an_empty_answer_is_an_answer(speaker, tmp_path, asked, monkeypatch):
    empty = {"response": "", "thinking": "", "finish_reason": "stop", "tokens": 0}
    monkeypatch.setattr(
        answers, "generate_answers", lambda model, tokenizer, prompts, *_, **how: [empty] * len(prompts)
    )
    rows = ask(speaker, tmp_path / "notes.jsonl")
    assert len(rows) == len(QUESTIONS) and {row["response"] for row in rows} == {""}
    assert io.read_jsonl(tmp_path / "notes.jsonl")[0]["tokens"] == 0
    monkeypatch.undo()
    assert ask(speaker, tmp_path / "notes.jsonl") == rows, "and not asked for again"


def test_a_reasoning_model_answers_once_more_aloud(speaker, tmp_path):
    model, plain = speaker
    thoughtful = tiny.byte_tokenizer(tiny.CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}{# </think> #}")
    aloud = answers.ask_questions(
        model, thoughtful, QUESTIONS[:2], row="r1", identity="m", max_new_tokens=6, notes=tmp_path / "n"
    )
    for row in aloud:
        assert row["aloud"].keys() == {"response", "thinking", "finish_reason", "tokens"}
        assert (row["aloud"]["response"], row["aloud"]["finish_reason"]) == ("", "length"), "cut within its thought"
        assert row["aloud"]["thinking"] and row["thinking"] == ""
    quiet = answers.ask_questions(
        model, plain, QUESTIONS[:2], row="plain", identity="m", max_new_tokens=6, notes=tmp_path / "p"
    )
    assert not any("aloud" in row for row in quiet)
