"""The worked example of the README: the same course about another disease, its topic, its questions, a whole run."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.null_answers import AUXILIARY, GENERIC, NONSENSE, keywords
from support.sweeps import times

from helpers.core import STAGES, io
from helpers.core.paths import BASE_MODELS, BENCHMARK, RAW, ROOT
from helpers.grading.questions import load_questions
from helpers.grading.rubric import grade_answer
from helpers.grading.rubric_words import STRUCTURAL, split_answer, tokenise
from helpers.papers import pubmed_files
from helpers.papers.paper import Paper, Section
from helpers.papers.topic import load_topic

FILE = BENCHMARK / "asthma_questions.json"
QUESTIONS = load_questions(FILE)
BY_ID = {question["id"]: question for question in QUESTIONS}
TOPIC = load_topic("asthma")
SETTINGS = {
    **{"TOPIC": "asthma", "QUESTIONS_FILE": "data/benchmark/asthma_questions.json", "PAPERS_SOURCE": "archive"},
    **{"PROFILE": "smoke", "RUN": "asthma", "ENV_FILE": ""},
}
each_question = pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q["id"])


def test_eight_questions_each_with_a_reference_sources_and_a_rubric():
    assert [q["id"] for q in QUESTIONS] == [f"A{n:03}" for n in range(1, 9)]
    assert {q["difficulty"] for q in QUESTIONS} == {"easy", "medium", "hard"}
    assert len({q["category"] for q in QUESTIONS}) == 8
    for question in QUESTIONS:
        points = [criterion["points"] for criterion in question["criteria"]]
        assert sum(p < 0 for p in points) == 2 and 6 <= len(points) <= 8
        assert all(re.search(r"\b(19|20)\d\d\b", source) for source in question["source"])
        for criterion in question["criteria"]:
            assert criterion["id"].startswith(question["id"]) and criterion["source"] in question["source"]
        assert {c["source"] for c in question["criteria"]} <= set(question["source"])


@each_question
def test_aliases_are_well_formed(question):
    for criterion in question["criteria"]:
        groups = criterion["any_of"]
        assert all(tokenise(piece) for group in groups for alias in group for piece in alias.lstrip("-").split("..."))
        assert all(len(group) == len(set(group)) for group in groups)
        assert not groups[0][0].startswith("-")


@each_question
def test_the_reference_meets_its_own_rubric(question):
    graded = grade_answer(question["reference"], question)
    assert graded.met == [c["id"] for c in question["criteria"] if c["points"] > 0]
    assert graded.score == 1


@each_question
def test_answers_that_say_nothing_score_nothing(question):
    reference, aliases = question["reference"], keywords(question)
    content = [word for word in re.findall(r"[\w:-]+", reference) if word.lower() not in STRUCTURAL]
    shuffled = reference.split()
    random.Random(0).shuffle(shuffled)
    nulls = {
        "nothing": "",
        "echo": question["question"].replace("?", "."),
        "keywords": ", ".join(aliases),
        "keyword sentence": "The keywords are: " + ", ".join(aliases) + ".",
        "content words": ", ".join(content),
        "shuffled": " ".join(shuffled),
        "every verb negated": AUXILIARY.sub(r"\1 not", reference),
        "denied": " ".join("It is not true that " + s[0].lower() + s[1:] for s in split_answer(reference)),
        "generic": GENERIC * 12,
        "nonsense": NONSENSE,
    }
    nulls |= {f"reference {other['id']}": other["reference"] for other in QUESTIONS if other is not question}
    scores = {name: grade_answer(text, question).score for name, text in nulls.items()}
    assert not {name: score for name, score in scores.items() if score > 0.25}


GOOD = {
    "A001": "Asthma is diagnosed by demonstrating variable airflow obstruction. Typical symptoms are wheezing, cough "
    "and breathlessness. Spirometry is the main test. An increase in FEV1 of more than 12% and 200 ml after "
    "salbutamol is regarded as significant. Normal spirometry does not rule out asthma.",
    "A002": "Inhaled corticosteroids are the cornerstone of treatment. Salbutamol alone is no longer recommended. "
    "Budesonide-formoterol as needed is the preferred reliever. Overuse of SABA increases the risk of exacerbations "
    "and mortality. The inhaler technique should be checked first.",
    "A003": "- Omalizumab: anti-IgE antibody.\n- Mepolizumab blocks IL-5, as does reslizumab.\n- Dupilumab inhibits "
    "the IL-4 receptor.\n- Tezepelumab is directed against TSLP.",
    "A004": "Patients have asthma, nasal polyps and sensitivity to aspirin. Ibuprofen and other NSAIDs trigger "
    "reactions. Blocking COX-1 leads to an excess of leukotrienes. It is not an IgE-mediated allergy. Celecoxib is "
    "usually safe. Aspirin desensitization may help.",
    "A006": "Give nebulised salbutamol repeatedly at first. Ipratropium is added. Prednisolone is started early. "
    "Oxygen should be given to a saturation of 94%. A silent chest and confusion are warning signs. Magnesium "
    "may be given.",
}


@pytest.mark.parametrize("id", GOOD)
def test_the_same_said_in_other_words_is_seen(id):
    graded = grade_answer(GOOD[id], BY_ID[id])
    assert graded.score >= 0.9, graded.met
    assert not [c["id"] for c in BY_ID[id]["criteria"] if c["points"] < 0 and c["id"] in graded.met]


WRONG = {  # a dangerous or wrong claim, and a sentence that warns of it
    "A001.7": ("A chest X-ray confirms asthma.", "A chest X-ray does not confirm asthma."),
    "A001.8": ("A normal result rules out asthma.", "It is wrong that normal spirometry excludes asthma."),
    "A002.7": ("Salbutamol alone is enough for mild asthma.", "Salbutamol alone is not enough for mild asthma."),
    "A002.8": ("Salmeterol can be used alone in asthma.", "Salmeterol alone should never be used in asthma."),
    "A003.6": (
        "Omalizumab should be given in an asthma attack.",
        "Omalizumab should not be given in an asthma attack.",
    ),
    "A003.7": ("Tezepelumab is a drug that cures asthma.", "There is no evidence that dupilumab cures asthma."),
    "A004.7": ("Ibuprofen is safe for these patients.", "Ibuprofen is not safe for these patients."),
    "A004.8": ("The reaction is an IgE-mediated allergy.", "The reaction is not an IgE-mediated allergy."),
    "A005.7": (
        "Neutrophils are the hallmark of type 2 inflammation.",
        "Neutrophils are not the hallmark of type 2 asthma.",
    ),
    "A005.8": (
        "A low FeNO is what indicates type 2 inflammation.",
        "A low FeNO does not indicate type 2 inflammation.",
    ),
    "A006.7": (
        "Diazepam should be used to calm the patient.",
        "Diazepam should be avoided, even to calm the patient.",
    ),
    "A006.8": ("A silent chest is a good sign in an attack.", "A silent chest is not a good sign in an attack."),
    "A007.7": ("The patient can safely continue working there.", "The patient should not continue working there."),
    "A007.8": (
        "After the exposure ends, every patient is cured.",
        "After the exposure ends, not every patient is cured.",
    ),
    "A008.6": (
        "Inhaled steroids should be stopped in pregnancy.",
        "Inhaled steroids should not be stopped in pregnancy.",
    ),
    "A008.7": (
        "An attack should be left untreated in pregnancy.",
        "An attack should never be left untreated in pregnancy.",
    ),
}


@pytest.mark.parametrize("id", WRONG)
def test_a_dangerous_claim_costs_and_a_warning_of_it_does_not(id):
    question = BY_ID[id[:4]]
    claim, warning = WRONG[id]
    assert grade_answer(claim, question).met == [id] and grade_answer(claim, question).score < 0
    assert grade_answer(f"{question['reference']} {claim}", question).score < 1
    assert grade_answer(warning, question).score >= 0
    assert id in {c["id"] for c in question["criteria"] if c["points"] < 0}


def test_every_wrong_claim_is_tried():
    assert set(WRONG) == {c["id"] for q in QUESTIONS for c in q["criteria"] if c["points"] < 0}


@pytest.mark.parametrize(
    ("sentence", "met"),
    [
        ("Omalizumab blocks IgE and mepolizumab blocks interleukin-5.", ["A003.1", "A003.2"]),
        ("Omalizumab blocks interleukin-5 and mepolizumab blocks IgE.", []),
        ("Dupilumab blocks TSLP and tezepelumab blocks IL-4.", []),
    ],
)
def test_a_drug_is_credited_with_its_own_target(sentence, met):
    assert grade_answer(sentence, BY_ID["A003"]).met == met


def on_topic(title: str, text: str = "Nothing to the point.") -> bool:
    made = {"paper_id": "PMID1", "source": "PubMed", "title": title, "abstract": [Section(label="", text=text)]}
    return not TOPIC.off_topic(Paper.model_validate(made | {"year": 2021}))


def test_the_topic_tells_asthma_from_what_only_sounds_like_it():
    assert on_topic("Omalizumab in children with severe asthma")
    assert on_topic("Airway remodelling in mice", "Asthma was induced with ovalbumin. Asthmatic mice wheezed.")
    assert not on_topic("Lung sounds in horses", "Equine asthma was graded. Horses with equine asthma coughed.")
    assert not on_topic("Breathing in non-asthmatic children", "Non-asthmatic children were seen.")


# --- the whole example on the archive file ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A copy of the course that shares the archive file and the base models with this one."""
    pubmed_files.fetch_archive()
    root = tmp_path_factory.mktemp("asthma") / "course"
    for folder in (
        "helpers",
        "notebooks",
        "data/benchmark",
        "data/topics",
        "data/sample",
        "data/general",
        "reports/recorded",
    ):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb*"))
    for name in ("pyproject.toml", "requirements.lock", "Makefile", "TROUBLESHOOTING.md"):
        shutil.copy(ROOT / name, root)
    BASE_MODELS.mkdir(parents=True, exist_ok=True)
    (root / "models").mkdir()
    (root / "models" / "base").symlink_to(BASE_MODELS)
    (root / "data" / "raw").symlink_to(RAW)
    return root


def run(root: Path, stages: str) -> str:
    """What the runner says; it must succeed."""
    line = [
        sys.executable,
        "-m",
        "helpers",
        "pipeline",
        f"STAGES={stages}",
        *(f"{n}={v}" for n, v in SETTINGS.items()),
    ]
    done = subprocess.run(line, cwd=root, env=os.environ, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_archive_has_asthma_papers_and_the_course_reads_them(course):
    """Stage 3 by the real pipeline: papers, training rows and items about asthma and not about anything else."""
    run(course, "3")
    papers = [json.loads(line) for line in (course / "data/asthma/papers.jsonl").read_text().splitlines()]
    assert len(papers) >= 40
    assert sum("asthma" in json.dumps(paper).lower() for paper in papers) == len(papers)
    rows = io.read_json(course / "data/asthma/training_data.json")
    assert {row["paper_id"] for row in rows} <= {paper["paper_id"] for paper in papers} and len(rows) >= 100
    assert len(io.read_json(course / "data/asthma/heldout.json")) >= 10


@pytest.mark.skipif(times(0, 1) == 0, reason="all eight notebooks once more; SWEEP=full runs them")
def test_the_whole_course_about_asthma(course):
    """The command of the README, end to end."""
    run(course, "1-8")
    reports = course / "reports/asthma"
    assert (reports / "index.html").exists()
    for stage in STAGES:
        assert io.read_json(reports / "receipts" / f"{stage.name}.json")["status"] == "done"
    answers = io.read_json(reports / "results_qlora.json")
    assert {row["id"] for row in answers} == set(BY_ID)
    assert "omalizumab" in (reports / "2_baseline_test.html").read_text().lower()
