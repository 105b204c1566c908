"""Papers about invented studies, written for tests: every number, drug and finding in them is made up."""

from functools import cache
from hashlib import sha256
from types import SimpleNamespace

from helpers.dataset import build, items
from helpers.papers.paper import Paper, Section
from helpers.papers.topic import Topic, load_topic

DISEASES = ("rheumatoid arthritis", "multiple sclerosis", "psoriasis", "ulcerative colitis", "vitiligo")
DRUGS = (
    "rituximab",
    "tocilizumab",
    "baricitinib",
    "infliximab",
    "ustekinumab",
    "abatacept",
    "guselkumab",
    "vedolizumab",
)
CELLS = ("macrophages", "neutrophils", "keratinocytes", "monocytes", "dendritic cells", "mast cells", "platelets")
MARKERS = ("STAT3", "TYK2", "CXCL13", "NLRP3", "CCL20", "JAK1", "MMP9", "SIRT1", "IRF5", "HMGB1")
PLACES = (
    "Lyon",
    "Porto",
    "Oslo",
    "Turin",
    "Graz",
    "Bern",
    "Ghent",
    "Malmö",
    "Leeds",
    "Kyoto",
    "Perth",
    "Quito",
    "Tartu",
)
SIDES = ("fatigue", "sleep", "pain", "gait", "mood", "appetite", "memory", "balance", "stiffness", "itch", "thirst")
TIMES = ("spring", "summer", "autumn", "winter", "Lent", "harvest", "school", "holidays", "night shifts", "monsoon")


def pick(values: tuple[str, ...], *salt: object) -> str:
    return values[number(len(values), *salt)]


def number(below: int, *salt: object) -> int:
    return int(sha256(":".join(map(str, salt)).encode()).hexdigest()[:8], 16) % below


def paper(n: int, **fields: object) -> Paper:
    """The invented study `n`; two of three have a labelled abstract."""
    disease, drug, cell = DISEASES[n % len(DISEASES)], pick(DRUGS, n, "drug"), pick(CELLS, n, "cell")
    marker, place, side, time = (pick(v, n, i) for i, v in enumerate((MARKERS, PLACES, SIDES, TIMES)))
    other, town, extra, when = (pick(v, n, i, "b") for i, v in enumerate((MARKERS, PLACES, SIDES, TIMES)))
    people, share, fold = 40 + number(900, n, 1), 11 + number(80, n, 2), 1 + (2 + number(700, n, 3)) / 100
    up = number(2, n, 4)
    word, higher = name(n), "higher" if up else "lower"
    background = (
        f"{disease.capitalize()} is a disease that {word} {town} knows from {extra} and {side}. It troubles {word}"
        f" {place} before {time}. It is unclear whether {word} {drug} calms {cell} making {word} {marker} in {when}."
    )
    methods = (
        f"Invented patients from {word} {town} were treated with {drug} and asked about {extra} and {side} weekly."
    )
    results = (
        f"A total of {people} patients with {disease} near {word} {place} completed {time} visits. Remission after"
        f" {drug} was seen in {share}.{n % 9 + 1}% of {word} people by {when}. Expression of {marker} in {word}"
        f" {cell} was {higher} than that of {other}. The {drug} course {'improved' if up else 'worsened'}"
        f" {word} {side} by {fold:.2f}-fold during {time}."
    )
    conclusion = (
        f"Treatment of {word} {disease} with {drug} {'increased' if up else 'reduced'} {marker} of {word} {cell} and"
        f" changed {extra}. Doctors in {word} can expect {side} to follow {word} {marker} in {time}."
    )
    if n % 3 == 2:
        said = f"{background} We investigated {drug} in {town}. {results} These findings suggest that {conclusion}"
        sections = (Section(text=said),)
    else:
        parts = {"BACKGROUND": background, "METHODS": methods, "RESULTS": results, "CONCLUSIONS": conclusion}
        sections = tuple(Section(label=label, text=text) for label, text in parts.items())
    verb = "increases" if up else "reduces"
    title = f"{drug.capitalize()} {verb} {marker} of {cell} in {disease}: the {place} {side} cohort {n}"
    given = {"title": title, "abstract": sections, "licence": f"© {n}", "year": 2020, "journal": "Invented"} | fields
    return Paper(paper_id=str(10_000 + n), source="PubMed", **given)


def name(n: int) -> str:
    """A word that only paper `n` uses, so that two papers share no long run of words."""
    syllables = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "ti")
    return f"{syllables[n % 12]}{syllables[n // 12 % 12]}{syllables[n // 144 % 12]}n".capitalize()


def papers(count: int) -> list[Paper]:
    return [paper(n) for n in range(count)]


KNOBS = SimpleNamespace(SEED=42, ROWS_PER_PAPER=12, VIEWS="all")


@cache
def built(count: int = 120) -> tuple[list[Paper], list[dict], list[dict], list[dict]]:
    """(papers, training rows, held-out papers, probes) of so many invented papers; not to be changed."""
    training, held_out = build.build_rows(papers(count), KNOBS, topic(), ())
    return (
        papers(count),
        training,
        held_out,
        items.build_items(training, held_out, papers(count), topic(), KNOBS.SEED),
    )


@cache
def topic() -> Topic:
    return load_topic("autoimmune")
