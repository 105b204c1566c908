"""Which models are trained and examined: the arms of the experiment, the placebo, the one that looks things up."""

from types import SimpleNamespace

import pytest
from support import tiny

from helpers.core import STAGES, experiment
from helpers.core.errors import CourseError
from helpers.dataset import build, contamination, placebo
from helpers.evaluation import retrieval
from helpers.grading import questions
from helpers.papers import collect, screening, topic
from helpers.papers.paper import Paper
from helpers.pipeline.stages import inputs_of, outputs_of

OFF, PLACEBO, FULL = (tiny.resolve(CONTROLS=value) for value in ("off", "placebo", "full"))
TOPIC = topic.load_topic("autoimmune")


def names(*trained):
    return [arm.row for arm in trained]


def test_what_is_trained_follows_from_controls_and_seeds():
    assert names(*experiment.trainings_of("qlora", OFF)) == ["qlora"]
    assert names(*experiment.trainings_of("qlora", PLACEBO)) == ["qlora", "placebo_qlora"]
    assert names(*experiment.trainings_of("full", FULL)) == ["full"]
    again = experiment.trainings_of("qlora", tiny.resolve(SEEDS=3, SEED=7, CONTROLS="off"))
    assert [(arm.row, arm.seed) for arm in again] == [("qlora", 7), ("qlora_s8", 8), ("qlora_s9", 9)]


def test_every_row_is_asked_once_and_the_untouched_model_comes_first():
    for settings in (OFF, PLACEBO, FULL, tiny.resolve(SEEDS=2)):
        asked = [row for which in ("base", "qlora", "full") for row in experiment.variants_asked(which, settings)]
        assert len(asked) == len(set(asked)) and asked[0] == "base_4bit"
        assert {"base_rag", "base_bf16", "qlora", "full"} <= set(asked)
        assert ("base_aa" in asked) == (settings.CONTROLS == "full")
        assert ("placebo_qlora" in asked) == (settings.CONTROLS != "off")
    assert "base_aa" not in experiment.variants_measured(
        "qlora", FULL
    ) and "base_4bit" in experiment.variants_measured("qlora", FULL)


def test_stage_8_reads_what_2_5_and_7_leave():
    for settings in (OFF, FULL):
        left = {name for n in (2, 5, 7) for name in outputs_of(STAGES[n - 1], settings)}
        assert left <= set(inputs_of(STAGES[7], settings))
        assert "items_qlora" in left and ("results_placebo_qlora" in left) == (settings is FULL)
        assert set(outputs_of(STAGES[3], settings)) <= set(inputs_of(STAGES[4], settings))


# the placebo


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Settings, route, training rows, and what tests them, of the written sample."""
    settings, found = tiny.resolve(), collect.from_sample()
    kept = screening.screen_papers(found.papers, TOPIC, 300, tmp_path_factory.mktemp("s") / "dropped.jsonl").kept
    asked = questions.load_questions()
    training, _ = build.build_rows(kept, settings, TOPIC, asked)
    return SimpleNamespace(
        settings=settings, route=found.route, training=training, tested=contamination.tested_texts(asked)
    )


def test_the_placebo_is_made_of_papers_that_name_nothing_of_the_topic(sample):
    made = placebo.build_placebo(sample.training, sample.settings, TOPIC, sample.route, sample.tested)
    by_id = {paper.paper_id: paper for paper in collect.from_sample().papers}
    taken = [by_id[row["paper_id"]] for row in made]
    assert made and {row["split"] for row in made} == {"training"}
    assert not any(TOPIC.mentions(f"{paper.title} {paper.text}") for paper in taken)
    assert not {row["paper_id"] for row in made} & {row["paper_id"] for row in sample.training}
    assert placebo.build_placebo(sample.training, sample.settings, TOPIC, sample.route, sample.tested) == made
    assert placebo.build_placebo(sample.training, OFF, TOPIC, sample.route) == []


def test_there_are_no_more_placebo_papers_than_training_papers(sample):
    others = [
        Paper(paper_id=str(n), source="PubMed", title=f"Bridges of town {n}", journal=f"J {n}", abstract=[long(n)])
        for n in range(40)
    ]
    assert len(placebo.choose_placebo(others, TOPIC, 7, ())) == 7
    excluded = {"3", "4"}
    assert not excluded & {paper.paper_id for paper in placebo.choose_placebo(others, TOPIC, 40, excluded)}


def long(n):
    return {
        "text": " ".join(f"Bridge {n * 97 + k} was measured and found to be {k * 13 + n} metres." for k in range(12))
    }


def test_without_other_papers_there_is_a_way_out(sample):
    about = [paper for paper in collect.from_sample().papers if TOPIC.mentions(paper.text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placebo, "from_sample", lambda: collect.Harvest(about, sample.route))
        with pytest.raises(CourseError, match="no paper of another field was found for the placebo"):
            placebo.build_placebo(sample.training, sample.settings, TOPIC, sample.route)


# looking up


TEXTS = {
    "Rituximab in pemphigus": "Rituximab helped. " * 300,
    "Diet in coeliac disease": "No gluten was eaten.",
    "Models of lupus": "A graph of interferon genes.",
}
PAPERS = [
    Paper(paper_id=str(n), source="PubMed", title=title, abstract=[{"text": text}])
    for n, (title, text) in enumerate(TEXTS.items(), start=1)
]


def test_the_paper_that_shares_most_words_comes_first():
    library = retrieval.Library(PAPERS)
    assert [paper.paper_id for paper in library.find("How does rituximab act in pemphigus?", 1)] == ["1"]
    assert [paper.paper_id for paper in library.find("interferon genes in lupus")][:1] == ["3"]
    assert library.find("of the and") == [] and library.before("of the and") == ""
    assert library.find("zzz qqq") == []


def test_what_is_read_before_a_question_is_cut():
    library = retrieval.Library(PAPERS)
    before = library.before("rituximab for pemphigus, and gluten")
    assert before.startswith("Rituximab in pemphigus\nRituximab helped.") and "No gluten was eaten.\n\n" in before
    assert library.before("rituximab for pemphigus, and gluten", 1) == before.partition("\n\n")[0] + "\n\n"
    assert len(before.split("\n\n")[0].split()) == 3 + retrieval.WORDS + 1
