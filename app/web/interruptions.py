"""`GET /interruptions`: the ledger as JSON, in pages, for annotations and scripts."""

import asyncio
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, TypeAlias

from fastapi import FastAPI, Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, TypeAdapter
from pydantic_core import to_json
from starlette.requests import Request

from app.documents import interruption_document
from app.domain.ledger import LedgerEntry, LedgerPosition
from app.domain.ledger import Query as LedgerQuery
from app.domain.times import rfc3339
from app.store.port import LedgerReader
from app.web.problems import INERT, as_response, problem
from app.web.waiting import WaitingLimit

MOST_ROWS: Final = 1000

_PLACE: Final[TypeAdapter[tuple[float, str]]] = TypeAdapter(tuple[FiniteFloat, str])
_SPACED_OFFSET: Final = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$", re.ASCII)


def _place(cursor: object) -> object:
    try:
        return LedgerPosition(*_PLACE.validate_json(urlsafe_b64decode(str(cursor))))
    except ValueError:
        raise ValueError("is not a cursor of an earlier answer") from None


def _with_plus(moment: object) -> object:
    """Restore the `+` of an offset, which a query string that is not percent-encoded turns into a space."""
    return _SPACED_OFFSET.sub(r"\1+\2", moment) if isinstance(moment, str) else moment


_TIME_FORM: Final = "RFC 3339 with an offset (2026-11-28T10:00:00Z), or Unix seconds or milliseconds"
_Moment: TypeAlias = Annotated[AwareDatetime | None, BeforeValidator(_with_plus)]
_Name: TypeAlias = Annotated[str | None, Field(max_length=512)]


class _Parameters(BaseModel):
    """The parameters. The description of each ends the sentence "it takes …"."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    since: Annotated[_Moment, Field(description=f"the earliest event time: {_TIME_FORM}")] = None
    until: Annotated[_Moment, Field(description=f"the event time before which to stop: {_TIME_FORM}")] = None
    project: Annotated[_Name, Field(description="a project id")] = None
    cluster: Annotated[_Name, Field(description="a cluster's name, as `kubernetes_cluster` shows it now")] = (
        None
    )
    location: Annotated[_Name, Field(description="a cluster's location, a region or a zone")] = None
    counted: Annotated[
        Literal["true", "false"] | None,
        Field(description="`true` for rows that the counters include, `false` for all others"),
    ] = None
    limit: Annotated[int, Field(ge=1, description="a number of rows, at least one")] = 100
    cursor: Annotated[
        Any,
        BeforeValidator(_place),
        Field(
            description="`next` of the page before, with the other parameters unchanged",
            json_schema_extra={"type": "string"},
        ),
    ] = None

    def query(self) -> LedgerQuery:
        """Return the query. It reads a row more than the page shows, to know if there is a next page."""
        most = LedgerQuery()
        return LedgerQuery(
            since=self.since.timestamp() if self.since else most.since,
            until=self.until.timestamp() if self.until else most.until,
            project=self.project,
            cluster=self.cluster,
            cluster_location=self.location,
            counted=None if self.counted is None else self.counted == "true",
            before=self.cursor,
            limit=min(self.limit, MOST_ROWS) + 1,
        )


def add_interruptions(app: FastAPI, ledger: LedgerReader) -> None:
    """Add the endpoint of the ledger. A thread of its own reads for one answer at a time."""
    reader = ThreadPoolExecutor(1, thread_name_prefix="ledger")
    limit = WaitingLimit()
    app.add_exception_handler(RequestValidationError, _bad_parameters)

    @app.get(
        "/interruptions",
        summary="Read the ledger, newest interruptions first",
        description=f"A page has {MOST_ROWS} rows at most; its `next` is the `cursor` of the next page,"
        " or null on the last page.",
        responses=_ANSWERS,
    )
    async def interruptions(parameters: Annotated[_Parameters, Query()]) -> Response:
        with limit.place():
            body = await asyncio.get_running_loop().run_in_executor(reader, _page, ledger, parameters.query())
        return Response(body, media_type="application/json", headers=INERT)


_ANSWERS: Final[dict[int | str, dict[str, object]]] = {
    200: {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Interruptions"}}}},
    **{
        status: {
            "description": description,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, description in (("4XX", "A parameter is wrong"), (503, "The ledger cannot be read now"))
    },
}


_FAULTS: Final[Mapping[str, str]] = {"timezone_aware": "has no offset", "string_too_long": "is too long"}
"""The faults that deserve a sentence, by the library's type. Its own sentences are about its parsing."""


async def _bad_parameters(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - FastAPI calls it for this class only
    wrong = [_sentence(str(error["loc"][-1]), error) for error in exc.errors()]
    return as_response(problem(HTTPStatus.BAD_REQUEST, "bad_request", "; ".join(wrong)))


def _sentence(parameter: str, error: Mapping[str, Any]) -> str:
    known = _Parameters.model_fields
    if parameter not in known:
        return f"{parameter}: unknown parameter; the known ones are {', '.join(known)}"
    own = error["msg"].removeprefix("Value error, ") if error["type"] == "value_error" else "is not valid"
    return f"{parameter}: {_FAULTS.get(error['type'], own)}; it takes {known[parameter].description}"


def _page(ledger: LedgerReader, query: LedgerQuery) -> bytes:
    """Return the answer to a query. Raises StoreUnavailableError."""
    entries = ledger.interruptions(query)
    page = entries[: query.limit - 1]
    following = _cursor(page[-1].position) if len(entries) > len(page) else None
    # Row by row, because the process would keep the memory of all dictionaries together.
    rows = b",".join([to_json(_row(entry)) for entry in page])
    return b'{"interruptions":[%b],"next":%b}' % (rows, to_json(following))


def _cursor(place: LedgerPosition) -> str:
    return urlsafe_b64encode(_PLACE.dump_json((place.at, place.key))).decode()


def _row(entry: LedgerEntry) -> dict[str, object]:
    return {**interruption_document(entry.counted), "recorded_at": rfc3339(entry.recorded_at)}
