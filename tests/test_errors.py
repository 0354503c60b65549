import re
from collections.abc import Iterator

import pytest

from app import errors
from app.errors import ExporterError
from app.web.problems import leaves, problem_of, status_of

UNANSWERED = (errors.StartError, errors.ConfigurationError, errors.InventoryUnavailableError)
"""The errors that do not answer requests."""


def classes(error: type[ExporterError] = ExporterError) -> Iterator[type[ExporterError]]:
    yield error
    for child in error.__subclasses__():
        yield from classes(child)


def ends() -> list[type[ExporterError]]:
    return [error for error in classes() if not error.__subclasses__()]


def drawn(error: type[ExporterError] = ExporterError, before: str = "", beneath: str = "") -> Iterator[str]:
    """Yield the tree below this class: a line per class, with its reason if it has one."""
    yield f"{before}{error.__name__} {vars(error).get('reason', '')}".strip()
    children = error.__subclasses__()
    for child in children:
        last = child is children[-1]
        yield from drawn(
            child, beneath + ("└── " if last else "├── "), beneath + ("    " if last else "│   ")
        )


def test_the_tree_is_as_it_is_drawn() -> None:
    tree = str(errors.__doc__).split("\n\n")[1]
    lines = []
    for line in tree.splitlines():
        branch, name, remark = re.fullmatch(r"([│├└─ ]*)(\w+) *(.*)", line).groups()  # type: ignore[union-attr]
        reason = re.match(r"[a-z]+(_[a-z]+)*(?=$|:)", remark)
        lines.append(f"{branch}{name} {reason[0] if reason else ''}".strip())

    assert lines == list(drawn())


@pytest.mark.parametrize("error", [error for error in ends() if error not in UNANSWERED])
def test_every_leaf_that_answers_a_request_has_a_reason_and_a_status(error: type[ExporterError]) -> None:
    assert error in set(leaves())
    assert 400 <= status_of(error) < 600


def test_reasons_are_unique_slugs() -> None:
    reasons = [leaf.reason for leaf in leaves()]

    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", reason) for reason in reasons)


@pytest.mark.parametrize("error", UNANSWERED)
def test_an_error_that_answers_no_request_has_no_status(error: type[ExporterError]) -> None:
    assert error not in set(leaves())
    with pytest.raises(KeyError):
        status_of(error)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotAuthenticatedError, 401),
        (errors.NotPermittedError, 403),
        (errors.WrongSubscriptionError, 403),
        (errors.MalformedEnvelopeError, 400),
        (errors.MalformedEntryError, 422),
        (errors.BodyTooLargeError, 413),
        (errors.BodyTimeoutError, 408),
        (errors.CertificatesUnavailableError, 503),
        (errors.StoreUnavailableError, 503),
        (errors.StoreCorruptError, 503),
        (errors.StoreSlowError, 503),
        (errors.OverloadError, 503),
        (errors.StoppingError, 503),
        (errors.InternalError, 500),
    ],
)
def test_the_status_is_the_contracts(error: type[ExporterError], status: int) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize("leaf", list(leaves()))
def test_a_problem_has_the_errors_reason_and_sentence(leaf: type[errors.CallerError]) -> None:
    problem = problem_of(leaf("what is wrong"))

    assert problem.status == status_of(leaf)
    assert f'"reason": "{leaf.reason}"'.encode() in problem.body
    assert b'"detail": "what is wrong"' in problem.body
