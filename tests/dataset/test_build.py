"""Papers become rows: split first, every row derived a second time, the same bytes on every machine."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from support import invented
from support.sweeps import times

from helpers.core.errors import CourseError
from helpers.core.io import hash_json
from helpers.core.paths import ROOT
from helpers.dataset import build, formats
from helpers.papers.paper import Paper, Section

KEYS = {
    *(
        "text",
        "source",
        "paper_id",
        "title",
        "prompt",
        "completion",
        "view",
        "template",
        "section",
        "span",
        "disease",
    ),
    *("split", "licence"),
}


def every_row() -> list[dict]:
    _, training, held_out, _ = invented.built()
    return [*training, *(row for paper in held_out for row in paper["rows"])]


def test_every_row_says_where_it_comes_from_and_can_be_derived_again():
    papers, training, _, _ = invented.built()
    by_id = {paper.paper_id: paper for paper in papers}
    for row in every_row():
        assert set(row) == KEYS and row["view"] in formats.VIEWS and row["licence"].startswith("©")
        assert row["text"] == build.as_text(row["prompt"], row["completion"]) and row["completion"].strip()
        assert (row["prompt"] == "") is (row["view"] == "text")
        assert formats.derive_row(by_id[row["paper_id"]], row, invented.topic()) == (row["prompt"], row["completion"])
    assert build.validate_rows(training, papers, invented.topic()) == len(training) > 500
    assert {row["view"] for row in every_row()} >= set(formats.VIEWS)


DAMAGE = {
    "the span begins later": lambda row, other: row["span"].__setitem__(0, row["span"][0] + 1),
    "the span ends sooner": lambda row, other: row["span"].__setitem__(1, row["span"][1] - 1),
    "the span is empty": lambda row, other: row.update(span=[5, 5]),
    "the span is another sentence's": lambda row, other: row.update(span=other["span"], section=other["section"]),
    "the span lies outside": lambda row, other: row.update(span=[10**6, 10**6 + 9]),
    "no span": lambda row, other: row.pop("span"),
    "another section": lambda row, other: row["section"].update(number=row["section"]["number"] + 1),
    "no such section": lambda row, other: row["section"].update(number=99),
    "a negative section": lambda row, other: row["section"].update(number=-3),
    "another label": lambda row, other: row["section"].update(label="SOMETHING"),
    "a word of the answer": lambda row, other: row.update(completion=row["completion"].replace("e", "a", 1)),
    "a full stop less": lambda row, other: row.update(completion=row["completion"][:-1]),
    "the other paper's answer": lambda row, other: row.update(completion=other["completion"]),
    "the question": lambda row, other: row.update(prompt=row["prompt"] + "?"),
    "the text only": lambda row, other: row.update(text=row["text"] + " "),
    "the paper": lambda row, other: row.update(paper_id=other["paper_id"]),
    "an unknown paper": lambda row, other: row.update(paper_id="0"),
    "the source": lambda row, other: row.update(source="arXiv"),
    "the title": lambda row, other: row.update(title=row["title"].upper()),
    "an unknown view": lambda row, other: row.update(view="section_secrets"),
    "no view": lambda row, other: row.pop("view"),
    "an unknown template": lambda row, other: row.update(template="never"),
    "the side": lambda row, other: row.update(split="both"),
    "the licence": lambda row, other: row.update(licence="CC0"),
    "the disease": lambda row, other: row.update(disease="measles"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_is_refused_by_number(damage):
    papers, training, _, _ = invented.built()
    for view in formats.VIEWS[:4] + formats.VIEWS[5:]:
        sound = [row for row in training if row["view"] == view]
        damaged = json.loads(json.dumps(sound[0]))
        DAMAGE[damage](damaged, sound[-1])
        if damaged == sound[0]:
            continue
        with pytest.raises(CourseError, match=r"1 of 3 training rows .*\(row 2: "):
            build.validate_rows([sound[0], damaged, sound[-1]], papers, invented.topic())


def test_a_row_of_another_view_or_wording_is_refused():
    papers, training, _, _ = invented.built()
    row = next(row for row in training if row["view"] == "section_results")
    for change in ({"view": "section_methods"}, {"view": "text"}, {"template": "aim"}, {"template": "condensed"}):
        with pytest.raises(CourseError, match="row 1"):
            build.validate_rows([row | change], papers, invented.topic())


def test_a_row_cut_consistently_is_refused():
    papers, training, _, _ = invented.built()
    row = next(row for row in training if row["view"] == "section_results")
    cut = row["completion"].split(". ")[0] + "."
    short = row | {"completion": cut, "text": build.as_text(row["prompt"], cut), "span": [0, len(cut)]}
    with pytest.raises(CourseError, match="makes no"):
        build.validate_rows([short], papers, invented.topic())


def test_random_damage_never_passes():
    papers, training, _, _ = invented.built()
    dice = random.Random(3)
    for _ in range(times(60, 3000)):
        row = json.loads(json.dumps(dice.choice(training)))
        key = dice.choice(sorted(set(row) - {"section", "split"}))
        value = row[key]
        if isinstance(value, list):
            value = [at + dice.choice((-2, -1, 1, 2)) for at in value]
        else:
            at = dice.randrange(len(value) + 1)
            value = value[:at] + dice.choice("qxz ") + value[at:]
        with pytest.raises(CourseError, match="1 of 1 training rows"):
            build.validate_rows([row | {key: value}], papers, invented.topic())


def test_papers_are_held_out_whole_and_every_view_gets_its_turn():
    papers, training, held_out, _ = invented.built()
    assert len(held_out) == round(0.3 * len(papers))
    assert {row["paper_id"] for row in training}.isdisjoint(paper["paper_id"] for paper in held_out)
    assert {row["split"] for row in training} == {"training"}
    assert {row["split"] for paper in held_out for row in paper["rows"]} == {"held_out"}
    few = build.build_rows(papers, SimpleNamespace(SEED=42, ROWS_PER_PAPER=3, VIEWS="all"), invented.topic())[0]
    assert max(Counter(row["paper_id"] for row in few).values()) == 3
    assert max(Counter((row["paper_id"], row["view"]) for row in few).values()) == 1
    assert len({row["view"] for row in few}) >= 8
    assert list(held_out[0]) == ["paper_id", "source", "title", "abstract", "year", "rows"]


def test_the_first_row_of_a_held_out_paper_is_a_plain_question():
    _, _, held_out, _ = invented.built()
    assert {paper["rows"][0]["view"] for paper in held_out} == {"title_to_conclusion"}


def test_views_are_chosen_by_name():
    papers = invented.built()[0]
    for setting, wanted in (("text, yes_no", {"text", "yes_no"}), ("section_methods", {"section_methods"})):
        knobs = SimpleNamespace(SEED=42, ROWS_PER_PAPER=12, VIEWS=setting)
        assert {row["view"] for row in build.build_rows(papers, knobs, invented.topic())[0]} == wanted
    with pytest.raises(CourseError, match="VIEWS='everything'"):
        build.build_rows(papers, SimpleNamespace(SEED=42, ROWS_PER_PAPER=12, VIEWS="everything"), invented.topic())


def test_near_duplicates_stay_on_one_side():
    twins = [invented.paper(n, abstract=invented.paper(n // 2).abstract) for n in range(40)]
    for seed in range(5):
        training, held_out = build.split_papers(twins, seed)
        assert not {int(p.paper_id) // 2 for p in training} & {int(p.paper_id) // 2 for p in held_out}
        assert len(held_out) == 12


def test_another_seed_holds_out_other_papers():
    papers, _, held_out, _ = invented.built()
    knobs = SimpleNamespace(**vars(invented.KNOBS) | {"SEED": 43})
    assert build.build_rows(papers, knobs, invented.topic())[1] != held_out


PROGRAM = """
from support import invented
from helpers.core import hash_json
from helpers.dataset import build_items, build_rows
papers = invented.papers(40)[::{step}]
training, held_out = build_rows(papers, invented.KNOBS, invented.topic(), ())
print(hash_json([training, held_out, build_items(training, held_out, papers, invented.topic(), 42)]))
"""


@pytest.mark.parametrize(("seed", "step"), [("0", 1), ("1", -1), ("4242", -1)])
def test_the_bytes_are_the_same_in_any_order_and_on_every_run(seed, step):
    _, training, held_out, items = invented.built(40)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(step=step)],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == hash_json([training, held_out, items])


def test_papers_without_title_or_sentences_give_no_rows():
    bare = [
        Paper(paper_id="1", source="PubMed", title="", abstract=invented.paper(1).abstract),
        Paper(paper_id="2", source="PubMed", title="Lupus"),
        Paper(paper_id="3", source="PubMed", title="Lupus", abstract=(Section(text="© 2021"), Section(text=""))),
        Paper(paper_id="4", source="PubMed", title="?", abstract=(Section(text="no capital, no end"),)),
    ]
    for paper in bare:
        assert build.make_rows(paper, invented.topic(), 12, formats.VIEWS, "training") == []


def test_a_users_rows_are_read_or_refused_by_number(tmp_path):
    file = tmp_path / "mine.json"
    good = {"text": "User: Why?\n\nAssistant: Because.", "source": "me", "paper_id": "1", "title": ""}
    file.write_text(json.dumps([good, good]))
    assert [(row["prompt"], row["completion"]) for row in build.load_rows(file)] == [("Why?", "Because.")] * 2
    for bad in (good | {"text": "hello"}, good | {"text": "User: a\n\nAssistant: "}, {"text": good["text"]}, 5):
        file.write_text(json.dumps([good, bad, good, bad]))
        with pytest.raises(CourseError, match="row 2, 4"):
            build.load_rows(file)
    lines = tmp_path / "mine.jsonl"
    lines.write_text(json.dumps(good) + "\n{torn\n")
    with pytest.raises(CourseError, match=r"row 2\n"):
        build.load_rows(lines)
    lines.write_text(
        json.dumps(good) + "\n\n" + json.dumps(good | {"text": "a b", "prompt": "", "completion": "a b"})
    )
    assert [row["prompt"] for row in build.load_rows(lines)] == ["Why?", ""]
    for text in ("[]", "{}", "nonsense"):
        file.write_text(text)
        with pytest.raises(CourseError, match=r"mine\.json"):
            build.load_rows(file)


def test_what_is_written_is_what_training_reads(tmp_path):
    _, training, _, _ = invented.built()
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(training))
    assert build.load_rows(file) == training
