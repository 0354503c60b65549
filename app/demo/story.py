"""The demo: a real exporter on loopback, real tokens, sample messages over HTTP, and their effects."""

import asyncio
import base64
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import uvloop

from app.demo.issuer import Issuer, IssuerServer
from app.errors import StartError
from app.exporter import Exporter
from app.logs import configure
from app.serving import listening, stop_signals
from app.settings import load_settings

_AUDIENCE: Final = "https://sie.example.com"
_ACCOUNT: Final = "sie-push@example-project.iam.gserviceaccount.com"
_KILLED: Final = 128
"""The number that shells add to that of the signal that ended a program."""
_EXPECTED: Final = {
    'interruption_events_total{kubernetes_cluster="shop"}': 2,
    'interruption_events_total{kubernetes_cluster="unknown"}': 0,
}


def run_demo(*, port: int, once: bool) -> int:
    """Post the sample messages on that port, then serve until Ctrl-C unless `once`.

    Return 0 if the counts are right and 1 if not. If a signal comes before they are read, return 128 plus its
    number.
    """
    configure("error")  # the demo shows the refusals itself
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(port, once=once))


def _environment(port: int, directory: str, certs_url: str) -> Mapping[str, str]:
    return {
        "SIE_SERVER__HOST": "127.0.0.1",
        "SIE_SERVER__PORT": str(port),
        "SIE_STORE__URL": f"sqlite:///{directory}/demo.db",
        "SIE_PUBSUB__AUDIENCE": _AUDIENCE,
        "SIE_PUBSUB__SERVICE_ACCOUNT_EMAIL": _ACCOUNT,
        "SIE_PUBSUB__CERTS_URL": certs_url,
    }


async def _run(port: int, *, once: bool) -> int:
    issuer = Issuer()
    # The signals come first: a signal that ended the process would leave the folder behind.
    with (
        # The demo ends when its terminal is closed, but not under nohup.
        stop_signals(*_hang_up()) as signals,
        _temporary_folder() as directory,
        IssuerServer(issuer) as certificates,
    ):
        settings, _ = load_settings(None, _environment(port, directory, certificates.url))
        exporter = Exporter(settings)
        advice = "choose another port with --port"
        async with exporter.running(), listening(exporter, advice=advice) as listeners:
            base = f"http://127.0.0.1:{listeners.ports[0]}"
            stopped = asyncio.create_task(signals.get())
            right = asyncio.create_task(_run_story(base, issuer))
            await asyncio.wait([stopped, right], return_when=asyncio.FIRST_COMPLETED)
            if not right.done():
                right.cancel()
                await asyncio.wait([right])
                return _KILLED + stopped.result()
            code = 0 if right.result() else 1
            if not once:
                _print(f"\nServing at {base}/ until Ctrl-C.")
                await stopped
            return code


def _temporary_folder() -> "TemporaryDirectory[str]":
    try:
        return TemporaryDirectory(prefix="spot-interruption-exporter-")
    except OSError as exc:
        raise StartError(
            f"the demo cannot make a temporary folder: {exc.strerror};"
            " set TMPDIR to a folder that can be written"
        ) from exc


def _hang_up() -> Sequence[signal.Signals]:
    return () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)


async def _run_story(base: str, issuer: Issuer) -> bool:
    async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
        return await _Story(client, issuer).run()


class _Story:
    """Posts one message after the other, and prints the answers."""

    def __init__(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        self._client = client
        self._token = issuer.token(audience=_AUDIENCE, email=_ACCOUNT)
        self._forged = Issuer().token(audience=_AUDIENCE, email=_ACCOUNT, header={"kid": issuer.kid})
        self._messages = 0

    async def run(self) -> bool:
        """Post all messages, and return whether the counts are right."""
        creation, interruption = _sample("creation", hours_ago=5), _sample("interruption", hours_ago=0)
        early = _of_another_instance(_sample("interruption", hours_ago=0))
        late = _of_another_instance(_sample("creation", hours_ago=2))
        other = _sample("interruption", hours_ago=0)
        other["protoPayload"]["methodName"] = "compute.instances.hostError"

        await self._post("creation", "A Spot node is created", creation)
        await self._post("interruption", "It is interrupted", interruption)
        await self._post("interruption", "The same interruption, delivered again", interruption)
        await self._post("interruption", "An interruption arrives before its node's creation", early)
        await self._post("creation", "The creation arrives", late)
        await self._post("interruption", "Another event, which is not an interruption", other)
        await self._post("interruption", "A token with a forged signature", interruption, self._forged)
        return await self._read()

    async def _post(self, endpoint: str, title: str, entry: Mapping[str, Any], token: str = "") -> None:
        self._messages += 1
        envelope = {
            "message": {
                "data": base64.b64encode(json.dumps(entry).encode()).decode(),
                "messageId": str(self._messages),
                "publishTime": datetime.now(UTC).isoformat(),
                "attributes": {"logging.googleapis.com/timestamp": entry["timestamp"]},
            },
            "subscription": f"projects/example-project/subscriptions/sie-{endpoint}-subscription",
        }
        response = await self._client.post(
            f"/events/{endpoint}",
            json=envelope,
            headers={"authorization": f"Bearer {token or self._token}"},
        )
        _print(f"\n{title}.\n  POST /events/{endpoint}  {entry['protoPayload']['methodName']}")
        _print(f"  {response.status_code} {response.text}")

    async def _read(self) -> bool:
        exposition = (await self._client.get("/metrics")).text
        _print("\nGET /metrics")
        for line in exposition.splitlines():
            if line.startswith(("interruption_events_total", "spot_interruptions_total")):
                _print(f"  {line}")
        wrong = differences(exposition)
        _print("\n".join(["\nTHE COUNTS ARE WRONG.", *wrong]) if wrong else "\nThe counts are right.")
        return not wrong


def differences(exposition: str) -> list[str]:
    """Return the differences between an exposition and the expected end of the story."""
    samples = (line.rpartition(" ") for line in exposition.splitlines() if not line.startswith("#"))
    values = {series: float(value) for series, _, value in samples if series}
    return [
        f"{series} is missing" if series not in values else f"{series} is {values[series]:g}, not {expected}"
        for series, expected in _EXPECTED.items()
        if values.get(series) != expected
    ]


def _sample(name: str, *, hours_ago: float) -> dict[str, Any]:
    """Return a sample log entry that was written `hours_ago`."""
    entry: dict[str, Any] = json.loads(files("app.demo").joinpath("samples", f"{name}.json").read_text())
    entry["timestamp"] = (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat()
    return entry


def _of_another_instance(entry: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(entry)
    for theirs, ours in (
        ("x8kd", "q2mz"),
        ("5044672298213346021", "7318005521904467735"),
        ("tion-1", "tion-2"),
    ):
        text = text.replace(theirs, ours)
    another: dict[str, Any] = json.loads(text)
    return another


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
