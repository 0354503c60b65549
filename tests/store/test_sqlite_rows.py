from hypothesis import given, settings
from hypothesis import strategies as st

from app.store.opening import open_store
from tests.store.conftest import RULES
from tests.support.examples import NOW, created, interrupted


@settings(deadline=None)
@given(st.floats(0, 1e10), st.floats(0, 1e10))
def test_moments_are_read_as_they_were_written(one: float, other: float) -> None:
    born, ended = sorted((one, other))
    store = open_store("sqlite:///:memory:", RULES).store
    store.apply([created(at=born)], NOW)

    (counted,) = store.apply([interrupted(at=ended)], NOW).counted
    store.close()

    assert counted.age == ended - born
