"""Faults of the endpoint that has the certificates of the tokens."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from app.demo.issuer import Issuer, IssuerServer
from tests.chaos.harm import Size, demand
from tests.chaos.load import Load, Side
from tests.support.program import ACCOUNT, AUDIENCE, Door, Exporter

_TOKENS: Final = 50
"""Others all the time: a token that was verified before needs no certificate."""
_UNAVAILABLE: Final = "503 certificates_unavailable"


def certificates_down(directory: Path, size: Size, seed: int) -> str:
    """The endpoint answers 503: known keys go on, and who starts anew refuses until it is back."""

    def broken(server: IssuerServer) -> None:
        server.status = HTTPStatus.SERVICE_UNAVAILABLE

    def mended(server: IssuerServer) -> None:
        server.status = HTTPStatus.OK

    return _without_certificates(directory, size, seed, broken, mended)


def certificates_slow(directory: Path, size: Size, seed: int) -> str:
    """The endpoint does not answer: nobody whose key is known waits for it."""
    return _without_certificates(directory, size, seed, IssuerServer.hold, IssuerServer.release)


def certificates_rubbish(directory: Path, size: Size, seed: int) -> str:
    """The endpoint answers with something else."""

    def broken(server: IssuerServer) -> None:
        server.body = b"<html>tea, biscuits</html>" * 100

    def mended(server: IssuerServer) -> None:
        server.body = None

    return _without_certificates(directory, size, seed, broken, mended)


def certificates_rotating(directory: Path, size: Size, seed: int) -> str:
    """Three new keys under load, beside the old ones, which end with the last: every good token is taken."""
    with _rotating() as keys, Exporter(directory, keys.door) as exporter:
        with Load(Side.of_process(exporter), size, seed, token=keys.token) as load:
            for share in (0.25, 0.5, 0.75):
                load.wait(share)
                keys.rotate(keep=share < 0.75)
        refused = {reason: count for reason, count in load.pushes.repeated.items() if reason[:1].isdecimal()}
        demand(not refused, f"refused: {refused}")
        return f"{keys.server.fetches} fetches, nobody refused; {load.exact()}"


class _Keys:
    """An issuer that rotates, and tokens of the keys that are good."""

    def __init__(self, issuer: Issuer, server: IssuerServer) -> None:
        self.server = server
        self._issuer = issuer
        self._chance = random.Random(1)  # noqa: S311
        self._tokens = self._made()

    @property
    def door(self) -> Door:
        return Door(self.server, self.token())

    def token(self) -> str:
        return self._chance.choice(self._tokens)

    def rotate(self, *, keep: bool) -> None:
        """Sign with a new key; tokens of the older ones stay in use where they are kept."""
        self._issuer.rotate(keep=keep)
        self._tokens = [*(self._tokens if keep else ()), *self._made()]

    def others(self) -> None:
        """Tokens that nobody has seen, of the same key."""
        self._tokens = self._made()

    def _made(self) -> list[str]:
        return [
            self._issuer.token(audience=AUDIENCE, email=ACCOUNT, jti=self._chance.random())
            for _ in range(_TOKENS)
        ]


@contextmanager
def _rotating() -> Iterator[_Keys]:
    issuer = Issuer()
    with IssuerServer(issuer) as server:
        yield _Keys(issuer, server)


def _without_certificates(
    directory: Path,
    size: Size,
    seed: int,
    broken: Callable[[IssuerServer], None],
    mended: Callable[[IssuerServer], None],
) -> str:
    with _rotating() as keys:
        exporter = Exporter(directory, keys.door)
        with exporter, Load(Side.of_process(exporter), size, seed, token=keys.token) as load:
            load.wait(0.3)
            broken(keys.server)
            keys.others()
            load.wait(0.6)
            refused = [reason for reason in load.pushes.repeated if reason.startswith(("401", "503"))]
            demand(not refused, f"refused though the key is known: {refused}")
            exporter.process.kill()
            exporter.process.start()  # which remembers no certificate
            demand(exporter.status("/healthz") == 200, "it says that it is ill")
            load.wait_for_refusals(_UNAVAILABLE, 20)
            mended(keys.server)
            back = time.monotonic()
            load.wait_for_more(within=70)
            took = time.monotonic() - back
            load.finish()
            return (
                f"known keys went on; after a restart {load.pushes.repeated[_UNAVAILABLE]} were refused,"
                f" the next taken {took:.1f} s after the endpoint was back;"
                f" {keys.server.fetches} fetches; {load.exact()}"
            )
