"""A model is asked in batches, greedily, and what it said is on disk before it is asked again."""

import copy
import math

import pytest
import tiny
import torch

from helpers import answers, chat, files, held_out, models

QUESTIONS = [
    {"id": n, "category": "lupus", "difficulty": "easy", "question": f"Why is TNF-α {'so ' * (2 * n % 5)}raised? {n}"}
    for n in range(13)
]
PAPERS = [
    {"paper_id": str(n), "title": f"Study {n}", "abstract": "β-cells are few. " * (1 + 5 * n)} for n in range(6)
]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    folder = tiny.write_model(tmp_path_factory.mktemp("base"))
    return models.load(folder, "float32"), models.load_tokenizer(folder)


@pytest.fixture
def asked(monkeypatch):
    """The prompts that `generate` was given, batch by batch."""
    batches, generate = [], answers.generate

    def counted(model, tokenizer, prompts, *rest):
        batches.append(prompts)
        return generate(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(answers, "generate", counted)
    return batches


def ask(speaker, notes, questions=QUESTIONS, identity="model", length=6):
    return answers.ask(*speaker, questions, row="base", identity=identity, max_new_tokens=length, notes=notes)


def said(rows):
    return [(row["id"], row["response"], row["finish_reason"], row["tokens"]) for row in rows]


def test_a_batch_is_answered_as_one_at_a_time(speaker):
    prompts = [q["question"] for q in QUESTIONS[:6]]
    together = answers.generate(*speaker, prompts, 12)
    assert together == [answers.generate(*speaker, [prompt], 12)[0] for prompt in prompts]
    assert len({answer["response"] for answer in together}) > 1, "they are different answers"
    assert all(answer["finish_reason"] == "length" and answer["tokens"] == 12 for answer in together)


def most_likely(speaker, prompt, n):
    """The ids of `n` tokens, each the likeliest after those before it."""
    ids, found = chat.prompt_ids(speaker[1], prompt), []
    for _ in range(n):
        with torch.no_grad():
            found.append(speaker[0](torch.tensor([ids + found])).logits[0, -1].argmax().item())
    return found


def test_greedy_is_the_likeliest_token_each_time(speaker):
    expected = speaker[1].decode(most_likely(speaker, "Is it lupus?", 6)).strip()
    assert answers.generate(*speaker, ["Is it lupus?"], 6)[0]["response"] == expected


def test_an_answer_stops_where_the_model_ends_it(speaker, monkeypatch):
    first, second, third = most_likely(speaker, "Is it lupus?", 3)
    assert third not in (first, second)
    monkeypatch.setattr(answers, "end_tokens", lambda *_: [2, third])
    ended, other = answers.generate(*speaker, ["Is it lupus?", "Why?"], 8)
    assert (ended["finish_reason"], ended["tokens"]) == ("stop", 2)
    assert ended["response"] == speaker[1].decode([first, second]).strip()
    assert other == answers.generate(*speaker, ["Why?"], 8)[0], "the one beside it is not cut"


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
    assert answers.finished(tokenizer, padded, [2]) == {**expected, "tokens": len(ids)}


def test_every_token_that_ends_an_answer_is_known(speaker, monkeypatch):
    model, tokenizer = speaker
    for own, ends in ((None, [2]), (0, [0, 2]), ([1, 0], [0, 1, 2])):
        monkeypatch.setattr(model.generation_config, "eos_token_id", own)
        assert answers.end_tokens(model, tokenizer) == ends


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
    generate = answers.generate

    def killed_at_the_second(*args):
        if asked:
            raise KeyboardInterrupt
        return generate(*args)

    monkeypatch.setattr(answers, "generate", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        ask(speaker, notes)
    assert len(files.read_jsonl(notes)) == answers.BATCH
    monkeypatch.setattr(answers, "generate", generate)
    asked.clear()
    rows = ask(speaker, notes)
    assert asked == [[q["question"] for q in QUESTIONS[answers.BATCH :]]]
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
    monkeypatch.setenv("COURSE_FORCE", "1")
    forced = ask(speaker, notes)
    assert sum(map(len, asked)) == len(QUESTIONS)
    monkeypatch.delenv("COURSE_FORCE")
    assert ask(speaker, notes) == forced


def test_an_empty_answer_is_an_answer(speaker, tmp_path, asked, monkeypatch):
    empty = {"response": "", "thinking": "", "finish_reason": "stop", "tokens": 0}
    monkeypatch.setattr(answers, "generate", lambda model, tokenizer, prompts, *_: [empty] * len(prompts))
    rows = ask(speaker, tmp_path / "notes.jsonl")
    assert len(rows) == len(QUESTIONS) and {row["response"] for row in rows} == {""}
    assert files.read_jsonl(tmp_path / "notes.jsonl")[0]["tokens"] == 0
    monkeypatch.undo()
    assert ask(speaker, tmp_path / "notes.jsonl") == rows, "and not asked for again"


def measure(speaker, notes, papers=PAPERS, length=64):
    return held_out.measure(*speaker, papers, row="base", identity="model", max_length=length, notes=notes)


def test_bits_per_byte_are_the_models_own_surprise(speaker, tmp_path):
    model, tokenizer = speaker
    items = measure(speaker, tmp_path / "notes.jsonl")
    assert [item["item"] for item in items] == [paper["paper_id"] for paper in PAPERS]
    for item, paper in zip(items, PAPERS, strict=True):
        ids = chat.plain_ids(tokenizer, held_out.text_of(paper))[:64]
        with torch.no_grad():
            labels = torch.tensor([[tokenizer.bos_token_id, *ids]])
            mean = model(labels, labels=labels).loss.item()
        assert item["nll"] == pytest.approx(mean * len(ids), rel=1e-5)
        assert item["bytes"] == len(tokenizer.decode(ids).encode())
    assert held_out.bits_per_byte(items[:1]) == pytest.approx(items[0]["nll"] / items[0]["bytes"] / math.log(2))


def test_a_model_that_knows_nothing_takes_all_its_bits(speaker, tmp_path):
    model, tokenizer = copy.deepcopy(speaker[0]), speaker[1]
    torch.nn.init.zeros_(model.lm_head.weight)
    items = measure((model, tokenizer), tmp_path / "notes.jsonl", length=1000)
    assert held_out.bits_per_byte(items) == pytest.approx(math.log2(len(tokenizer)), rel=1e-6), "a token is a byte"


def test_papers_noted_are_not_read_again(speaker, tmp_path, monkeypatch):
    items = measure(speaker, tmp_path / "notes.jsonl")
    read = []
    monkeypatch.setattr(held_out, "log_likelihoods", lambda m, t, texts: read.extend(texts) or [1.0] * len(texts))
    assert measure(speaker, tmp_path / "notes.jsonl") == items and not read
    changed = [{**PAPERS[0], "title": "A new title"}, *PAPERS[1:]]
    assert measure(speaker, tmp_path / "notes.jsonl", changed)[1:] == items[1:] and len(read) == 1
    monkeypatch.setenv("COURSE_FORCE", "1")
    measure(speaker, tmp_path / "notes.jsonl")
    assert len(read) == 1 + len(PAPERS)


def test_groups_hold_every_text_once_and_stay_small():
    encoded = [(str(n), [0] * (1 + 37 * n % 500)) for n in range(40)]
    groups = held_out.by_length(encoded)
    assert sorted(work for group in groups for work, _ in group) == sorted(work for work, _ in encoded)
    assert all(len(g) * max(len(ids) for _, ids in g) <= held_out.TOKENS_PER_BATCH for g in groups)
    assert held_out.by_length([]) == []
