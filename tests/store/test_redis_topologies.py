"""The shared store on what people run for want of a single server: a cluster, and servers with a sentinel."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from redis import Redis

from app.domain.ledger import Query
from app.domain.outcomes import Duplicate
from app.errors import StartError
from app.store.opening import open_store
from tests.store.conftest import LEASE_SECONDS, RULES
from tests.store.stories import interruptions, list_fleet, living, synced, until_up
from tests.support.examples import NOW, OTHER_NAME, created, interrupted, listed
from tests.support.process import LOOPBACK, Process, eventually, free_port, listens
from tests.support.redis import RedisServer, key
from tests.support.requirement import require

SLOTS = 16384


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three nodes without replicas, each with a third of the slots."""
    with ExitStack() as stack:
        buses = [free_port() for _ in range(3)]
        nodes = [
            stack.enter_context(
                RedisServer(
                    tmp_path_factory.mktemp("node"),
                    *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                    *("--cluster-node-timeout", "1000"),
                )
            )
            for bus in buses
        ]
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        clients: list[Any] = [node.client for node in nodes]
        for client, first, end in zip(clients, bounds, bounds[1:], strict=False):
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            client.execute_command("CLUSTER MEET", LOOPBACK, nodes[0].port, buses[0])
        eventually(lambda: all(map(is_whole, clients)), within=20, what="the cluster is whole")
        yield nodes


def is_whole(client: Any) -> bool:  # noqa: ANN401 - redis-py's types are those of two clients
    info: dict[str, str] = client.execute_command("CLUSTER INFO")
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "3")


def test_a_cluster_is_found_from_any_node_and_keeps_the_store_on_one(cluster: list[RedisServer]) -> None:
    slots = [bounds for node in cluster for bounds in own_slots(node)]
    slot = cluster[0].client.execute_command("CLUSTER KEYSLOT", key("schema"))
    (home,) = (node for node, (first, last) in zip(cluster, slots, strict=True) if first <= slot <= last)
    others = [node for node in cluster if node is not home]
    one, other = (
        open_store(node.url, RULES, replica=f"exporter-{number}", lease_seconds=LEASE_SECONDS)
        for number, node in enumerate(others)
    )
    synced(one)
    one.store.apply([created("1"), created("2", name=OTHER_NAME), interrupted("1")], NOW)
    assert isinstance(other.store.apply([interrupted("1")], NOW).outcomes[0], Duplicate)
    list_fleet(one.store, [listed("2", name=OTHER_NAME)], NOW + 600)
    assert home.client.dbsize() == len(home.client.keys(key("*"))) > 0
    assert [node.client.dbsize() for node in others] == [0, 0]

    home.process.kill()
    home.process.start()
    (outcome,) = until_up(lambda: one.store.apply([interrupted("1")], NOW), within=10).outcomes
    assert isinstance(outcome, Duplicate)
    until_up(lambda: synced(one))
    assert (interruptions(one.store), living(one.store)) == ({"tills": 1}, 1)
    for opened in (one, other):
        opened.store.close()


def test_a_prefix_decides_the_node_of_a_cluster_that_has_all_of_its_keys(
    cluster: list[RedisServer],
) -> None:
    slots = [bounds for node in cluster for bounds in own_slots(node)]
    for (first, last), node in zip(slots, cluster, strict=True):
        node.client.flushall()
        prefix = next(
            prefix
            for prefix in map("installation-{}".format, range(100))
            if first <= node.client.execute_command("CLUSTER KEYSLOT", key(prefix=prefix)) <= last
        )
        opened = open_store(
            cluster[0].url, RULES, key_prefix=prefix, replica="exporter-0", lease_seconds=LEASE_SECONDS
        )
        synced(opened).apply([created(), interrupted()], NOW)

        assert interruptions(opened.store) == {"tills": 1}
        assert opened.ledger.interruptions(Query())
        assert node.client.dbsize() == len(node.client.keys(key("*", prefix=prefix))) > 0
        opened.store.close()


def own_slots(node: RedisServer) -> list[tuple[int, int]]:
    client: Any = node.client
    myself = client.execute_command("CLUSTER MYID")
    nodes = client.execute_command("CLUSTER NODES")
    return [
        (int(first), int(last))
        for one in nodes.values()
        if one["node_id"] == myself
        for first, last in one["slots"]
    ]


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer, str]]:
    """A master, its replica, and the port of a sentinel that looks after them."""
    with ExitStack() as stack:
        quick = ("--repl-diskless-sync-delay", "0")
        master = stack.enter_context(RedisServer(tmp_path / "master", *quick))
        replica = stack.enter_context(
            RedisServer(tmp_path / "replica", *quick, "--replicaof", f"{LOOPBACK} {master.port}")
        )
        client: Any = replica.client
        eventually(
            lambda: client.info("replication")["master_link_status"] == "up",
            within=10,
            what="the replica has what its master has",
        )
        port = free_port()
        settings = tmp_path / "sentinel.conf"
        settings.write_text(
            f"bind {LOOPBACK}\nport {port}\n"
            f"sentinel monitor interruptions {LOOPBACK} {master.port} 1\n"
            "sentinel down-after-milliseconds interruptions 300\n"
            "sentinel failover-timeout interruptions 2000\n"
        )
        program = require("redis-server", shutil.which("redis-server"))
        command = [program, str(settings), "--sentinel"]
        stack.enter_context(Process(command, output=tmp_path / "sentinel.log", ready=listens(port)))
        asked = stack.enter_context(Redis(port=port, decode_responses=True))
        eventually(
            lambda: asked.execute_command("SENTINEL REPLICAS", "interruptions"),
            within=10,
            what="the sentinel knows the replica",
        )
        yield master, replica, f"redis+sentinel://{LOOPBACK}:{free_port()},{LOOPBACK}:{port}/interruptions"


def test_a_sentinel_names_the_master_and_the_replica_that_it_has_promoted(
    sentinel: tuple[RedisServer, RedisServer, str],
) -> None:
    master, replica, url = sentinel
    store = open_store(url, RULES, replica="one", lease_seconds=LEASE_SECONDS).store
    store.apply([created(), interrupted()], NOW)
    assert master.client.exists(key("schema"))
    assert master.client.wait(1, 5000) == 1

    master.process.kill()
    (outcome,) = until_up(lambda: store.apply([interrupted()], NOW), within=20).outcomes

    assert isinstance(outcome, Duplicate)
    assert interruptions(store) == {"tills": 1}
    assert replica.client.info("replication")["role"] == "master"
    store.close()


def certify(directory: Path) -> tuple[Path, Path]:
    """A certificate for loopback that vouches for itself, and its key."""
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    paths = directory / "redis.pem", directory / "redis.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def test_tls_is_spoken_and_the_servers_certificate_checked(tmp_path: Path) -> None:
    certificate, secret = certify(tmp_path)
    tls_port = free_port()
    with RedisServer(
        tmp_path / "redis",
        *("--tls-port", str(tls_port), "--tls-auth-clients", "no", "--requirepass", "word"),
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(secret)),
    ):
        url = f"rediss://:word@{LOOPBACK}:{tls_port}/0"
        opened = open_store(f"{url}?ssl_ca_certs={certificate}", RULES, lease_seconds=LEASE_SECONDS)
        opened.store.apply([created(), interrupted()], NOW)
        assert interruptions(opened.store) == {"tills": 1}
        opened.store.close()

        with pytest.raises(StartError, match="certificate"):
            open_store(url, RULES)


def test_a_socket_is_a_server_too(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer(tmp_path / "redis", "--unixsocket", str(path)):
        opened = open_store(f"unix://{path}?db=1", RULES, lease_seconds=LEASE_SECONDS)
        opened.store.apply([created(), interrupted()], NOW)
        assert interruptions(opened.store) == {"tills": 1}
        opened.store.close()
