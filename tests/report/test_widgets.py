"""Widgets, used as a reader does: typed into and clicked, on the real classes; and what stands there in a page."""

import shutil
from pathlib import Path

import ipywidgets
import pytest
from IPython.display import HTML
from lxml import html
from support import experiment, tiny
from transformers.utils import logging

from helpers.core import io
from helpers.core.paths import Folders
from helpers.evaluation import run
from helpers.evaluation.scores import score_run
from helpers.models import generate
from helpers.papers.paper import Paper
from helpers.report import chat_widgets, widgets

logging.disable_progress_bar()
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> & \u202e"


def text_of(shown) -> str:
    """What a reader sees of an HTML widget or output."""
    raw = shown.value if isinstance(shown, ipywidgets.HTML) else shown.data
    return html.fromstring(f"<div>{raw}</div>").text_content()


def parts(made):
    """(text, button, what is shown) of a box."""
    (line, shown) = made.children
    return *line.children, shown


def ask(made, question):
    text, button, shown = parts(made)
    text.value = question
    button.click()
    assert not button.disabled
    return shown


def in_a_page(monkeypatch):
    monkeypatch.setattr("helpers.core.progress._listener", Path("a run"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a tiny model and what both trainings made of it."""
    place = tmp_path_factory.mktemp("trained")
    base = tiny.write_model(place / "tiny")
    for method in ("qlora", "full"):
        tiny.fit(method, base, place, out=place / method)
    return place


@pytest.fixture
def session(trained, tmp_path, monkeypatch):
    """Notebook 8's session after a run with a tiny model; everything that was loaded is noted in `loaded`."""
    base, folders = trained / "tiny", Folders("w")
    for name in ("models", "reports"):
        monkeypatch.setattr(Folders, name, tmp_path / name)
    resolved = tiny.resolve(MODEL_NAME="tester/tiny", DTYPE="float32", RUN="w")
    monkeypatch.setattr(run, "base_model_folder", lambda name: base)
    monkeypatch.setattr("helpers.report.chat_widgets.base_model_folder", lambda name: base)
    for method in ("qlora", "full"):
        shutil.copytree(trained / method, folders.model(method))
    for number, which in run.EXAMS.items():
        settings = {"MODEL_NAME": "tester/tiny", "DTYPE": "float32", "ATTENTION": "auto", "WHICH": which}
        stage = run.stage_of(number)
        io.write_json(stage.receipt(folders), {"stage": stage.name, "status": "done", "key": {"settings": settings}})
    for row in ("base_4bit", "qlora", "full"):
        io.write_json(folders.results(row), [{"question": "What is lupus?", "response": f"{row} says {EVIL}"}])

    class Opened:
        settings, loaded = resolved, []

    Opened.folders = folders
    load = run.load_model

    def watched(place, *how):
        Opened.loaded.append(place)
        return load(place, *how)

    monkeypatch.setattr(run, "load_model", watched)
    return Opened


def test_three_models_answer_side_by_side_and_each_is_loaded_once(session):
    made = chat_widgets.ask_all(session, max_new_tokens=4)
    assert session.loaded == []
    first = ask(made, " What is lupus? ").value
    heads = html.fromstring(f"<div>{first}</div>").xpath("//th//text()")
    assert [head.strip() for head in heads if head.strip()] == ["base, 4-bit", "QLoRA adapter", "full fine-tune"]
    assert len(session.loaded) == 2  # the adapter lies on the base
    parts(made)[1].click()
    assert parts(made)[2].value == first and len(session.loaded) == 2


def test_the_answers_are_those_of_the_models(session):
    shown = ask(chat_widgets.ask_all(session, max_new_tokens=6), "Which antibody?").value
    who = run.Candidate("qlora", session.settings, session.folders, tiny.byte_tokenizer())
    expected = [chat_widgets.ask_candidate(who, row, "Which antibody?", 6) for row in ("base_4bit", "qlora")]
    cells = [cell.text_content() for cell in html.fromstring(f"<div>{shown}</div>").xpath("//td")]
    assert [cell.strip() for cell in cells[:2]] == [answer.strip() for answer in expected]


def test_nothing_typed_and_too_much_typed_are_said_plainly(session):
    made = chat_widgets.ask_all(session)
    for typed, told in (("", "nothing is typed"), ("   ", "nothing is typed"), ("x" * 100_000, "100,000 characters")):
        assert told in text_of(ask(made, typed)), typed[:10]
    assert session.loaded == []
    assert "<p>" in ask(chat_widgets.ask_all(session, 2), "y" * widgets.LONGEST).value


def test_what_was_typed_cannot_act(session):
    for shown in (ask(chat_widgets.ask_all(session, 2), EVIL), ask(widgets.query_box(None, [], online=False), EVIL)):
        assert "<script" not in shown.value and "<img" not in shown.value


def test_a_missing_or_damaged_model_is_one_line_and_the_box_goes_on(session, monkeypatch):
    damaged = session.folders.model("qlora") / "adapter_model.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"no")
    made = chat_widgets.ask_all(session, 2)
    assert "not the file that was saved" in text_of(ask(made, "Why?"))
    damaged.write_bytes(whole)
    assert "full fine-tune" in text_of(ask(made, "Why?"))
    monkeypatch.setattr(chat_widgets, "ask_candidate", lambda *_: 1 / 0)
    assert "that did not work: ZeroDivisionError" in text_of(ask(made, "Why?"))


def test_a_skipped_model_is_left_out(session, monkeypatch):
    receipt = run.stage_of(7).receipt(session.folders)
    io.write_json(receipt, io.read_json(receipt) | {"status": "skipped", "reason": "it does not fit"})
    assert "full fine-tune" not in text_of(ask(chat_widgets.ask_all(session, 2), "Why?"))
    in_a_page(monkeypatch)
    assert "full" not in text_of(chat_widgets.ask_all(session))


def test_a_page_shows_the_saved_answers_side_by_side(session, monkeypatch):
    in_a_page(monkeypatch)
    made = chat_widgets.ask_all(session)
    assert isinstance(made, HTML) and session.loaded == []
    for expected in ("What is lupus?", "base_4bit says", "qlora says", "full says", "QLoRA adapter"):
        assert expected in text_of(made), expected
    assert "<script" not in made.data and "<img" not in made.data


def test_a_question_box_shows_the_candidates_own_answer(session, monkeypatch):
    who = run.Candidate("full", session.settings, session.folders, tiny.byte_tokenizer())
    assert "full fine-tune" in text_of(ask(chat_widgets.question_box(who, 2), "Why?"))
    in_a_page(monkeypatch)
    assert "full says" in text_of(chat_widgets.question_box(who))
    session.folders.results("full").unlink()
    assert "For example" not in text_of(chat_widgets.question_box(who))
    assert "no such model" in text_of(
        chat_widgets.question_box(run.Candidate("full", None, None, None, absent="skipped"))
    )


def test_the_browser_shows_any_question_and_in_a_page_the_first(monkeypatch):
    answers, items = experiment.evidence(0.4, papers=12)
    answers = {row: [one | {"response": one["response"] + EVIL} for one in said] for row, said in answers.items()}
    scores = score_run(answers, experiment.ASKED, items, seed=42)
    menu, shown = widgets.answer_browser(scores, experiment.ASKED, answers).children
    before = shown.value
    menu.value = experiment.ASKED[3]["id"]
    assert shown.value != before and answers["qlora"][3]["response"][:40] in text_of(shown)
    in_a_page(monkeypatch)
    page = widgets.answer_browser(scores, experiment.ASKED, answers)
    assert "RAG" in text_of(shown) and "RAG" not in text_of(page)  # whose answers repeat what publishers own
    assert experiment.ASKED[0]["question"] in text_of(page) and answers["qlora"][0]["response"][:40] in text_of(page)
    for raw in (before, shown.value, page.data):
        assert "<script" not in raw and "<img" not in raw
    assert "No question" in text_of(widgets.answer_browser(scores, [], answers))


def test_a_query_is_tried_on_the_papers_kept(monkeypatch):
    kept = [
        Paper(paper_id=str(n), source="PubMed", title=title)
        for n, title in enumerate(("Lupus nephritis in mice", "Asthma"))
    ]
    made = widgets.query_box(None, kept, online=False)
    assert "1 of the 2 papers kept" in text_of(ask(made, "nephritis[ti]"))
    assert "→" in text_of(ask(made, "((("))
    monkeypatch.setattr(widgets, "count_hits", lambda settings, query: 12345)
    assert "12,345 records in PubMed" in text_of(ask(widgets.query_box(None, kept, online=True), "lupus"))
    in_a_page(monkeypatch)
    monkeypatch.setattr(widgets, "count_hits", None)  # a page asks nobody
    assert "1 of the 2 papers kept" in text_of(widgets.query_box(None, kept, online=True))


def test_no_thought_of_a_model_is_taken_for_its_answer(session, monkeypatch):
    monkeypatch.setattr(generate, "split_thinking", lambda text, opened: ("thought", "answer"))
    assert "thought" not in text_of(ask(chat_widgets.ask_all(session, 2), "Why?"))
