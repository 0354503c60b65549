from collections.abc import Mapping
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.exporter import Exporter

_EXAMPLES: Final = 60
_STATUSES: Final[Mapping[GenerationMode, frozenset[int]]] = {
    # No schema tells what is in the base64, nor which subscription is the configured one.
    GenerationMode.POSITIVE: frozenset({200, 403, 422}),
    # The exporter takes more than it describes: an odd attribute is no reason to refuse a message.
    GenerationMode.NEGATIVE: frozenset({200, 400, 401, 403, 422}),
}
_PROBES: Final = ("GET /healthz", "GET /readyz")
_PUSHES: Final = ("POST /events/creation", "POST /events/interruption")
_LEDGER: Final = "GET /interruptions"
_LEDGER_STATUSES: Final = frozenset({200, 400})
"""400 in either mode, because no schema can describe which texts are cursors of earlier answers."""


def operations(exporter: Exporter) -> Mapping[str, Any]:
    schema = schemathesis.openapi.from_url(f"{exporter.url}/openapi.json")
    found = [operation.ok() for operation in schema.get_all_operations() if isinstance(operation, Ok)]
    return {operation.label: operation for operation in found}


def test_everything_that_is_described_is_tried(shared_exporter: Exporter) -> None:
    assert operations(shared_exporter).keys() == {*_PROBES, *_PUSHES, _LEDGER}


# Its own way into pytest breaks where pytest changes: its operations and hypothesis are all that is needed.
@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, GenerationMode.POSITIVE) for label in (*_PROBES, *_PUSHES, _LEDGER)),
        *((label, GenerationMode.NEGATIVE) for label in (*_PUSHES, _LEDGER)),
    ],
)
def test_answers_are_as_described(shared_exporter: Exporter, label: str, mode: GenerationMode) -> None:
    operation = operations(shared_exporter)[label]
    # In this spelling the checks find it, and see what is answered without it.
    headers = {"Authorization": shared_exporter.authorization}

    @settings(max_examples=_EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate])
    @given(operation.as_strategy(generation_mode=mode))
    def is_as_described(case: Case[Any]) -> None:
        answer = case.call_and_validate(
            headers=headers, excluded_checks=[negative_data_rejection, positive_data_acceptance]
        )
        assert answer.status_code in (_LEDGER_STATUSES if label == _LEDGER else _STATUSES[mode])

    is_as_described()
