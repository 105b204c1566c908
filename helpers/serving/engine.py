"""The model behind the API: one thread that answers all waiting questions in one batch."""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.models import (
    end_ids,
    finish_answer,
    generate_continuations,
    greedy_tokens,
    opens_thought,
    prompt_ids,
    sample_tokens,
)

TOGETHER = 8  # answers written at once
WAITING = 8  # questions that may wait besides
PADDED = 2048  # tokens of prompts read at once, padding included: a reading cannot be interrupted
GATHERING = 0.02  # seconds between the first question and its batch, in which others may join
DEADLINE = 30.0  # seconds that a question may wait, and then that its answer may take
LONGEST_PROMPT = 1024  # tokens
COLDEST = 0.01  # below this temperature the likeliest token is taken
TOP_P = 0.95


class Busy(Exception):
    """No answer now, perhaps a little later; says why."""


@dataclass(eq=False)
class AnswerJob:
    """One question on its way to an answer.

    `done` becomes {"response", "thinking", "finish_reason", "tokens", "seconds"}, with "stop", "length" or "time"
    as `finish_reason`. To cancel it is to say that nobody waits any more. `hear` is told, after every token, the
    answer so far; it is called in the engine's thread.
    """

    prompt: list[int]
    most: int
    temperature: float = 0.0
    opened: bool = False  # whether the prompt ends inside a thought
    hear: Callable[[dict], None] | None = None
    began: float = field(default_factory=time.monotonic)
    started: float = 0.0  # when its batch began
    ids: list[int] = field(default_factory=list)
    done: Future = field(default_factory=Future)

    @property
    def age(self) -> float:
        """Seconds since it arrived."""
        return time.monotonic() - self.began

    def fail(self, error: Exception) -> None:
        with suppress(InvalidStateError):  # answered already, or given up
            self.done.set_exception(error)


class Engine:
    """A model and the questions that wait for it."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, deadline: float = DEADLINE):
        self.model, self.tokenizer, self.deadline = model, tokenizer, deadline
        self.decoder = copy.deepcopy(tokenizer)  # the thread's own, as encoding changes a tokenizer's state
        self.ends = end_ids(model, tokenizer)
        self.waiting: deque[AnswerJob] = deque()
        self.changed, self.open = threading.Condition(), True
        self.thread = threading.Thread(target=self.work, name="engine", daemon=True)
        self.thread.start()

    def job(self, question: str, most: int, thinking: bool = False, **how: object) -> AnswerJob:
        """The job of answering `question` in at most `most` tokens; one caller at a time.

        Raises ValueError with a sentence for the asker if the question has too many tokens.
        """
        prompt = prompt_ids(self.tokenizer, question, thinking)
        context = getattr(self.model.config, "max_position_embeddings", None) or LONGEST_PROMPT + most
        longest = min(LONGEST_PROMPT, context - most)
        if len(prompt) > longest:
            raise ValueError(
                f"the question is {len(prompt)} tokens long; {max(0, longest)} are the most for an answer of {most}"
            )
        return AnswerJob(prompt, most, opened=thinking and opens_thought(self.tokenizer), **how)

    def submit(self, job: AnswerJob) -> None:
        """Let `job` wait for its turn. Raises Busy where WAITING others do, and after `close`."""
        with self.changed:
            self.waiting = deque(other for other in self.waiting if not other.done.cancelled())
            if not self.open:
                raise Busy("the server is shutting down")
            if len(self.waiting) >= WAITING:
                raise Busy(f"{WAITING} questions are waiting already")
            self.waiting.append(job)
            self.changed.notify()

    def close(self) -> None:
        """Take no more questions, and return when those that wait are answered."""
        with self.changed:
            self.open = False
            self.changed.notify()
        self.thread.join()

    def work(self) -> None:
        """Answer batch after batch; one that fails takes only its own questions with it."""
        while self.open or self.waiting:
            batch = self.take()
            try:
                if batch:
                    self.answer(batch)
            except Exception as error:  # whatever it is, it is told to those who wait, and logged there
                for job in batch:
                    job.fail(error)

    def take(self) -> list[AnswerJob]:
        """The next questions to answer together, in the order they came; those whose time is over are told."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or not self.open)
        time.sleep(GATHERING)
        batch = []
        with self.changed:
            while self.waiting and fit_together([*batch, self.waiting[0]]):
                job = self.waiting.popleft()
                if job.age > self.deadline:
                    job.fail(Busy(f"no answer could begin within {self.deadline:g} seconds"))
                elif not job.done.cancelled():
                    job.started = time.monotonic()
                    batch.append(job)
        return batch

    def answer(self, batch: list[AnswerJob]) -> None:
        """Answer these together; a row leaves the batch when its answer ends, for whatever reason."""

        def choose(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
            jobs = [batch[row] for row in rows]
            tokens = choose_tokens(logits, jobs)
            for place, (job, token) in enumerate(zip(jobs, tokens.tolist(), strict=True)):
                if self.grown(job, token):
                    tokens[place] = self.ends[0]
            return tokens

        prompts, most = [job.prompt for job in batch], max(job.most for job in batch)
        generate_continuations(self.model, prompts, 1, most, self.ends, choose, lambda depth: None)

    def grown(self, job: AnswerJob, token: int) -> bool:
        """Add a token to an answer; whether it was the last one."""
        job.ids.append(token)
        reason = "stop" if token in self.ends else "length" if len(job.ids) == job.most else ""
        reason = reason or ("time" if time.monotonic() - job.started > self.deadline else "")
        if reason or job.hear:
            told = finish_answer(self.decoder, job.ids, self.ends, job.opened)
            if job.hear:
                job.hear(told)
            if reason:
                with suppress(InvalidStateError):  # nobody waits any more
                    job.done.set_result(told | {"finish_reason": reason, "seconds": round(job.age, 3)})
        return bool(reason) or job.done.cancelled()


def fit_together(batch: list[AnswerJob]) -> bool:
    """Whether these can be answered together; one alone always can."""
    padded = len(batch) * max(len(job.prompt) for job in batch)
    return len(batch) == 1 or (len(batch) <= TOGETHER and padded <= PADDED)


def choose_tokens(logits: torch.Tensor, jobs: list[AnswerJob]) -> torch.Tensor:
    """The next token of each job, drawn at its own temperature; `logits` is (jobs, words)."""
    tokens = greedy_tokens(logits)
    if warm := [place for place, job in enumerate(jobs) if job.temperature >= COLDEST]:
        heat = torch.tensor([jobs[place].temperature for place in warm], device=logits.device)
        chances = torch.rand(len(warm), device=logits.device)
        tokens[warm] = sample_tokens(logits[warm].float() / heat[:, None], chances, 1.0, TOP_P)
    return tokens
