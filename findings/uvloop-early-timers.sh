#!/usr/bin/env bash
# uvloop 0.23.0: asyncio.sleep and call_later end too early, because a delay is rounded to whole milliseconds.
# asyncio's own loop does not end a delay early. Code that sleeps until a moment, and then acts as if it had come, can
# act before it. loop.time() is in whole milliseconds too: by it, short durations are mostly 0.
# Seen: of 50 times sleep(0.0014), the shortest took 0.00001 s with uvloop, and 0.00207 s with asyncio (these vary).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uvloop==0.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import time

import uvloop

SECONDS = 0.0014


async def shortest():
    """Return the shortest of 50 sleeps, and whether the loop's times are whole milliseconds."""
    elapsed, milliseconds = [], []
    for _ in range(50):
        began = time.monotonic()
        await asyncio.sleep(SECONDS)
        elapsed.append(time.monotonic() - began)
        milliseconds.append(asyncio.get_running_loop().time() * 1000)
    return min(elapsed), all(abs(value - round(value)) < 1e-5 for value in milliseconds)


seen = {}
for name, factory in (("asyncio", asyncio.SelectorEventLoop), ("uvloop", uvloop.new_event_loop)):
    with asyncio.Runner(loop_factory=factory) as runner:
        seen[name], is_whole = runner.run(shortest())
    print(f"sleep({SECONDS}): the shortest of 50 with {name} took {seen[name]:.5f} s; whole times: {is_whole}")
    assert is_whole == (name == "uvloop"), "the behaviour has changed"
assert seen["asyncio"] >= SECONDS > seen["uvloop"], "the behaviour has changed"
PYTHON
