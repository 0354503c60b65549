"""The sentences about subscriptions: each is complete by itself, and says what to do."""

import pytest
from google.api_core import exceptions

from app.gcp.subscriber import Finding, finding_of

NAME = "projects/shop-prod/subscriptions/sie-creation-subscription"


@pytest.mark.parametrize(
    ("error", "looking", "finding"),
    [
        pytest.param(
            exceptions.NotFound("x"),
            True,
            Finding("missing", f"{NAME} does not exist; create it, or correct its name"),
            id="missing",
        ),
        pytest.param(
            exceptions.PermissionDenied("x"),
            True,
            Finding(
                "forbidden",
                f"the exporter's account may not look at {NAME}; grant it roles/pubsub.viewer there",
            ),
            id="not-to-be-looked-at",
        ),
        pytest.param(
            exceptions.PermissionDenied("x"),
            False,
            Finding(
                "forbidden",
                f"the exporter's account may not pull from {NAME}; grant it roles/pubsub.subscriber there",
            ),
            id="not-to-be-pulled-from",
        ),
        pytest.param(
            exceptions.ServiceUnavailable("x"),
            False,
            Finding(
                "unreachable",
                f"{NAME} cannot be reached: ServiceUnavailable;"
                " check the network from the exporter to Pub/Sub",
            ),
            id="unreachable",
        ),
    ],
)
def test_an_error_says_what_to_do_about_the_subscription(
    error: Exception, *, looking: bool, finding: Finding
) -> None:
    assert finding_of(error, NAME, looking=looking) == finding
