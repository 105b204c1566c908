"""The API over HTTP: questions in, answers out, whole or as they come; one form for every error of ours."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException

from helpers.evaluation import Library
from helpers.report import NOTICE
from helpers.serving.engine import AnswerJob, Busy, Engine
from helpers.serving.security import PATIENCE

MOST_TOKENS = 256
LONGEST_QUESTION = 4000  # characters
BLANK = (
    "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"  # what JavaScript and Rust call a space
)
RELATED = 3  # papers
NOT_THE_ORIGIN = "similar text, not the origin of the answer"
RETRY = {"Retry-After": "5"}  # seconds
FAILED = "the server failed; its log says where"

log = logging.getLogger(__name__)


def as_whole_number(number: object) -> object:
    """5.0 as 5, which JSON does not tell apart."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


class Asked(BaseModel):
    """A question and how to answer it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    question: Annotated[str, Field(min_length=1, max_length=LONGEST_QUESTION, pattern=f"[^{BLANK}]")]
    max_new_tokens: Annotated[
        Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None, BeforeValidator(as_whole_number)
    ] = Field(
        None, description="longest answer, in tokens, thoughts included; without it the course's MAX_NEW_TOKENS"
    )
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = Field(
        0.0, description="0 takes the likeliest words, more draws among the likely ones"
    )
    think: bool = Field(False, description="let a reasoning model think first")
    stream: bool = Field(False, description="send the answer as it is written, as server-sent events")


class Made(BaseModel):
    """Which model answered: base, qlora or full, what it was made from, and its files' sha256."""

    which: str
    id: str
    revision: str
    weights_sha256: dict[str, str]
    data_sha256: str | None


class RelatedPaper(BaseModel):
    paper_id: str
    source: str
    title: str


class Related(BaseModel):
    """Papers of the training data that share words with the question."""

    note: Literal["similar text, not the origin of the answer"] = NOT_THE_ORIGIN
    papers: list[RelatedPaper]


class PredictAnswer(BaseModel):
    """An answer and how it came about; time is in seconds, from the question's arrival."""

    response: str
    thinking: str
    finish_reason: Literal["stop", "length", "time"]
    tokens: int
    seconds: float
    model: Made
    related_training_papers: Related
    notice: str = NOTICE


class Status(BaseModel):
    status: str


class Problem(BaseModel):
    """What went wrong, in a sentence."""

    error: str


def describe_error(description: str, **headers: str) -> dict:
    """An error's answer, as the OpenAPI document has it."""
    shown = {n.replace("_", "-"): {"description": d, "schema": {"type": "string"}} for n, d in headers.items()}
    return {"model": Problem, "description": description, "headers": shown}


EVERYWHERE = {
    400: describe_error("no JSON, or addressed to another host"),
    401: describe_error("the token is missing or wrong", WWW_Authenticate="Bearer"),
    405: describe_error("another method is needed", Allow="the methods there are"),
    500: describe_error("the server failed"),
}
UNREADY = {503: describe_error("not now, perhaps later", Retry_After="seconds to wait")}
PREDICT = {
    200: {"description": "the answer; with `stream` as events", "content": {"text/event-stream": {}}},
    **EVERYWHERE,
    408: describe_error(f"the body did not arrive within {PATIENCE:g} seconds"),
    413: describe_error("the body is too large"),
    415: describe_error("the body is not application/json"),
    422: describe_error("a field is missing, unknown or out of bounds"),
    **UNREADY,
}


@dataclass
class Service:
    """What the API speaks for: a model and where it comes from, once they are loaded."""

    most: int  # tokens of an answer for which no number was given
    unready: str = "the model is still loading"  # why there are no answers; "" if there are
    engine: Engine | None = None
    made: Made | None = None
    library: Library | None = None  # the papers that the model has read

    def require_ready(self) -> None:
        """Raises Busy if there are no answers."""
        if self.unready:
            raise Busy(self.unready)

    def answer(self, asked: Asked, told: dict) -> PredictAnswer:
        """What is sent: what the engine `told`, and all that belongs with it."""
        found = self.library.find(asked.question, RELATED) if self.library else []
        papers = [RelatedPaper(paper_id=p.paper_id, source=p.source, title=p.title) for p in found]
        return PredictAnswer(**told, model=self.made, related_training_papers=Related(papers=papers))


async def error_response(_: Request, error: Exception) -> JSONResponse:
    """Every error in one form, without a trace and without what was sent."""
    if isinstance(error, Busy):
        return JSONResponse({"error": str(error)}, 503, RETRY)
    if isinstance(error, RequestValidationError):
        return JSONResponse({"error": first_fault(error)}, 422)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return JSONResponse({"error": FAILED}, 500)


HANDLERS = dict.fromkeys((Busy, RequestValidationError, HTTPException, Exception), error_response)


def create_app(service: Service, token: bool = False) -> FastAPI:
    """The application; `token` only says in its description that one is needed. The guard checks it."""
    app = FastAPI(
        title="The course's models",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=EVERYWHERE,
        exception_handlers=HANDLERS,
    )
    bearer = [Depends(HTTPBearer(auto_error=False))] if token else []

    @app.get("/health", response_model=Status)
    async def health() -> dict:
        """Whether the process is alive."""
        return {"status": "alive"}

    @app.get("/ready", response_model=Status, responses=UNREADY)
    async def ready() -> dict:
        """Whether there is a model to ask."""
        service.require_ready()
        return {"status": "ready"}

    @app.post("/predict", response_model=PredictAnswer, responses=PREDICT, dependencies=bearer)
    async def predict(asked: Asked, request: Request) -> Response | PredictAnswer:
        """Answer a question."""
        service.require_ready()
        heard = asyncio.Queue()
        job = begin_job(service, asked, heard)
        if asked.stream:
            return StreamingResponse(
                stream_events(service, asked, job, heard),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        told = await await_answer(job, request)
        return service.answer(asked, told) if told else Response(status_code=408)

    return app


def first_fault(error: RequestValidationError) -> str:
    """What is wrong with the first field that is; what was sent is not repeated."""
    wrong = error.errors()[0]
    field = next((part for part in wrong["loc"][1:] if part in Asked.model_fields), None)
    blank = wrong["type"] == "string_pattern_mismatch"
    return f"{field or 'the body'}: {'it is blank' if blank else wrong['msg']}"


def begin_job(service: Service, asked: Asked, heard: asyncio.Queue) -> AnswerJob:
    """The job of answering, on its way; a streamed answer's states so far come in through `heard`."""
    loop = asyncio.get_running_loop()
    hear = (lambda told: loop.call_soon_threadsafe(heard.put_nowait, told)) if asked.stream else None
    most = asked.max_new_tokens or min(service.most, MOST_TOKENS)
    try:
        job = service.engine.job(asked.question, most, asked.think, temperature=asked.temperature, hear=hear)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    service.engine.submit(job)
    return job


async def await_answer(job: AnswerJob, request: Request) -> dict | None:
    """What the engine tells; None if the client goes away first, and then nothing more is generated."""
    answer, gone = asyncio.wrap_future(job.done), asyncio.ensure_future(wait_for_departure(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        gone.cancel()
        answer.cancel()


async def wait_for_departure(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream_events(service: Service, asked: Asked, job: AnswerJob, heard: asyncio.Queue) -> AsyncIterator[str]:
    """The answer as server-sent events: pieces of it, then all of it as `done`; or `error`."""
    answer, sent = asyncio.wrap_future(job.done), {"thinking": "", "response": ""}
    answer.add_done_callback(lambda _: heard.put_nowait(None))
    try:
        while told := await heard.get():
            for piece in new_piece(told, sent):
                yield format_event(piece)
        whole = service.answer(asked, answer.result()).model_dump()
        for piece in new_piece(whole, sent, last=True):
            yield format_event(piece)
        yield format_event(whole, "done")
    except Busy as error:
        yield format_event({"error": str(error)}, "error")
    except Exception:
        log.exception("a streamed answer failed")
        yield format_event({"error": FAILED}, "error")
    finally:
        answer.cancel()  # if it is still being written, the client has gone away


def new_piece(told: dict, sent: dict[str, str], last: bool = False) -> Iterator[dict[str, str]]:
    """What `told` adds to what was `sent`; half a character waits for its other half.

    What was sent stays sent: where words turn out to have been a thought, only the whole answer says so.
    """
    for name, key in (("thinking", "thinking"), ("response", "text")):
        text = told[name] if last else told[name].rstrip("\ufffd")
        if text.startswith(sent[name]) and text != sent[name]:
            yield {key: text[len(sent[name]) :]}
            sent[name] = text


def format_event(data: dict, name: str = "") -> str:
    """A server-sent event (WHATWG HTML, section 9.2)."""
    return f"event: {name}\n" * bool(name) + f"data: {json.dumps(data)}\n\n"
