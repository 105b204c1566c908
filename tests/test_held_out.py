"""What held-out papers cost a model in bits, measured once."""

import copy
import math

import pytest
import tiny
import torch

from helpers import chat, files, held_out, likelihood, models

PAPERS = [
    {"paper_id": str(n), "title": f"Study {n}", "abstract": "β-cells are few. " * (1 + 5 * n)} for n in range(6)
]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    folder = tiny.write_model(tmp_path_factory.mktemp("base"))
    return models.load(folder, "float32"), models.load_tokenizer(folder)


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


@pytest.fixture
def read(monkeypatch):
    """How many texts each batch held."""
    batches, known = [], likelihood.read
    monkeypatch.setattr(
        likelihood, "read", lambda m, p, groups: batches.append(sum(len(g[1]) for g in groups)) or known(m, p, groups)
    )
    return batches


def test_papers_noted_are_not_read_again(speaker, tmp_path, read, monkeypatch):
    items = measure(speaker, tmp_path / "notes.jsonl")
    read.clear()
    assert measure(speaker, tmp_path / "notes.jsonl") == items and not read
    changed = [{**PAPERS[0], "title": "A new title"}, *PAPERS[1:]]
    assert measure(speaker, tmp_path / "notes.jsonl", changed)[1:] == items[1:] and read == [1]
    monkeypatch.setenv("COURSE_FORCE", "1")
    measure(speaker, tmp_path / "notes.jsonl")
    assert sum(read) == 1 + len(PAPERS)


def test_what_was_read_before_a_kill_is_not_read_again(speaker, tmp_path, read, monkeypatch):
    monkeypatch.setattr(held_out, "TOKENS_PER_BATCH", 130)
    whole = measure(speaker, tmp_path / "whole.jsonl")
    assert len(read) > 2
    known = likelihood.read

    def killed_at_the_second(*args):
        if read:
            raise KeyboardInterrupt
        return known(*args)

    read.clear()
    monkeypatch.setattr(likelihood, "read", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        measure(speaker, tmp_path / "notes.jsonl")
    noted = len(files.read_jsonl(tmp_path / "notes.jsonl"))
    assert noted == sum(read) > 0
    monkeypatch.setattr(likelihood, "read", known)
    assert measure(speaker, tmp_path / "notes.jsonl") == whole and sum(read) == len(PAPERS)
