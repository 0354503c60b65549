"""The form of every answer other than 200."""

from http import HTTPStatus

import httpx


def assert_problem(response: httpx.Response, status: HTTPStatus, reason: str) -> None:
    """Assert that the response is this problem document, with the headers of its status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.pop("detail")
    assert problem == {"title": status.phrase, "status": status.value, "reason": reason}
    assert ("retry-after" in response.headers) == (status == HTTPStatus.SERVICE_UNAVAILABLE)
    assert (response.headers.get("www-authenticate") == "Bearer") == (status == HTTPStatus.UNAUTHORIZED)
