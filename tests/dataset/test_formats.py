"""What a view makes of a paper, and what it leaves alone."""

import pytest
from support import invented

from helpers.core.errors import CourseError
from helpers.dataset import build, formats, prompts
from helpers.dataset import sections as passages
from helpers.dataset.parsed_paper import ParsedPaper, Place
from helpers.papers.paper import Paper, Section
from helpers.text import abbreviations, cloze, entities, polarity, sentences

LUPUS = Section(text="Lupus is an autoimmune disease that affects many organs.")


def make(view: str, *sections: Section, title: str = "Lupus in Oslo", **fields: object) -> list[dict]:
    paper = Paper(paper_id="1", source="PubMed", title=title, abstract=sections, **fields)
    return build.make_rows(paper, invented.topic(), 50, [view], "training")


def answers(*given: object, **fields: object) -> list[str]:
    return [row["completion"] for row in make(*given, **fields)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("We used p < .05 vs. E. coli, i.e. none. It fell (Fig. 2).", "We used p < .05 vs. E. coli, i.e. none."),
        ("Vitamin D. The level fell.", "Vitamin D."),
        ("Smith J. Bell said so. Yes.", "Smith J. Bell said so."),
        ("It was no. 5 of all. Then", "It was no. 5 of all."),
        ("The answer is no. We asked.", "The answer is no."),
        ("They fell in mice.These results hold.", "They fell in mice."),
        ("IL-6 fell. miR-155 rose.", "IL-6 fell."),
        ("No stop\nNext line.", "No stop"),
        ("Was it so? It was.", "Was it so?"),
    ],
)
def test_sentences_end_where_a_reader_would_say(text, first):
    start, end = sentences.split_sentences(text)[0]
    assert text[start:end] == first
    assert "".join(text.split()) == "".join("".join(text[a:b].split()) for a, b in sentences.split_sentences(text))


@pytest.mark.parametrize(
    ("sentence", "tidy"),
    [
        ("Moreover, we found that our cells died.", "The authors found that their cells died."),
        ("These results suggest that it works.", "The results suggest that it works."),
        ("In our hospital, it worked for us.", "In the authors' hospital, it worked for them."),
        ("CONCLUSIONS: This study shows it.", "The study shows it."),
        ("miR-155 was raised.", "miR-155 was raised."),
        ("In conclusion, nothing helps.", "Nothing helps."),
    ],
)
def test_a_sentence_is_reported_in_the_third_person(sentence, tidy):
    assert sentences.tidy_sentence(sentence) == tidy


@pytest.mark.parametrize(
    "sentence",
    [
        "This group had a higher risk of death.",
        "They improved after three weeks of treatment.",
        "It improved after three weeks of treatment.",
        "In contrast, rituximab reduced the relapse rate.",
        "Both groups improved after three weeks.",
        "Group B improved after three weeks of treatment.",
        "Remission was seen in 20 of them after weeks.",
        "The rates were 5% and 7% in women, respectively.",
        "To assess the safety of rituximab in lupus.",
        "Evaluate the safety of rituximab in treated lupus.",
        "Trial registration: NCT01234567 was prospectively registered.",
        "© 2021 The authors have published it here.",
        "Patients (n = 5 were treated with rituximab.",
        "The levels were higher, as shown in Figure 2.",
        "Improved outcomes in patients with lupus nephritis.",
        "While the rates were not significantly different.",
    ],
)
def test_a_sentence_that_needs_another_one_does_not_stand_alone(sentence):
    assert not sentences.stands_alone(sentences.tidy_sentence(sentence))


@pytest.mark.parametrize(
    "sentence",
    [
        "Rituximab reduced the relapse rate of lupus.",
        "It is important to measure antibodies in lupus.",
        "The sensitivity and specificity were 90% and 80% in women and men, respectively.",
        "p53 was higher in patients than in those without lupus.",
    ],
)
def test_a_sentence_that_says_it_all_stands_alone(sentence):
    assert sentences.stands_alone(sentences.tidy_sentence(sentence))


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("giant cell arteritis (GCA)", {"GCA": "giant cell arteritis"}),
        ("Multiple sclerosis (MS) is", {"MS": "multiple sclerosis"}),
        ("Crohn's disease (CD)", {"CD": "Crohn's disease"}),
        ("anti-tumor necrosis factor (TNF)", {"TNF": "tumor necrosis factor"}),
        ("mucous membrane pemphigoid (MMP)", {"MMP": "mucous membrane pemphigoid"}),
        ("of dendritic cells (DCs)", {"DCs": "dendritic cells", "DC": "dendritic cell"}),
        ("the patients were treated (TPT)", {}),
        ("rituximab (n=12) and women (62%)", {}),
    ],
)
def test_abbreviations_are_learnt_from_the_paper(text, known):
    assert abbreviations.find_definitions(text) == known


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        ("GCA is rare.", "Giant cell arteritis is rare."),
        ("A GCA patient, and GCA again.", "A giant cell arteritis (GCA) patient, and GCA again."),
        ("An GCA-related loss (GCA, n=3).", "A giant cell arteritis-related loss (GCA, n=3)."),
        ("The anti-GCA drug", "The anti-GCA drug"),
        ("giant cell arteritis (GCA), later GCA", "giant cell arteritis (GCA), later GCA"),
        ("GCA = 5", "GCA = 5"),
    ],
)
def test_abbreviations_are_written_out_once(text, written_out):
    assert abbreviations.expand_abbreviations(text, {"GCA": "giant cell arteritis"}) == written_out


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        ("GC therapy helps.", "Glucocorticoid therapy helps."),
        ("GC and rest help.", "Glucocorticoids and rest help."),
        ("GC IgG was low.", "GC IgG was low."),
    ],
)
def test_no_plural_is_put_before_a_noun(text, written_out):
    assert abbreviations.expand_abbreviations(text, {"GC": "glucocorticoids"}) == written_out


@pytest.mark.parametrize("text", ["KAc rose.", "PF4 rose.", "RA rose; rheumatoid arthritis (RA) too.", "At week[-3]"])
def test_a_short_form_that_is_not_explained_before_is_obscure(text):
    assert abbreviations.has_undefined_abbreviation(
        text, "Sleep", abbreviations.numbered_abbreviations("platelet factor 4 (PF4)")
    )


def test_the_first_sentence_after_a_heading_has_its_role():
    text = "Background: Lupus is severe. Results: Rituximab reduced fatigue. It helped. Conclusions: It is good."
    reading = ParsedPaper(
        Paper(paper_id="1", source="PubMed", title="A", abstract=(Section(text=text),)), invented.topic()
    )
    spans = [Place(0, start, end) for start, end in sentences.split_sentences(text)]
    assert [reading.role_at(place) for place in spans] == ["background", "results", "results", "conclusions"]


def test_a_section_is_told_whole_or_not_at_all():
    first = "Rituximab reduced the fatigue of all invented people in Oslo."
    cut = f"{first} Then the main result came and it was cut (n = 5 and more of it, and more"
    assert answers("section_results", Section(label="RESULTS", text=cut), Section(label="METHODS", text="x")) == []


def test_one_bracket_of_statistics_goes_with_the_other():
    said = "It rose (OR 2.0, 95% CI 1.1-3.0) and fell (66.20 [8.98-487.80])."
    assert sentences.drop_statistics(said) == "It rose and fell."


def test_the_roles_of_an_unlabelled_abstract_are_told_by_its_wording():
    paper = invented.paper(2)
    found = passages.find_sections(paper)
    text = paper.abstract[0].text
    cut = {role: text[p.start : p.end] for role, p in found.items()}
    assert set(cut) == {"background", "results", "conclusions"}
    assert cut["background"].startswith("Psoriasis is") and "We investigated" in cut["background"]
    assert cut["results"].startswith("A total of") or cut["results"].startswith("Remission")
    assert cut["conclusions"].startswith("These findings suggest")
    assert passages.find_sections(Paper(paper_id="1", source="PubMed", title="", abstract=(LUPUS,))) == {}


def test_labels_within_the_text_are_read():
    text = (
        "Background: Lupus is severe in Oslo and in Lyon. Methods: Invented people were asked in Oslo about sleep."
        " Results: Rituximab reduced the fatigue of people in Oslo. Conclusion: Rituximab reduces fatigue in lupus."
    )
    assert {view: answers(view, Section(text=text)) for view in formats.ROLES} == {
        "title_to_conclusion": [],  # under eight words
        "section_results": ["Rituximab reduced the fatigue of people in Oslo."],
        "section_background": ["Lupus is severe in Oslo and in Lyon."],
        "section_methods": ["Invented people were asked in Oslo about sleep."],
    }


@pytest.mark.parametrize(
    "text",
    [
        "They slept better in Oslo than the people who were in Lyon.",
        "© 2021 Elsevier. All rights reserved by the people of Oslo and Lyon.",
        "Too short to be an answer.",
        "no capital and no end either, so it is not whole at all",
        "",
    ],
)
def test_a_section_that_makes_no_answer_is_skipped(text):
    labelled = (Section(label="RESULTS", text=text), Section(label="CONCLUSIONS", text=text))
    assert answers("section_results", *labelled) == answers("title_to_conclusion", *labelled) == []


def test_an_answer_ends_before_the_furniture():
    text = "Rituximab reduced the fatigue of all invented people in Oslo. Trial registration: NCT01234567. © 2021."
    assert answers("title_to_conclusion", Section(label="CONCLUSIONS", text=text)) == [text.split(" Trial")[0]]


def test_a_question_in_the_title_is_the_question():
    conclusion = Section(label="CONCLUSIONS", text="Rituximab reduced the fatigue of all invented people in Oslo.")
    (row,) = make("title_to_conclusion", conclusion, Section(label="METHODS", text="x"), title="Does it help?")
    assert row["prompt"] == "Does it help?" and row["section"] == {"number": 0, "label": "CONCLUSIONS"}


def test_an_aim_is_asked_for_as_an_aim():
    aim = Section(label="OBJECTIVE", text="To assess whether rituximab reduces fatigue in people with lupus.")
    (row,) = make("section_background", aim, Section(label="METHODS", text="x"))
    assert prompts.KIND[row["template"]] == "aim"


@pytest.mark.parametrize(
    ("claim", "opposite"),
    [
        ("Rituximab reduced fatigue in lupus.", "Rituximab increased fatigue in lupus."),
        ("Age was associated with fatigue.", "Age was not associated with fatigue."),
        ("There was no significant difference in age.", "There was a significant difference in age."),
        ("An increase was seen.", "A decrease was seen."),
        ("Smoking is a risk factor for lupus.", "Smoking is a protective factor against lupus."),
        ("Disease activity influences sleep.", "Disease activity does not influence sleep."),
        ("Higher age was associated with pain.", "Lower age was associated with pain."),
    ],
)
def test_a_claim_is_turned_round(claim, opposite):
    assert polarity.negate(claim) == opposite


@pytest.mark.parametrize(
    "claim",
    [
        "Rituximab may reduce fatigue in lupus.",
        "Fatigue did not improve in lupus.",
        "It was given to reduce fatigue.",
        "Lupus affected 20 women.",
        "High mobility group box 1 was measured.",
        "The scale was increased from 12 to 32 items.",
        "Rituximab increased sleep while reduced fatigue.",
    ],
)
def test_a_claim_that_does_not_commit_itself_is_left_alone(claim):
    assert polarity.negate(claim) == ""


def test_a_title_is_a_claim_only_if_it_states_something():
    assert (
        formats.claim_of_title("Rituximab reduces fatigue in lupus: a trial") == "Rituximab reduces fatigue in lupus."
    )
    for title in (
        "Increased rate of fatigue in lupus after rituximab",
        "Does rituximab reduce fatigue in lupus?",
        "Is fatigue associated with rituximab in lupus? A study",
        "Lupus",
    ):
        assert formats.claim_of_title(title) == ""


def test_about_half_of_the_claims_are_turned_round():
    claims = [row for row in invented.built()[1] if row["view"] == "yes_no"]
    no = [row for row in claims if row["completion"].startswith("No. ")]
    assert len(claims) > 100 and 0.4 < len(no) / len(claims) < 0.6
    for row in claims:
        said = row["completion"].split(". ", 1)[1]
        assert (said in row["prompt"]) is row["completion"].startswith("Yes. ")


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        ("Of 135 patients, 67 (49.6%) improved.", ["135", "49.6"]),
        ("The risk was 1.45-fold higher.", ["1.45"]),
        ("It was 24% (95% CI, 20-28; p = 0.04) in 2019.", ["24"]),
        ("In week 24 of type 1 diabetes IL-17 and COVID-19 rose.", []),
        ("Freesurfer 6.0 was used, from month 4 to month 18.", []),
        ("They had 17 584 controls aged 12 to 18 years.", []),
        ("The mean was 41 ± 11 per 1000 people.", []),
    ],
)
def test_only_numbers_that_are_results_are_asked_for(sentence, asked):
    assert [sentence[gap.start : gap.end] for gap in cloze.find_number_gaps(sentence)] == asked


def test_the_answer_to_a_gap_is_the_whole_sentence():
    for row in invented.built()[1]:
        if row["view"].endswith("_cloze"):
            before, after = row["prompt"].split(cloze.GAP)
            missing = row["completion"][row["completion"].find(before[-10:]) + 10 :]
            assert row["completion"].endswith(after.split("”")[0]) and missing
            assert row["prompt"].count(cloze.GAP) == 1


def test_names_are_found_with_their_kinds_and_whole():
    text = (
        "Rituximab and IL-17A changed CD8⁺ T cells and anti-Ro antibodies in systemic lupus erythematosus, not DAS28."
    )
    found = {text[e.start : e.end]: e.kind for e in entities.find_entities(text, invented.topic())}
    assert found == {
        "Rituximab": "drug",
        "IL-17A": "molecule",
        "CD8⁺ T cells": "cell",
        "anti-Ro antibodies": "antibody",
        "systemic lupus erythematosus": "disease",
    }


def test_mesh_headings_come_first():
    paper = Paper(paper_id="1", source="PubMed", title="A", mesh=("Nephritis, Hereditary", "Humans", "Italy"))
    text = "Hereditary nephritis was seen in humans in Italy."
    found = [
        text[e.start : e.end] for e in entities.find_entities(text, invented.topic(), entities.mesh_pattern(paper))
    ]
    assert found == ["Hereditary nephritis"]


def test_definitions_are_asked_as_definitions():
    text = "Vitiligo (VIT) is a depigmenting skin disorder that begins early. The aim is a better therapy for it."
    asked = make("entity_question", Section(text=text), title="Skin in Oslo")
    assert [row["completion"] for row in asked] == [
        "Vitiligo (VIT) is a depigmenting skin disorder that begins early."
    ]
    assert "vitiligo" in asked[0]["prompt"] and "Oslo" not in asked[0]["prompt"]


def test_running_text_is_the_title_and_what_is_essential():
    paper = invented.paper(0)
    texts = {
        row["template"]: row["completion"]
        for row in build.make_rows(paper, invented.topic(), 9, ["text"], "training")
    }
    assert set(texts) == {"condensed", "conclusion_first"}
    title = paper.title + ". "
    assert all(text.startswith(title) and "asked about" not in text for text in texts.values())
    assert sorted(texts["condensed"].split(". ")) != texts["condensed"].split(". ")
    assert texts["condensed"] != texts["conclusion_first"]
    assert texts["conclusion_first"].removeprefix(title).startswith("Treatment of")


def test_a_card_has_short_whole_lines():
    for row in invented.built()[1]:
        if row["view"] == "fact_card":
            lines = row["completion"].split("\n")
            assert 3 <= len(lines) <= 6 and all(line.startswith("- ") and line.endswith(".") for line in lines)


def test_views_by_name():
    assert formats.parse_formats("all") == formats.parse_formats(" all ") == formats.VIEWS and len(formats.VIEWS) >= 8
    assert formats.parse_formats("text,  yes_no") == ("yes_no", "text")
    for wrong in ("", "nonsense", "text,", "all,text"):
        with pytest.raises(CourseError, match="VIEWS=") as caught:
            formats.parse_formats(wrong)
        assert all(view in str(caught.value) for view in formats.VIEWS)


def test_a_place_that_a_view_does_not_make_is_refused():
    paper, training, _, _ = invented.built()
    row = training[0]
    for change in ({"span": [0, 3]}, {"view": "text"}, {"template": "aim"}):
        with pytest.raises(ValueError, match="makes no"):
            formats.derive_row(paper[int(row["paper_id"]) - 10_000], row | change, invented.topic())
    assert not formats.is_allowed(ParsedPaper(paper[0], invented.topic()), "text", Place(0, 0, 5), "condensed")


def test_every_wording_is_used_and_none_of_the_probes():
    _, training, _, items = invented.built()
    used, asked = {row["template"] for row in training}, {item["template"] for item in items}
    kinds = {kind for kind in prompts.ROW_PROMPTS if kind not in ("question_title", "about", "aim")}
    assert used >= {name for kind in kinds for name in prompts.ROW_PROMPTS[kind]}
    assert used.isdisjoint(asked) and asked == {name for named in prompts.ITEM_PROMPTS.values() for name in named}
    leads = [wording.split("{")[0].strip() for named in prompts.ITEM_PROMPTS.values() for wording in named.values()]
    assert all(lead not in row["text"] for row in training for lead in filter(None, leads))
