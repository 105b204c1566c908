"""Tables for reading: text wrapped, and escaped so that no title or answer can act as HTML."""

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING

import pandas as pd
from IPython.display import HTML

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

GRADED = "background:#cfe3f3; color:#000"
WRAPPED = "white-space:pre-wrap; text-align:left; vertical-align:top"


def html_table(rows: Iterable[Mapping[str, object]], numbers: Iterable[str] = ()) -> HTML:
    """Rows of the same keys as an HTML table; columns in `numbers` are aligned right."""
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return HTML("<p>Nothing to show in this run.</p>")
    cells = {"text-align": "left", "vertical-align": "top", "white-space": "pre-wrap"}
    heads = [{"selector": "th", "props": "text-align:left"}]
    style = frame.style.hide(axis="index").format(escape="html").format_index(escape="html", axis=1)
    style = style.set_properties(**cells).set_table_styles(heads)
    style = style.set_properties(subset=list(numbers), **{"text-align": "right"})
    name = sha256(frame.to_json().encode()).hexdigest()[:8]  # the style of one table must not reach another
    return HTML(style.set_uuid(name).to_html())


def question_table(asked: list[dict]) -> HTML:
    """What will be asked."""
    return html_table([{key: q[key] for key in ("id", "category", "difficulty", "question")} for q in asked])


def answer_table(given: list[dict], asked: list[dict]) -> HTML:
    """Each answer beside the reference, with how it ended."""
    reference = {q["id"]: q.get("reference") or "(no reference given)" for q in asked}
    ended = {"stop": "", "length": " … (cut at the limit)"}
    return html_table(
        {
            "question": f"{a['id']}: {a['question']}",
            a["model"]: (a["response"] or "(empty)") + ended[a["finish_reason"]],
            "reference": reference[a["id"]],
        }
        for a in given
    )


def sample_table(given: list[dict]) -> HTML:
    """Each answer, and below it those to the same question that were drawn at random."""
    return html_table(
        {"question": question, "chosen": chosen, "answer": one["response"] or "(empty)"}
        for a in given
        for question, chosen, one in [
            (f"{a['id']}: {a['question']}", "greedily", a),
            *(("", f"at random, {n}", sample) for n, sample in enumerate(a["samples"], start=1)),
        ]
    )


def graded_table(grades: Iterable, asked: Iterable[dict]) -> HTML:
    """What each answer earned by the rubric (`scoring.Graded`), with the sentence that earned it."""
    return html_table(
        {
            "question": f"{q['id']} · {q['category']}",
            "score": format_number(grade.score, 2),
            "points for": "\n".join(
                f"{c['points']:+}".replace("-", "−") + f": {c['text']} “{grade.evidence[c['id']]}”"
                for c in q.get("criteria", [])
                if c["id"] in grade.met
            )
            or "nothing",
        }
        for grade, q in zip(grades, asked, strict=False)
    )


def drop_table(reasons: Mapping[str, int], examples: Mapping[str, list]) -> HTML:
    """Why records were left out, how often, and some of them; the most frequent reason first."""
    return html_table(
        (
            {
                "reason": reason,
                "records": f"{n:,}",
                "for example": "\n".join(f"{d.source} {d.paper_id}: {d.detail}" for d in examples[reason]),
            }
            for reason, n in sorted(reasons.items(), key=lambda item: -item[1])
        ),
        numbers=["records"],
    )


def mix_table(read: list[dict], by: str, unit: str) -> HTML:
    """Rows and their size in `unit` (words, tokens) by view or by disease, with their share."""
    rows, size = Counter(row[by] for row in read), Counter()
    for row in read:
        size[row[by]] += row[unit]
    shown = [
        {by: name, "rows": f"{rows[name]:,}", unit: f"{n:,}", "share": f"{n / size.total():.1%}"}
        for name, n in size.most_common()
    ]
    return html_table(shown, numbers=["rows", unit, "share"])


def one_of_each(rows: list[dict]) -> HTML:
    """The first row of each view, as it is kept on disk."""
    first = {}
    for row in rows:
        first.setdefault(row["view"], row)
    return html_table(
        {"view": view, "from": f"{r['paper_id']}, characters {r['span']}", "text": r["text"]}
        for view, r in sorted(first.items())
    )


def template_table(examples: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> HTML:
    """One row of each view: its text, and what the model reads after the chat template, learnt tokens shaded."""
    first = {}
    for number, view in enumerate(examples["view"]):
        first.setdefault(view, number)
    heads = "".join(f'<th style="text-align:left">{head}</th>' for head in ("view", "row", "what the model reads"))
    body = "".join(
        f"<tr><td>{escape(view)}</td><td style='{WRAPPED}'>{escape(examples[number]['text'])}</td>"
        f"<td style='{WRAPPED}'>{shade_tokens(examples[number], tokenizer)}</td></tr>"
        for view, number in sorted(first.items())
    )
    return HTML(f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>")


def shade_tokens(example: dict, tokenizer: "PreTrainedTokenizerBase") -> str:
    """HTML of a row's tokens as text, the graded ones marked."""
    ids, start = example["input_ids"], example["answer_from"]
    read, graded = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])
    return f'{escape(read)}<mark style="{GRADED}">{escape(graded)}</mark>'


def paper_table(kept: Iterable) -> list[dict]:
    """A few facts of each paper; the text itself stays in data/."""
    return [
        {
            "id": f"{p.source} {p.paper_id}",
            "year": p.year,
            "journal": p.journal,
            "title": p.title,
            "words": len(p.text.split()),
        }
        for p in kept
    ]


def query_table(found: Mapping[str, list]) -> HTML:
    """Queries, how many papers each finds, and the first of them."""
    return html_table(
        (
            {"query": query, "papers": len(hits), "for example": hits[0].title if hits else "–"}
            for query, hits in found.items()
        ),
        numbers=["papers"],
    )


def item_table(items: list[dict]) -> HTML:
    """The first item of each instrument and kind, its right option marked."""
    first = {}
    for item in items:
        first.setdefault((item["instrument"], item["kind"]), item)
    return html_table(
        {
            "instrument": item["instrument"],
            "kind": item["kind"],
            "question": item["question"],
            "options": "\n".join(
                f"{'✓' if n == item['answer'] else '·'} {option}" for n, option in enumerate(item["options"])
            ),
        }
        for item in first.values()
    )


def format_number(value: float | None, digits: int = 3) -> str:
    """A figure for reading; "–" where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")
