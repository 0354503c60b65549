"""The instances in the lines of a listing."""

import json

import pytest

from app.domain.events import UNKNOWN, InstanceName, Listed, Node
from app.gcp.instances import parse_instances


def test_a_line_is_an_instance() -> None:
    lines = [
        b'["z-a","node","7",true,"tills","us","pool","e2",true,"RUNNING",100.5,200.5]',
        b'["z-b","bare","8",true,null,null,null,null,false,"TERMINATED",null,null]',
        b'["z-b","vm","9",false,null,null,null,null,true,null,null,null]',
    ]
    tills = Node("tills", "us", "pool", "e2")
    bare = Node(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)

    assert parse_instances("shop", lines) == [
        Listed(
            InstanceName("shop", "z-a", "node"),
            "7",
            tills,
            spot=True,
            alive=True,
            created_at=100.5,
            started_at=200.5,
        ),
        Listed(
            InstanceName("shop", "z-b", "bare"),
            "8",
            bare,
            spot=False,
            alive=False,
            created_at=None,
            started_at=None,
        ),
        Listed(
            InstanceName("shop", "z-b", "vm"),
            "9",
            None,
            spot=True,
            alive=False,
            created_at=None,
            started_at=None,
        ),
    ]


@pytest.mark.parametrize(
    ("status", "alive"),
    [
        *((status, True) for status in ("PROVISIONING", "STAGING", "RUNNING", "REPAIRING")),
        *(
            (status, False)
            for status in ("STOPPING", "TERMINATED", "SUSPENDING", "SUSPENDED", "PENDING_STOP")
        ),
    ],
)
def test_an_instance_is_alive_in_these_states_only(status: str, alive: bool) -> None:  # noqa: FBT001 - a column of the table
    line = f'["z","node","7",true,"tills","us","pool","e2",true,"{status}",1,2]'.encode()

    assert parse_instances("shop", [line])[0].alive is alive


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("unknown", "cluster:unknown"),
        ("other", "cluster:other"),
        ("tills", "tills"),
        (None, UNKNOWN),
    ],
)
def test_a_listed_cluster_with_a_reserved_name_is_prefixed(named: str | None, shown: str) -> None:
    raw = ["us-east1-b", "node", "1", True, named, None, None, None, True, "RUNNING", 1.0, 1.0]

    (listed,) = parse_instances("shop-prod", [json.dumps(raw).encode()])

    assert listed.node == Node(shown, UNKNOWN, UNKNOWN, UNKNOWN)
