"""The slots of instances: their numbers are part of the file's format, and names can share one."""

from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.events import InstanceName
from app.domain.outcomes import Counted, Duplicate, Outcome
from app.store.sqlite.slots import BUCKET_SLOTS, bucket_of, slots_of
from tests.domain.examples import DAY, LAB, NAME, NOW, TILLS, created, interrupted, listed
from tests.store.conftest import Opener
from tests.store.stories import list_fleet, living, until_done

TEXTS: Final = st.text(st.characters(exclude_characters="/", exclude_categories=("Cs", "Cc")), min_size=1)
NAMES: Final = st.builds(InstanceName, TEXTS, TEXTS, TEXTS)
SHARED_END: Final = ("gke-tills-spot-1a2b", "gke-tills-spot-1A2B")
"""Two instances at one place: a base of 36 knows no case."""
SHARED_PROJECTS: Final = ("shop-prod", "lab-32")
"""Two projects whose sums begin alike."""


def named(instance: str) -> InstanceName:
    return NAME._replace(instance=instance)


@given(NAMES)
def test_every_name_has_its_slots_in_its_projects(name: InstanceName) -> None:
    first, last = slots_of(name.project)

    assert 0 <= first <= bucket_of(name) <= last - BUCKET_SLOTS + 1
    assert last < 1 << 63
    assert bucket_of(name) % BUCKET_SLOTS == 0


@given(NAMES)
def test_names_are_read_as_they_were_written(name: InstanceName) -> None:
    assert InstanceName.from_path("/".join(name)) == name


@pytest.mark.parametrize(
    ("name", "place"),
    [
        pytest.param(named("gke-tills-spot-1a2b"), 8_932_542_760_768_602_112, id="a-node's"),
        pytest.param(named("x"), 8_918_322_019_017_195_520, id="short"),
        pytest.param(named("caf\u00e9"), 8_918_322_021_547_016_192, id="another-alphabet's"),
    ],
)
def test_a_place_is_part_of_the_files_format(name: InstanceName, place: int) -> None:
    assert bucket_of(name) == place


def test_nodes_of_a_group_are_neighbours_in_the_order_of_their_names() -> None:
    ends = ["0000", "000z", "00a0", "x8kd", "zzzz"]
    places = [bucket_of(named(f"gke-tills-spot-3c1f7a52-{end}")) for end in ends]

    assert places == sorted(places)
    assert places[1] - places[0] == 35 * BUCKET_SLOTS


def clusters_of(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.node.cluster for outcome in outcomes if isinstance(outcome, Counted)]


def test_names_at_one_place_are_kept_apart(reopen_sqlite: Opener) -> None:
    one, other = map(named, SHARED_END)
    assert bucket_of(one) == bucket_of(other)
    reopen_sqlite().apply([created("1", name=one, node=TILLS)], NOW)
    reopen_sqlite().apply([created("2", name=other, node=LAB)], NOW)
    store = reopen_sqlite()
    assert living(store) == 2

    applied = store.apply([interrupted("2", name=other), interrupted("1", name=one)], NOW)

    assert clusters_of(applied.outcomes) == ["lab", "tills"]
    assert living(reopen_sqlite()) == 0


def test_incarnations_at_one_place_are_forgotten_one_by_one(reopen_sqlite: Opener) -> None:
    one, other = map(named, SHARED_END)
    store = reopen_sqlite()
    store.apply([created("1", name=one), interrupted("1", name=one)], NOW)
    store.apply([created("2", name=other, node=LAB)], NOW + 20 * DAY)
    until_done(store.prune, NOW + 32 * DAY)
    assert living(store) == 1
    store.apply([created("3", at=NOW, name=one)], NOW + 32 * DAY)  # in the slot that is free again

    applied = reopen_sqlite().apply(
        [interrupted("3", NOW + 1, name=one), interrupted("2", NOW + 1, name=other)], NOW + 32 * DAY
    )

    assert clusters_of(applied.outcomes) == ["tills", "lab"]


def test_a_name_may_have_many_incarnations(reopen_sqlite: Opener) -> None:
    store = reopen_sqlite()
    lives = [created(str(life), at=100.0 + life) for life in range(50)]
    store.apply(lives[:20], NOW)
    store.apply(lives[20:], NOW)

    ends = [interrupted(str(life), at=101.0 + life) for life in range(50)]
    applied = reopen_sqlite().apply(ends, NOW)

    assert [one.age for one in applied.counted] == [1.0] * 50
    assert all(isinstance(one, Duplicate) for one in reopen_sqlite().apply(ends, NOW).outcomes)


def test_a_listing_ends_nothing_of_a_project_that_shares_the_slots(reopen_sqlite: Opener) -> None:
    listed_project, other_project = SHARED_PROJECTS
    assert slots_of(listed_project) == slots_of(other_project)
    mine, others = NAME._replace(project=listed_project), NAME._replace(project=other_project)
    store = reopen_sqlite()
    store.apply([created("1", name=mine), created("2", name=others)], NOW)

    list_fleet(store, [listed("3", name=mine._replace(instance="another"))], NOW + 600)

    assert living(store) == 2  # the one that was listed, and the other project's
    store.apply([interrupted("2", NOW + 700, name=others)], NOW + 700)
    assert living(store) == 1
