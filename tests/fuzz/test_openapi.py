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
    # No schema can describe the contents of the base64, or the configured subscription.
    GenerationMode.POSITIVE: frozenset({200, 403, 422}),
    # The exporter accepts more than it describes: it does not refuse a message for an unusual attribute.
    GenerationMode.NEGATIVE: frozenset({200, 400, 401, 403, 422}),
}
_PROBES: Final = ("GET /healthz", "GET /readyz")
_PUSHES: Final = ("POST /events/creation", "POST /events/interruption")
_LEDGER: Final = "GET /interruptions"
_LEDGER_STATUSES: Final = frozenset({200, 400})
"""Statuses in both modes, with 400, because no schema can describe which texts are valid cursors."""


def operations(exporter: Exporter) -> Mapping[str, Any]:
    schema = schemathesis.openapi.from_url(f"{exporter.url}/openapi.json")
    found = [operation.ok() for operation in schema.get_all_operations() if isinstance(operation, Ok)]
    return {operation.label: operation for operation in found}


def test_the_description_has_exactly_the_operations_under_test(shared_exporter: Exporter) -> None:
    assert operations(shared_exporter).keys() == {*_PROBES, *_PUSHES, _LEDGER}


# schemathesis' own pytest plugin breaks with new versions of pytest, so hypothesis runs its operations here.
@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, GenerationMode.POSITIVE) for label in (*_PROBES, *_PUSHES, _LEDGER)),
        *((label, GenerationMode.NEGATIVE) for label in (*_PUSHES, _LEDGER)),
    ],
)
def test_answers_match_the_description(shared_exporter: Exporter, label: str, mode: GenerationMode) -> None:
    operation = operations(shared_exporter)[label]
    # The checks look for this spelling of the header, and also send requests without it.
    headers = {"Authorization": shared_exporter.authorization}

    @settings(max_examples=_EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate])
    @given(operation.as_strategy(generation_mode=mode))
    def matches_the_description(case: Case[Any]) -> None:
        answer = case.call_and_validate(
            headers=headers, excluded_checks=[negative_data_rejection, positive_data_acceptance]
        )
        assert answer.status_code in (_LEDGER_STATUSES if label == _LEDGER else _STATUSES[mode])

    matches_the_description()
