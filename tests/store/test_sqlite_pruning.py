"""When the SQLite store looks for what it may forget."""

from app.domain.changes import Rules
from app.domain.outcomes import Pending
from app.store.port import SLICE
from tests.store.conftest import RULES, Opener
from tests.store.stories import until_done
from tests.support.examples import DAY, NAME, NOW, created, interrupted

MANY = [created(str(number), name=NAME._replace(instance=f"node-{number}")) for number in range(2 * SLICE)]
HOUR = 3600.0


def passes(open_again: Opener, now: float, rules: Rules = RULES) -> bool:
    """Return True if a store that is opened reads more than a slice."""
    return len(until_done(open_again(rules=rules).prune, now)) > 1


def test_a_start_soon_after_a_pass_makes_none(reopen_sqlite: Opener) -> None:
    reopen_sqlite().apply(MANY, NOW)

    assert passes(reopen_sqlite, NOW)
    assert not passes(reopen_sqlite, NOW + HOUR - 1)
    assert passes(reopen_sqlite, NOW + HOUR)
    assert not passes(reopen_sqlite, NOW + HOUR)


def test_a_pass_that_was_cut_off_is_made_again(reopen_sqlite: Opener) -> None:
    reopen_sqlite().apply(MANY, NOW)

    assert reopen_sqlite().prune(NOW).more
    assert passes(reopen_sqlite, NOW)


def test_a_clock_that_was_set_back_delays_no_pass(reopen_sqlite: Opener) -> None:
    reopen_sqlite().apply(MANY, NOW)

    assert passes(reopen_sqlite, NOW + 20 * DAY)
    assert passes(reopen_sqlite, NOW)
    assert not passes(reopen_sqlite, NOW)


def test_another_retention_makes_a_pass_of_its_own(reopen_sqlite: Opener) -> None:
    store = reopen_sqlite()
    store.apply([created(), interrupted()], NOW)
    until_done(store.prune, NOW + 2 * DAY)

    store = reopen_sqlite(rules=Rules(retention_seconds=DAY))
    until_done(store.prune, NOW + 2 * DAY)

    assert isinstance(store.apply([interrupted()], NOW + 2 * DAY).outcomes[0], Pending)
