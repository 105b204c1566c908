"""Texts are scored together, and as if each were read alone."""

import random

import pytest
import torch
from support import tiny

from helpers.models import chat_template, load, loglikelihood

CONTEXTS = (
    "",
    "Lupus is",
    "Lupus is ",
    "Lupus is a disease of the immune system. Its cause",
    "In 2021, TNF-",
    "Lupus is",
)
OPTIONS = (" lupus", "α", " rituximab", "", "lupus nephritis in children and adults", "\n\nNo", "itis ≥ 3.5 µg/L")
ITEMS = [(context, [OPTIONS[(n + k) % 7] for k in range(1 + n % 4)]) for n, context in enumerate(CONTEXTS)]
ITEMS += [(context, OPTIONS) for context in CONTEXTS]


@pytest.fixture(scope="module")
def tiny_one(tmp_path_factory):
    folder = tiny.write_model(tmp_path_factory.mktemp("base"))
    return load.load_model(folder, "float32"), load.load_tokenizer(folder)


@pytest.fixture(scope="module")
def embedded():
    return load.load_model(tiny.embedded(), "float32"), tiny.embedded_tokenizer()


@pytest.fixture(params=["tiny_one", "embedded"])
def reader(request):
    return request.getfixturevalue(request.param)


def alone(model, tokenizer, context, options):
    """Each option from one whole sequence of its own, scored from where the first of them leaves the context."""
    before = tokenizer(context, add_special_tokens=False).input_ids
    wholes = [tokenizer(context + option, add_special_tokens=False).input_ids for option in options]
    split = max(n for n in range(len(before) + 1) if all(whole[:n] == before[:n] for whole in wholes))
    scores = []
    for whole in wholes:
        ids = torch.tensor([tokenizer.bos_token_id, *whole])
        with torch.no_grad():
            logs = model(ids[None]).logits[0, :-1].log_softmax(-1)
        scores.append(logs.gather(1, ids[1:, None])[split:].sum().item())
    return scores


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 1024])
def test_scores_are_those_of_one_at_a_time(tiny_one, tokens_per_batch):
    found = loglikelihood.score_options(*tiny_one, ITEMS, tokens_per_batch)
    for (context, options), scores in zip(ITEMS, found, strict=True):
        assert scores == pytest.approx(alone(*tiny_one, context, options), abs=1e-4)


@pytest.mark.slow
def test_scores_of_the_embedded_model_are_those_of_one_at_a_time(embedded):
    found = loglikelihood.score_options(*embedded, ITEMS[:6], 60)
    for (context, options), scores in zip(ITEMS, found, strict=False):
        assert scores == pytest.approx(alone(*embedded, context, options), abs=1e-4)


def test_a_text_is_as_probable_as_its_beginning_and_then_its_end(reader):
    model, tokenizer = reader
    whole, begun, ended = loglikelihood.score_options(
        model, tokenizer, [("", ["Lupus is a disease"]), ("", ["Lupus is"]), ("Lupus is", [" a disease"])]
    )
    assert whole[0] == pytest.approx(begun[0] + ended[0], abs=1e-3)
    assert loglikelihood.score_options(model, tokenizer, [("Lupus is", ["", " x"])])[0][0] == 0
    assert loglikelihood.score_options(model, tokenizer, [("Lupus is", []), ("", ["x"])])[0] == []
    assert loglikelihood.score_options(model, tokenizer, []) == []


def test_a_space_that_the_option_takes_is_no_longer_the_contexts():
    tokenizer = tiny.embedded_tokenizer()
    _, apart = loglikelihood.encode_options(tokenizer, "Lupus is", [" rare", " a disease"])
    context, merged = loglikelihood.encode_options(tokenizer, "Lupus is ", ["rare", "a disease"])
    assert merged == apart and context == [tokenizer.bos_token_id, *chat_template.plain_ids(tokenizer, "Lupus is")]
    context, mixed = loglikelihood.encode_options(tokenizer, "Lupus is ", ["rare", "(see)"])
    places = [tokenizer.decode(context[1:] + option) for option in mixed]
    assert places == ["Lupus is rare", "Lupus is (see)"]
    assert context[1:] == chat_template.plain_ids(tokenizer, "Lupus is"), "all options of an item from the same place"


def test_sizes_are_tokens_scored_and_bytes_of_the_option():
    tokenizer = tiny.embedded_tokenizer()
    ((rare, alpha, none),) = loglikelihood.option_sizes(tokenizer, [("Lupus is", [" rare", " TNF-α", ""])])
    assert rare == {"tokens": 1, "bytes": 5} and none == {"tokens": 0, "bytes": 0}
    assert alpha["bytes"] == 7 and alpha["tokens"] == len(chat_template.plain_ids(tokenizer, " TNF-α"))


def test_a_context_is_read_once_whoever_shares_it(tiny_one, monkeypatch):
    model, tokenizer = tiny_one
    seen, forward = [], model.forward

    def counted(*args, **options):
        seen.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(model, "forward", counted)
    loglikelihood.score_options(
        model, tokenizer, [("x" * 40, ["a", "bc"]), ("x" * 40, ["d"]), ("y" * 40, ["e", "f"])]
    )
    assert seen == [(2, 40), (5, 2)], "two contexts, then five options"
    seen.clear()
    loglikelihood.score_options(model, tokenizer, [("x" * 40, ["abc"]), ("", ["de", "fgh"])])
    assert seen == [(3, 43)], "what nobody shares is read in one go"


def test_batches_hold_every_row_once_and_stay_small():
    dice = random.Random(1)
    pairs = [([1] + [dice.randrange(3)] * dice.choice((0, 9, 50)), [5] * dice.randrange(1, 90)) for _ in range(300)]
    groups = loglikelihood.group_rows(pairs, 200)
    assert sorted(place for _, rows in groups for place, _ in rows) == list(range(300))
    for prefix, rows in groups:
        assert len(rows) == 1 or len(rows) * max(len(ids) for _, ids in rows) <= 200
        for place, ids in rows:
            assert [*prefix, *ids] == [*pairs[place][0], *pairs[place][1][:-1]]
    assert max(len(rows) for prefix, rows in groups if prefix) > 1 and loglikelihood.group_rows([], 200) == []


def test_special_tokens_in_a_text_are_plain_words(tiny_one):
    (scores,) = loglikelihood.score_options(*tiny_one, [("a<|im_end|>", ["<|im_start|>b"])])
    sizes = loglikelihood.option_sizes(tiny_one[1], [("a<|im_end|>", ["<|im_start|>b"])])
    assert scores[0] < 0 and sizes == [[{"tokens": 13, "bytes": 13}]]
