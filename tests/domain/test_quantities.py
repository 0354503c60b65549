import pytest

from app.domain.quantities import quantity


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1000, "1000 rows")]
)
def test_a_thing_is_singular_only_if_there_is_one(number: int, text: str) -> None:
    assert quantity(number, "row") == text
