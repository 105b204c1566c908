"""The API over a tiny random model, on a port of its own in this process; test_api and test_fuzz_api ask it."""

import threading
import time
from contextlib import contextmanager
from functools import cache

from helpers.models import load
from helpers.serving import app, serve
from helpers.serving.engine import DEADLINE, Engine
from helpers.serving.serve import LOCAL
from support import tiny

MADE = app.Made(which="base", id="tester/tiny", revision="0" * 40, weights_sha256={}, data_sha256=None)


@cache
def tokenizer():
    return tiny.byte_tokenizer()


class Watched(Engine):
    """An engine over the tiny model in `folder` that notes how many rows each step has, and takes its time."""

    def __init__(self, folder, pause=0.0, deadline=DEADLINE, ends=(2,)):
        model = load.load_model(folder, "float32")
        self.steps, self.pause, self.fault = [], pause, None
        model.register_forward_pre_hook(self.step, with_kwargs=True)
        super().__init__(model, tokenizer(), deadline)
        self.ends = list(ends)  # <|im_end|> alone, unless told otherwise

    def step(self, model, args, kwargs):
        self.steps.append(tuple(kwargs["input_ids"].shape))
        time.sleep(self.pause)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault


@contextmanager
def served(engine, token=None, library=None, unready=""):
    """(address, service) of a server in a thread; `engine` is closed with it."""
    service = app.Service(24, unready, engine, MADE, library)
    listener = serve.open_socket(tiny.resolve(PORT=0))
    server = serve.server_of(service, token, () if token else LOCAL)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", service
    finally:
        server.should_exit = True
        thread.join()
        engine.close()
