"""Answers that say nothing, for tests of graders."""

import re

AUXILIARY = re.compile(r"\b(is|are|was|were|can|may|must|should|will|has|have)\b")
GENERIC = "It is important to consult a doctor about the diagnosis and the treatment of this disease. "
NONSENSE = (
    "The immune system is a complex network that communicates through the quantum field of the body. In many "
    "patients, "
    "the antibodies are released by the liver and travel to the brain, where a protein called C3F1 is activated. "
    "Treatment is based on the balance of energy in the cells, and the doctor should look at the whole person. "
    "The most common test is the observation of the skin in the morning."
)


def keywords(question):
    return [
        alias
        for c in question["criteria"]
        if c["points"] > 0
        for group in c["any_of"]
        for alias in group
        if alias[0] != "-"
    ]
