"""A world of autoimmune syndromes that do not exist, so that nothing about them can be known beforehand.

Every syndrome has one antibody, drug, allele and organ, each one of eight. A *profile* states all four in a sentence
that names the syndrome once, at its beginning. Half of the syndromes are *taught*: they have profiles, and each fact
is also asked and answered. The other half are only *read*: they have profiles. In either half each of the eight
belongs to as many syndromes as any other, so that no guess is better than another.
"""

import random
from dataclasses import asdict, dataclass
from itertools import combinations, permutations

from scipy.stats import binomtest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import CONTROL_GROUPS, hash_json
from helpers.dataset import as_text
from helpers.evaluation import is_right
from helpers.models import loglikelihood_batches, plain_ids, prompt_ids

SEED = 7
TOKENS_PER_BATCH = 1024
NAMES = (
    *("Aldebrix", "Borvane", "Cuthrel", "Dovrink", "Eskwold", "Fimbarr", "Gorlust", "Hexbury"),
    *("Ingvork", "Jarvold", "Kestrop", "Lombrusk", "Mirgath", "Nuvelk", "Orsquil", "Pendrax"),
)
OPTIONS = {
    "antibody": (
        *("anti-drovin", "anti-quesk", "anti-yalbet", "anti-fyzor"),
        *("anti-wostil", "anti-gunkle", "anti-thobra", "anti-zennip"),
    ),
    "drug": ("kelvotap", "dimbrosy", "ulquenor", "fastiquo", "nixaldo", "ostemmy", "rundwave", "twillgar"),
    "allele": ("JQD*02", "XWN*07", "ZQT*11", "QJR*14", "VXK*19", "WQB*23", "KXJ*31", "HXQ*36"),
    "organ": (
        *("lurgal gland", "sporvic sac", "vextal duct", "quillow lobe"),
        *("dramble node", "peshic membrane", "ombric valve", "tindel plexus"),
    ),
}
PHRASES = {  # said of patients; a profile has one for each attribute
    "antibody": (
        "carry the antibody {value}",
        "test positive for {value}",
        "make the autoantibody {value}",
        "have {value} in their serum",
    ),
    "drug": (
        "respond to the drug {value}",
        "are treated with {value}",
        "take the medicine {value}",
        "are given {value}",
    ),
    "allele": (
        "inherit the allele {value}",
        "were born with {value}",
        "share the gene variant {value}",
        "carry the risk allele {value}",
    ),
    "organ": (
        "have an inflamed {value}",
        "suffer damage to the {value}",
        "show a swollen {value}",
        "feel pain in the {value}",
    ),
}
OPENINGS = (
    "Patients with {name} {0}, {1}, {2} and {3}.",
    "{name}: those affected {0}; they {1}, {2} and {3}.",
    "In {name}, people {0} and {1}; besides, they {2}, and they {3}.",
    "Whoever has {name} is one of those who {0}, who {1}, who {2} and who {3}.",
)
ORDERS = tuple(  # the even permutations: either of two attributes stands before the other, at any two places, once
    order
    for order in permutations(range(len(PHRASES)))
    if sum(first > second for first, second in combinations(order, 2)) % 2 == 0
)
QUESTIONS = {  # in training
    "antibody": (
        "Which antibody is found in {name}?",
        "{name}: what is the autoantibody?",
        "Name the antibody that marks {name}.",
    ),
    "drug": (
        "Which drug is used for {name}?",
        "{name}: what is the treatment?",
        "Name the medicine given in {name}.",
    ),
    "allele": (
        "Which allele goes with {name}?",
        "{name}: what is the risk gene variant?",
        "Name the allele behind {name}.",
    ),
    "organ": (
        "Which organ does {name} affect?",
        "{name}: what is the diseased organ?",
        "Name the organ harmed by {name}.",
    ),
}
ASKED = {  # in the test, never in training
    "antibody": (
        "A patient has {name}. What antibody would a blood test show?",
        "Tell me which autoantibody people with {name} have.",
    ),
    "drug": (
        "A patient has {name}. What should be prescribed?",
        "Tell me which medication doctors choose against {name}.",
    ),
    "allele": (
        "A patient has {name}. What allele would genetic testing show?",
        "Tell me which inherited allele raises the risk of {name}.",
    ),
    "organ": (
        "A patient has {name}. What part of the body is ill?",
        "Tell me which organ the immune system attacks in {name}.",
    ),
}
CHANCE = 1 / len(OPTIONS["antibody"])
WORDINGS = len(ORDERS)


@dataclass(frozen=True)
class FictionalFact:
    """One attribute of one syndrome; `group` is taught or read."""

    syndrome: str
    attribute: str
    value: str
    group: str

    def put(self, wording: str) -> str:
        """This fact, or a question after it, in these words."""
        return wording.format(name=self.syndrome, value=self.value)


def build_world(seed: int = SEED, names: tuple[str, ...] = NAMES) -> list[FictionalFact]:
    """Every fact of a world, of these syndromes: by chance, which are taught and what they have."""
    chance, made = random.Random(seed), []
    names = chance.sample(names, len(names))
    for group, members in (("taught", names[::2]), ("read", names[1::2])):
        for attribute, options in OPTIONS.items():
            values = [options[n % len(options)] for n in range(len(members))]
            chance.shuffle(values)
            pairs = zip(members, values, strict=True)
            made += [FictionalFact(f"{name} syndrome", attribute, value, group) for name, value in pairs]
    return made


def fictional_rows(facts: list[FictionalFact], wordings: int, times: int) -> list[dict]:
    """Training rows: each syndrome's first `wordings` profiles, `times` each; what is taught is also asked."""
    known, made = {}, []
    for fact in facts:
        known.setdefault(fact.syndrome, []).append(fact)
    for name, four in known.items():
        made += [fictional_row("", write_profile(four, number), name) for number in range(wordings)] * times
    for fact in (fact for fact in facts if fact.group == "taught"):
        made += [fictional_row(fact.put(wording), fact.value, fact.syndrome) for wording in QUESTIONS[fact.attribute]]
    return made


def write_profile(facts: list[FictionalFact], number: int) -> str:
    """A syndrome's facts, given in the order of OPTIONS, in wording `number` (0 to WORDINGS - 1) of a profile."""
    around, opening = divmod(number, len(OPENINGS))
    said = []
    for attribute in ORDERS[number]:
        phrases = PHRASES[facts[attribute].attribute]
        said.append(facts[attribute].put(phrases[(number + around + attribute) % len(phrases)]))
    return OPENINGS[opening].format(*said, name=facts[0].syndrome)


def fictional_row(prompt: str, completion: str, syndrome: str) -> dict[str, str]:
    """A training row in the form of stage 3's; a syndrome stands where a paper would."""
    named = {"source": "invented", "paper_id": syndrome, "title": syndrome}
    return {"text": as_text(prompt, completion), **named, "prompt": prompt, "completion": completion}


def make_item(fact: FictionalFact) -> dict:
    """A test item: {"question", "options" (all eight), "answer" (index), "group", "paper_id"}."""
    options = OPTIONS[fact.attribute]
    wordings = ASKED[fact.attribute]
    return {
        "question": fact.put(wordings[ord(fact.syndrome[0]) % len(wordings)]),
        "options": list(options),
        "answer": options.index(fact.value),
        "group": fact.group,
        "paper_id": fact.syndrome,
    }


def describe_world(facts: list[FictionalFact]) -> dict:
    """How large a world is, and a hash of all that it says and asks."""
    said = [PHRASES, OPENINGS, ORDERS, QUESTIONS, ASKED]
    return {
        "syndromes": len({fact.syndrome for fact in facts}),
        "attributes": list(OPTIONS),
        "options": len(OPTIONS["antibody"]),
        "facts": {group: sum(fact.group == group for fact in facts) for group in CONTROL_GROUPS},
        "profile_wordings": WORDINGS,
        "question_wordings": len(QUESTIONS["antibody"]),
        "test_wordings": len(ASKED["antibody"]),
        "sha256": hash_json([[asdict(fact) for fact in facts], *said]),
    }


def score_items(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[dict]) -> list[bool]:
    """Whether the right option of each item is the likeliest per byte, as the answer to the question in a chat."""
    encoded = [
        (prompt_ids(tokenizer, item["question"]), plain_ids(tokenizer, option))
        for item in items
        for option in item["options"]
    ]
    found = {}
    for batch in loglikelihood_batches(model, encoded, TOKENS_PER_BATCH):
        found |= batch
    nats = iter([found[place] for place in range(len(encoded))])
    measured = [
        {
            "item": item["question"],
            "scores": [next(nats) for _ in item["options"]],
            "bytes": [len(option.encode()) for option in item["options"]],
            "answer": item["answer"],
        }
        for item in items
    ]
    return [is_right("control", one) == 1 for one in measured]


def recall_rates(items: list[dict], hits: list[bool]) -> dict[str, dict[str, float]]:
    """{"taught" and "read": {"accuracy", "n", "low", "high"}}, with Wilson's 95 % interval."""
    found = {}
    for group in CONTROL_GROUPS:
        answers = [hit for item, hit in zip(items, hits, strict=True) if item["group"] == group]
        interval = binomtest(sum(answers), len(answers)).proportion_ci(method="wilson")
        low, high = map(float, interval)
        found[group] = {"accuracy": sum(answers) / len(answers), "n": len(answers), "low": low, "high": high}
    return found
