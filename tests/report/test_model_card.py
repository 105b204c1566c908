"""Model cards: read back by huggingface_hub, true to the scores, and silent about the machine."""

import json

import pytest
from huggingface_hub import ModelCard
from support import experiment

from helpers.core import io
from helpers.core.paths import ROOT, Folders
from helpers.evaluation.scores import score_run
from helpers.report import model_card

RECORD = {
    "base": {
        "id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "source": "expanded from its Q4_1 file",
        "revision": "bcc81830",
        "licence": "Apache-2.0",
    },
    "recipe": {"method": "qlora", "epochs": 3, "learning_rate": 0.0002, "token_budget": 60000},
    "history": {
        "updates": [{"step": 1, "tokens": 357}, {"step": 2, "tokens": 296}],
        "chosen": 2,
        "read": [0, 1, 2, 3],
    },
}
PAPERS = [("34000001", "PubMed"), ("34000001", "PubMed"), ("30000002", "PubMed"), ("2101.00001", "arXiv")]
NOT_READ = ("99999999", "PubMed")
TRAINING = [
    {"paper_id": id, "source": source, "title": "A title", "text": "text"} for id, source in (*PAPERS, NOT_READ)
]


@pytest.fixture(scope="module")
def scores():
    answers, items = experiment.evidence(0.4, papers=12)
    return score_run(answers, experiment.ASKED, items, seed=42)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A run whose models are two records of a training, far from the repository."""
    for name in ("reports", "models"):
        monkeypatch.setattr(Folders, name, property(lambda _, name=name: tmp_path / name))
    made = Folders()
    for row in model_card.ROWS:
        made.model(row).mkdir(parents=True)
        io.write_json(made.model(row) / "training.json", RECORD)
    return made


def test_the_cards_are_read_back_whole(scores, folders, tmp_path):
    written = model_card.write_cards(folders, scores, TRAINING)
    assert [path.name for path in written] == ["qlora.md", "full.md"]
    for path in written:
        card, row = ModelCard.load(path), path.stem
        known = card.data
        assert (known.base_model, known.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
        assert known.library_name == {"qlora": "peft", "full": "transformers"}[row]
        assert "not-for-medical-use" in known.tags and "not for medical use" in card.text
        results = {one.dataset_type: one for one in known.eval_results}
        measures = scores["rows"][row]["measures"]
        assert set(results) == set(measures)
        assert all(results[name].metric_value == pytest.approx(m["mean"], abs=1e-9) for name, m in measures.items())
        assert all("95 % interval" in one.metric_name and "n = " in one.metric_name for one in results.values())
        read = ("PMID: 30000002, 34000001.", "arXiv: 2101.00001.", "4 rows", "3 papers")
        for expected in (*read, "bcc81830", "653 tokens"):
            assert expected in card.text, expected
        assert all(f"| {name} | {value} |" in card.text for name, value in RECORD["recipe"].items())
        assert scores["verdict"]["headline"] in card.text and "## Limits" in card.text
        assert str(tmp_path) not in str(card) and str(ROOT) not in str(card)


def test_a_model_that_was_not_scored_has_no_card(scores, folders):
    model_card.write_cards(folders, scores, TRAINING)
    without = scores | {"rows": {row: one for row, one in scores["rows"].items() if row != "full"}}
    assert [path.name for path in model_card.write_cards(folders, without, TRAINING)] == ["qlora.md"]
    assert [path.name for path in folders.cards.iterdir()] == ["qlora.md"]


def test_a_card_survives_odd_names(scores, folders):
    """A licence or a source with a colon or a quote must not break the card's head."""
    odd = json.loads(json.dumps(RECORD))
    odd["base"] |= {"id": "someone/a: model", "licence": None}
    card = model_card.make_card("full", scores, odd, TRAINING)
    again = ModelCard(str(card))
    assert again.data.base_model == "someone/a: model" and again.data.license == "unknown"
    assert len(again.data.eval_results) == len(scores["rows"]["full"]["measures"])
    assert model_card.hub_licence("see its page") == "unknown", (
        "the Hub refuses a card with a licence of no such name"
    )


@pytest.mark.parametrize("whole", [False, True])
def test_a_card_to_share_keeps_all_and_adds_how_to_load(scores, whole):
    record = RECORD | {"base": RECORD["base"] | {"weights": {"model.safetensors": "a" * 64}}}
    record["recipe"] = RECORD["recipe"] | {"dtype": "bfloat16"}
    before = model_card.make_card("qlora", scores, record, TRAINING)
    after = ModelCard(str(model_card.shared_card(before, record, None, whole)))
    assert before.text.strip() in after.text and len(after.data.eval_results) == len(before.data.eval_results)
    assert after.data.library_name == ("transformers" if whole else "peft")
    assert after.data.to_dict()["base_model_sha256"] == {"model.safetensors": "a" * 64}
    assert ("PeftModel.from_pretrained(base, folder)" in after.text) != whole and "revision=" not in after.text
