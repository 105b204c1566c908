"""The grader against answers that say nothing, and against ones that say it well."""

import random
import re

import pytest
from support.null_answers import AUXILIARY, GENERIC, NONSENSE, keywords

from helpers.grading.questions import load_questions
from helpers.grading.rubric import criteria_hash, grade_answer, mean_score
from helpers.grading.rubric_words import STRUCTURAL, split_answer, tokenise

QUESTIONS = load_questions()
BY_ID = {question["id"]: question for question in QUESTIONS}
each_question = pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q["id"])
NEUTRAL = "This is a subject on which much has been written over the years. The reader may look up the details. "


def scores_of(nulls, question):
    return {name: grade_answer(text, question).score for name, text in nulls.items()}


@each_question
def test_the_reference_meets_its_own_rubric(question):
    graded = grade_answer(question["reference"], question)
    assert graded.score == 1.0
    assert graded.met == [c["id"] for c in question["criteria"] if c["points"] > 0]
    assert all(sentence in question["reference"] for sentence in graded.evidence.values())


@each_question
def test_null_answers_score_nothing(question):
    reference = question["reference"]
    aliases = keywords(question)
    content = [word for word in re.findall(r"[\w:-]+", reference) if word.lower() not in STRUCTURAL]
    nulls = {
        "nothing": "",
        "none": None,
        "white space": " \n ",
        "echo": question["question"],
        "echo as a statement": question["question"].replace("?", "."),
        "keywords, commas": ", ".join(aliases),
        "keywords, lines": "\n".join(f"- {alias}" for alias in aliases),
        "keywords, sentence": "The keywords are: " + ", ".join(aliases) + ".",
        "keywords, spaces": " ".join(aliases),
        "content words": ", ".join(content),
        "every verb negated": AUXILIARY.sub(r"\1 not", reference),
        "denied": " ".join("It is not true that " + s[0].lower() + s[1:] for s in split_answer(reference)),
        "generic": GENERIC * 12,
        "nonsense": NONSENSE,
        "refusal": "I am sorry, but I cannot answer medical questions.",
    }
    nulls |= {f"reference {other['id']}": other["reference"] for other in QUESTIONS if other is not question}
    too_high = {name: score for name, score in scores_of(nulls, question).items() if score > 0.2}
    assert not too_high
    assert max(scores_of(nulls, question).values()) < grade_answer(reference, question).score


@each_question
def test_shuffled_words_score_nothing(question):
    scores = []
    for seed in range(20):
        shuffled = question["reference"].split()
        random.Random(seed).shuffle(shuffled)
        scores.append(grade_answer(" ".join(shuffled), question).score)
    assert max(scores) <= 0.2


@each_question
def test_one_negation_costs(question):
    reference = question["reference"]
    places = [match.end() for match in AUXILIARY.finditer(reference)]
    scores = [grade_answer(f"{reference[:place]} not{reference[place:]}", question).score for place in places]
    assert max(scores) <= 1
    assert sum(score < 1 for score in scores) >= 0.5 * len(scores)


@each_question
def test_repeating_and_padding_change_nothing(question):
    reference = question["reference"]
    padding = NEUTRAL * (3 * len(reference) // len(NEUTRAL) + 1)
    for text in (f"{reference} {reference} {reference}", f"{padding} {reference}", f"{reference} {padding}"):
        assert grade_answer(text, question).score == pytest.approx(1.0, abs=0.02)


GOOD = {
    "Q001": "Every patient must have a positive ANA test (titer ≥1:80) first.\n\n**Scoring**: a score of at "
    "least 10 points "
    "classifies the patient as having SLE.\n- Anti-dsDNA and anti-Sm antibodies are highly specific for SLE.\n"
    "- **Hydroxychloroquine** is the cornerstone of therapy.\n- Steroids should be tapered to the lowest "
    "possible dose.",
    "Q002": "Rheumatoid factor is positive in about 70% of patients, and anti-CCP antibodies are highly "
    "specific for RA. "
    "Patients should be started on a DMARD as early as possible. Methotrexate is the preferred initial drug. "
    "Low-dose prednisone may be used as a bridge. The goal of treatment is remission.",
    "Q004": "The immune system mistakenly attacks and destroys the beta cells in the pancreas. This is mediated by T "
    "lymphocytes. Antibodies to GAD, IA-2 and zinc transporter 8 appear early. People with multiple "
    "autoantibodies and "
    "normal sugar are in stage 1. Certain HLA genes increase the risk. Treatment is lifelong insulin therapy.",
    "Q006": "The first test is tTG-IgA in the blood. An endoscopy with biopsies of the small intestine confirms the "
    "diagnosis. The person should not start a gluten-free diet before testing; gluten must stay in the diet "
    "until the "
    "biopsy. Villous atrophy is seen. The only treatment is a lifelong gluten-free diet. Crohn's disease may "
    "involve any "
    "part of the digestive tract from mouth to anus, whereas ulcerative colitis only affects the colon and rectum.",
    "Q008": "Psoriasis is driven by the IL-23/Th17 axis. IL-17A stimulates keratinocytes to proliferate. Secukinumab "
    "targets IL-17A, while guselkumab and risankizumab inhibit IL-23. Up to 30% of patients develop psoriatic "
    "arthritis. "
    "Psoriasis is associated with cardiovascular disease. IL‑17 inhibitors are not recommended in Crohn's disease.",
}


@pytest.mark.parametrize("id", GOOD)
def test_the_same_said_in_other_words_is_seen(id):
    graded = grade_answer(GOOD[id], BY_ID[id])
    assert graded.score >= 0.9
    assert not [c["id"] for c in BY_ID[id]["criteria"] if c["points"] < 0 and c["id"] in graded.met]


@pytest.mark.parametrize(
    ("id", "sentence"),
    [
        ("Q001", "Lupus can be cured with a short course of antibiotics."),
        ("Q001", "A positive ANA alone proves that the patient has lupus."),
        ("Q002", "Patients should take methotrexate daily to control the disease."),
        ("Q003", "Infliximab is an effective treatment for multiple sclerosis."),
        ("Q004", "After some months of diet the patient can stop insulin."),
        ("Q004", "Type 1 diabetes is caused by eating too much sugar."),
        ("Q005", "Levothyroxine is used to treat Graves' disease in adults."),
        ("Q006", "Patients should start a gluten-free diet before the biopsy is done."),
        ("Q007", "The disease only affects the glands of the face."),
        ("Q008", "IL-17 inhibitors are safe in patients with Crohn's disease."),
        ("Q009", "Ciprofloxacin is the treatment of choice for infections in these patients."),
        ("Q010", "Boosting the immune system can cure the disease."),
    ],
)
def test_a_dangerous_claim_costs(id, sentence):
    graded = grade_answer(sentence, BY_ID[id])
    assert graded.score < 0
    assert grade_answer(f"{BY_ID[id]['reference']} {sentence}", BY_ID[id]).score < 1


@pytest.mark.parametrize(
    ("id", "sentence"),
    [
        ("Q001", "There is no evidence that lupus can be cured."),
        ("Q001", "A positive ANA alone does not prove lupus."),
        ("Q002", "Never give methotrexate daily to a patient."),
        ("Q002", "Methotrexate daily is a fatal error."),
        ("Q003", "TNF inhibitors should not be used to treat multiple sclerosis."),
        ("Q003", "There is no single blood test that confirms the diagnosis."),
        ("Q004", "Patients mustn't stop insulin during illness."),
        ("Q004", "Stopping insulin is dangerous for the patient."),
        ("Q004", "Without insulin the patient will die."),
        ("Q004", "If a patient can stop insulin for a day, the diagnosis is in doubt."),
        ("Q003", "TNF inhibitors that treat arthritis can worsen multiple sclerosis."),
        ("Q007", "Sjögren's disease not only affects the eyes but also the lungs."),
        ("Q007", "The disease is not limited to the eyes."),
        ("Q009", "Intravenous magnesium should be given with great caution."),
        ("Q005", "Graves' disease is treated with methimazole, whereas Hashimoto's is treated with levothyroxine."),
        ("Q006", "It is a myth that small amounts of gluten are safe."),
        ("Q007", "It is not true that Sjogren's syndrome is harmless."),
        ("Q008", "Secukinumab treats psoriasis but worsens Crohn's disease."),
        ("Q009", "Fluoroquinolones are not safe in these patients."),
    ],
)
def test_a_warning_against_it_does_not(id, sentence):
    assert grade_answer(sentence, BY_ID[id]).score >= 0


@pytest.mark.parametrize(
    ("id", "sentence", "met"),
    [
        ("Q005", "Graves' disease causes hyperthyroidism and Hashimoto's causes hypothyroidism.", ["2", "4"]),
        ("Q005", "Hashimoto's causes hypothyroidism and Graves' disease causes hyperthyroidism.", ["2", "4"]),
        ("Q005", "Graves' disease causes hypothyroidism and Hashimoto's causes hyperthyroidism.", ["8"]),
        ("Q005", "Hashimoto's causes hyperthyroidism and Graves' disease causes hypothyroidism.", ["8"]),
        ("Q005", "Graves' disease is treated with methimazole and Hashimoto's with levothyroxine.", ["5", "6"]),
        ("Q005", "Graves' disease is treated with levothyroxine and Hashimoto's with methimazole.", ["7"]),
        ("Q005", "In Graves' disease, antibodies to TPO are found, and in Hashimoto's, to the TSH receptor.", []),
        ("Q006", "Crohn's is limited to the mucosa of the colon and ulcerative colitis to no part of the gut.", []),
        ("Q008", "Secukinumab blocks IL-17 and guselkumab blocks IL-23.", ["2", "3"]),
        ("Q008", "IL-23 is blocked by guselkumab, and IL-17 is blocked by secukinumab.", ["2", "3"]),
        ("Q008", "Secukinumab blocks IL-23 and guselkumab blocks IL-17.", []),
        ("Q002", "Methotrexate is taken once a week, with folic acid every day.", ["3"]),
        ("Q007", "The antibody to look for is anti-SS-A.", ["2"]),
        ("Q007", "Anti-SS-A/Ro and anti-SS-B/La antibodies are typical of the disease.", ["2"]),
        ("Q009", "If there is an infection, ciprofloxacin may be given without worry.", ["7"]),
        ("Q009", "It is not known if ciprofloxacin may be given.", []),
    ],
)
def test_a_fact_belongs_to_whom_it_is_said_of(id, sentence, met):
    assert grade_answer(sentence, BY_ID[id]).met == [f"{id}.{n}" for n in met]


@each_question
def test_aliases_are_well_formed(question):
    """Every alias has words, stands once in its group, and the first group begins with a name."""
    for criterion in question["criteria"]:
        groups = criterion["any_of"]
        assert all(tokenise(piece) for group in groups for alias in group for piece in alias.lstrip("-").split("..."))
        assert all(len(group) == len(set(group)) for group in groups)
        assert not groups[0][0].startswith("-")


TOY = {
    "id": "T1",
    "question": "Which drug is given for lupus?",
    "criteria": [
        {"id": "a", "points": 3, "text": "", "any_of": [["hydroxychloroquine"], ["lupus", "every patient"]]},
        {"id": "b", "points": 1, "text": "", "any_of": [["do not stop"], ["steroid"]]},
        {"id": "c", "points": -2, "text": "", "any_of": [["stop steroids"]]},
        {"id": "d", "points": -1, "text": "", "any_of": [["vaccine ... forbidden"], ["-live"]]},
    ],
}


@pytest.mark.parametrize(
    ("answer", "met"),
    [
        ("Hydroxychloroquine is given for lupus.", ["a"]),
        ("HYDROXYCHLOROQUINE is what every patient needs.", ["a"]),
        ("Hydroxychloroquine is not given for lupus.", []),
        ("Hydroxychloroquine isn't given for lupus.", []),
        ("Hydroxychloroquine is not only given for lupus.", ["a"]),
        ("Steroids are not enough, and hydroxychloroquine is given for lupus.", ["a"]),
        ("Is hydroxychloroquine given for lupus?", []),
        ("Hydroxychloroquine is a drug. Lupus is a disease.", []),
        ("Hydroxychloroquines are given for lupus.", ["a"]),
        ("Prehydroxychloroquine is given for lupus.", []),
        ("Lupus is a disease for which a drug is given.", []),
        ("In lupus, do not stop the steroid at once.", ["b"]),
        ("In lupus, do not stop steroids at once.", ["b"]),
        ("In lupus, you should stop steroids at once.", ["c"]),
        ("In lupus, you should stop steroids if the skin is clear.", ["c"]),
        ("If you stop steroids, the skin may suffer from it.", []),
        ("Hydroxychloroquine plays no part in lupus.", []),
        ("In lupus, vaccines of any kind are forbidden.", ["d"]),
        ("In lupus, vaccines and salt are forbidden.", []),
        ("In lupus, live vaccines are forbidden.", []),
    ],
)
def test_the_rules_one_by_one(answer, met):
    graded = grade_answer(answer, TOY)
    assert graded.met == met
    assert graded.score == sum({"a": 3, "b": 1, "c": -2, "d": -1}[id] for id in met) / 4


@pytest.mark.parametrize(
    ("answer", "met"),
    [
        ("Methotrexate is the first drug. It is taken once a day.", ["Q002.3", "Q002.7"]),
        ("Methotrexate is the first drug. Prednisone is taken once a day.", ["Q002.3"]),
        (
            "**Hashimoto's thyroiditis**\n- The gland slowly becomes underactive.\n- Treatment: levothyroxine",
            ["Q005.4", "Q005.6"],
        ),
        (
            "**Graves' disease**\n- The gland slowly becomes underactive.\n- Treatment: levothyroxine",
            ["Q005.7", "Q005.8"],
        ),
    ],
)
def test_a_sentence_is_read_with_what_it_points_back_to(answer, met):
    assert grade_answer(answer, BY_ID[met[0][:4]]).met == met


def test_words_are_compared_without_dress():
    assert tokenise("Sjögren’s α-synuclein; IL‑17A") == tokenise("sjogren alpha synuclein IL-17A")
    assert tokenise("titre 1/80, antibodies") == ("titre", "1:80", ",", "antibody")
    assert tokenise("IL17, anti-SS-A") == ("il", "17", ",", "anti", "ssa") and tokenise("non-specific") == (
        "nonspecific",
    )
    assert tokenise("RF – a marker") == ("rf", ",", "a", "marker")
    assert tokenise("First drug: MTX") == ("first", "drug", ".", "is", "mtx")
    assert tokenise("≥10 points (95 %)") == ("at", "least", "10", "point", "95", "percent")


def test_a_question_without_criteria_is_not_graded():
    graded = grade_answer("anything", {"id": "x", "question": "Why?"})
    assert graded.score is None and graded.met == []


def test_only_the_mean_is_clipped():
    assert mean_score([-1, 0.5]) == 0 and mean_score([0.5, 1]) == 0.75 and mean_score([]) is None


def test_the_hash_follows_what_grades_and_nothing_else():
    frozen = criteria_hash(QUESTIONS)
    assert frozen == criteria_hash(load_questions())
    assert frozen == criteria_hash([{**q, "reference": "other"} for q in QUESTIONS])
    assert frozen != criteria_hash(QUESTIONS[1:])
    assert frozen != criteria_hash([{**QUESTIONS[0], "criteria": QUESTIONS[0]["criteria"][1:]}, *QUESTIONS[1:]])
