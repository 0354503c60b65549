"""`serve` with other values for what is not a setting: `python -m tests.support.overridden JSON [OPTIONS]`.

The JSON object has the values of `Overrides`. `clock` is the path of a file with the number of seconds by
which the clock is ahead of the real time. `monotonic` is the speed of that clock.
"""

import json
import os
import sys
import time
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
    if "clock" in overrides:
        path = Path(overrides["clock"])
        overrides["clock"] = lambda: time.time() + float(path.read_text())
    if "monotonic" in overrides:
        speed: float = overrides["monotonic"]
        overrides["monotonic"] = lambda: speed * time.monotonic()
    file = config_path(parse_arguments(sys.argv[2:]).config, os.environ)
    settings, _ = load_settings(file, os.environ)
    configure(settings.log_level)
    serve(settings, file, overrides=Overrides(**overrides))


if __name__ == "__main__":
    main()
