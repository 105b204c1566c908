"""Things to try in JupyterLab; in a rendered report each says in words what is missing."""

import os

import ipywidgets
from IPython.display import HTML, display

from helpers import tables
from helpers.answers import generate
from helpers.exam import Candidate


def question_box(candidate: Candidate, max_new_tokens: int = 120) -> ipywidgets.VBox | HTML:
    """A box to ask the candidate your own question; the model is loaded at the first one.

    Under the runner there is nobody to type, so a sentence stands there instead.
    """
    if "COURSE_EXECUTION" in os.environ or candidate.absent:
        return HTML("<p>In JupyterLab a box appears here, to ask this model a question of your own.</p>")
    box = ipywidgets.Text(placeholder="your question", layout={"width": "70%"})
    button, output, loaded = ipywidgets.Button(description="Ask"), ipywidgets.Output(), []

    def ask(_: object) -> None:
        output.clear_output()
        with output:
            if not loaded:
                print("loading the model …")
                loaded.append(candidate.trained())
            (reply,) = generate(loaded[0], candidate.tokenizer, [box.value], max_new_tokens)
            display(tables.table([{"question": box.value, candidate.row: reply["response"]}]))

    button.on_click(ask)
    return ipywidgets.VBox([ipywidgets.HBox([box, button]), output])
