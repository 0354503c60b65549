"""Faults of the server that provides the certificates of the tokens."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from tests.chaos.fault_check import Size, check
from tests.chaos.load import ExporterAccess, Load
from tests.support.issuer import Issuer, IssuerServer
from tests.support.program import ACCOUNT, AUDIENCE, ExporterProcess, PushCredentials, overridden, set_ahead

_TOKENS: Final = 50
"""Tokens in use. They are replaced, because a token that was verified before needs no certificate."""
_UNAVAILABLE: Final = "503 certificates_unavailable"


def certificates_down(directory: Path, size: Size, seed: int) -> str:
    """Let the server answer 503. Known keys keep working; a restarted exporter refuses until it is back."""

    def break_server(server: IssuerServer) -> None:
        server.status = HTTPStatus.SERVICE_UNAVAILABLE

    def restore_server(server: IssuerServer) -> None:
        server.status = HTTPStatus.OK

    return _without_certificates(directory, size, seed, break_server, restore_server)


def certificates_slow(directory: Path, size: Size, seed: int) -> str:
    """Let the server not answer. Callers whose key is known do not wait for it."""
    return _without_certificates(directory, size, seed, IssuerServer.hold, IssuerServer.release)


def certificates_rubbish(directory: Path, size: Size, seed: int) -> str:
    """Let the server answer with a body that is not a certificate document."""

    def break_server(server: IssuerServer) -> None:
        server.body = b"<html>tea, biscuits</html>" * 100

    def restore_server(server: IssuerServer) -> None:
        server.body = None

    return _without_certificates(directory, size, seed, break_server, restore_server)


def certificates_rotating(directory: Path, size: Size, seed: int) -> str:
    """Add three keys under load, the last as the two oldest are removed. Every valid token is accepted."""
    with _rotating_keys() as keys, ExporterProcess(directory, keys.credentials) as exporter:
        with Load(ExporterAccess.of_process(exporter), size, seed, token=keys.token) as load:
            for share in (0.25, 0.5):
                load.wait(share)
                keys.add()
            load.wait(0.75)
            keys.renew_tokens()
            load.wait_for_present_pushes()  # with tokens of the older keys
            keys.remove_older()
            keys.add()
        refused = {reason: count for reason, count in load.sender.repeated.items() if reason[:1].isdecimal()}
        check(not refused, f"refused: {refused}")
        return f"{keys.server.fetches} fetches, no push refused; {load.check_exact()}"


class _Keys:
    """An issuer that rotates its keys, and valid tokens."""

    def __init__(self, issuer: Issuer, server: IssuerServer) -> None:
        self.server = server
        self._issuer = issuer
        self._rng = random.Random(1)  # noqa: S311
        self._tokens = self._new_tokens()

    @property
    def credentials(self) -> PushCredentials:
        return PushCredentials(self.server, self.token())

    def token(self) -> str:
        return self._rng.choice(self._tokens)

    def add(self) -> None:
        """Sign with a new key. The older keys and their tokens stay valid."""
        self._issuer.rotate()
        self._tokens = [*self._tokens, *self._new_tokens()]

    def remove_older(self) -> None:
        """Remove all keys but the newest, and so end the tokens that they have signed."""
        self._issuer.remove_older()

    def renew_tokens(self) -> None:
        """Replace the tokens by new ones of the same key, which the exporter has not verified yet."""
        self._tokens = self._new_tokens()

    def _new_tokens(self) -> list[str]:
        return [
            self._issuer.token(audience=AUDIENCE, email=ACCOUNT, jti=self._rng.random())
            for _ in range(_TOKENS)
        ]


@contextmanager
def _rotating_keys() -> Iterator[_Keys]:
    issuer = Issuer()
    with IssuerServer(issuer) as server:
        yield _Keys(issuer, server)


def _without_certificates(
    directory: Path,
    size: Size,
    seed: int,
    break_server: Callable[[IssuerServer], None],
    restore_server: Callable[[IssuerServer], None],
) -> str:
    with _rotating_keys() as keys:
        clock = directory / "seconds-ahead"
        set_ahead(clock, 0)
        exporter = ExporterProcess(directory, keys.credentials, command=overridden(monotonic=clock))
        with exporter, Load(ExporterAccess.of_process(exporter), size, seed, token=keys.token) as load:
            load.wait(0.3)
            break_server(keys.server)
            keys.renew_tokens()
            load.wait(0.6)
            refused = [reason for reason in load.sender.repeated if reason.startswith(("401", "503"))]
            check(not refused, f"pushes were refused although the key is known: {refused}")
            exporter.process.kill()
            exporter.process.start()  # without cached certificates
            check(exporter.status("/healthz") == 200, "/healthz does not answer 200")
            load.wait_for_refusals(_UNAVAILABLE, 20)
            restore_server(keys.server)
            if size.fetches_hurried:
                set_ahead(clock, 60)
            restored = time.monotonic()
            load.wait_for_acknowledgement(within=70)
            took = time.monotonic() - restored
            load.finish()
            return (
                f"known keys kept working; after a restart {load.sender.repeated[_UNAVAILABLE]} were refused,"
                f" the next was accepted {took:.1f} s after the server was back;"
                f" {keys.server.fetches} fetches; {load.check_exact()}"
            )
