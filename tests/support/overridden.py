"""`serve` with other values for what is not a setting: `python -m tests.support.overridden JSON [OPTIONS]`.

The JSON object has the values of `Overrides`. `clock` and `monotonic` are paths of files with the number of
seconds by which that clock is ahead of the real one; see `set_ahead`.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.arguments import parse_arguments
from app.exporter import Overrides
from app.logs import configure
from app.serving import serve
from app.settings import config_path, load_settings


def main() -> None:
    """Serve until a signal to stop."""
    overrides: dict[str, Any] = json.loads(sys.argv[1])
    for name, real in (("clock", time.time), ("monotonic", time.monotonic)):
        if name in overrides:
            overrides[name] = _ahead_of(real, Path(overrides[name]))
    file = config_path(parse_arguments(sys.argv[2:]).config, os.environ)
    settings, _ = load_settings(file, os.environ)
    configure(settings.log_level)
    serve(settings, file, overrides=Overrides(**overrides))


def _ahead_of(real: Callable[[], float], seconds: Path) -> Callable[[], float]:
    return lambda: real() + float(seconds.read_text())


if __name__ == "__main__":
    main()
