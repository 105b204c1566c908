"""How each view asks. Every wording has a name; those of PROBES are never trained on."""

from hashlib import sha256

from helpers.papers import Paper

ROW_PROMPTS = {  # {what is asked: {name: wording}}; running text has no question
    "conclusions": {
        "conclude": "What does the study “{title}” conclude?",
        "conclusion_of": "What is the conclusion of the paper “{title}”?",
        "drawn": "Which conclusions did the authors of “{title}” draw?",
        "summed_up": "A paper is titled “{title}”. How do its authors sum up?",
    },
    "question_title": {"title": "{title}"},
    "results": {
        "main_results": "What were the main results of the study “{title}”?",
        "found": "What did the authors of “{title}” find?",
        "results_of": "Please report the results of the paper “{title}”.",
        "outcome": "A study was published as “{title}”. What came out of it?",
    },
    "methods": {
        "done": "How was the study “{title}” done?",
        "methods_of": "Which methods were used in “{title}”?",
        "went_about": "How did the authors of “{title}” go about their work?",
    },
    "background": {
        "background": "What is the background of the study “{title}”?",
        "starts_from": "Which problem does the paper “{title}” start from?",
        "motivation": "Please explain the background of “{title}”.",
    },
    "aim": {
        "aim": "What was the aim of the study “{title}”?",
        "purpose": "For what purpose was the study “{title}” done?",
        "set_out": "What did the authors of “{title}” set out to do?",
    },
    "card": {
        "key_points": "List the key points of the study “{title}”.",
        "facts": "Which facts should one remember from the paper “{title}”?",
        "notes": "Write short notes on the findings of “{title}”.",
    },
    "number": {
        "fill_number": "Fill in the missing number. From the study “{title}”: “{sentence}”",
        "which_number": "Which number belongs in the gap? “{sentence}” (from “{title}”)",
        "complete_number": "Complete this report on the study “{title}” with the right number: “{sentence}”",
    },
    "name": {
        "fill_term": "Fill in the missing term. From the study “{title}”: “{sentence}”",
        "which_term": "Which term belongs in the gap? “{sentence}” (from “{title}”)",
        "complete_term": "Complete this report on the study “{title}” with the right term: “{sentence}”",
    },
    "title_claim": {
        "true": "Is this true? “{claim}”",
        "published": "Has this been found in a published study? “{claim}”",
        "right": "Is it right to say the following? “{claim}”",
    },
    "claim": {
        "study_found": "Did the study “{title}” find this? “{claim}”",
        "agrees": "“{claim}” Does this agree with the study “{title}”?",
        "reported": "Is this what “{title}” reports? “{claim}”",
    },
    "definition": {
        "what_is": "What is {name}?",
        "tell": "Tell me what {name} is.",
        "describe": "Describe {name} in a sentence.",
    },
    "about": {
        "about": "What does the study “{title}” report about {name}?",
        "learnt": "What is learnt about {name} from the paper “{title}”?",
        "says": "What does the paper “{title}” say about {name}?",
    },
    "text": {"condensed": "", "conclusion_first": ""},
}
ITEM_PROMPTS = {  # the options continue what is said
    "number": {
        "continue_number": "From a paper on {keywords}: … {left}",
        "read_number": "Somebody who works on {keywords} may have read this: … {left}",
    },
    "name": {
        "continue_name": "From a paper on {keywords}: … {left}",
        "read_name": "Somebody who works on {keywords} may have read this: … {left}",
    },
    "direction": {
        "continue_direction": "From a paper on {keywords}: … {left}",
        "read_direction": "Somebody who works on {keywords} may have read this: … {left}",
    },
    "conclusion": {"follows": "{title}\n\n{background}\n\nThe authors come to this conclusion:"},
}
KIND = {name: kind for kind, wordings in ROW_PROMPTS.items() for name in wordings}


def choose_prompt(wordings: dict[str, dict[str, str]], kind: str, paper: Paper, turn: int = 0) -> str:
    """The name of a wording for `kind`: by a hash of the paper's id, the next one at each `turn`."""
    names = list(wordings[kind])
    return names[(hash_paper(paper, kind) + turn) % len(names)]


def hash_paper(paper: Paper, salt: str) -> int:
    """A number that depends on the paper's source and id and on `salt`, the same on every machine."""
    return int(sha256(f"{salt}:{paper.source}:{paper.paper_id}".encode()).hexdigest()[:12], 16)


def fill_prompt(wording: str, **parts: str) -> str:
    """The question of that name with its parts filled in."""
    return ROW_PROMPTS[KIND[wording]][wording].format(**parts)
