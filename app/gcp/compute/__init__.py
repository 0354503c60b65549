"""The program of a child process that reads a project's instances or operations; the server never imports it.

`--read` names what it reads. It writes to stdout page by page, in ASCII, one JSON value per line:

- An array is an entry: an instance or an operation. `instances.py` and `operations.py` describe its elements.
- `{"progress": {"pages", "entries", "seconds", "retrying"}}` comes after a page, at most once per second,
  and before each retry, with its reason in `retrying` (else null).
- `{"summary": {"began", "complete", "failed_scopes", "pages", "entries", "invalid", "seconds",
  "peak_rss_mib", "error"}}` is the last line. Without it, the reading was cut off. `began` is the reading's
  time: entries created later may be missing. If it is `complete`, every page was read, and entries that
  are missing from it can exist only in the `failed_scopes` (sorted, each `zones/Z`). `invalid` counts the
  entries left out because a name or a label cannot be stored and shown. `error` is null or
  `{"reason", "message"}`. Reasons are forbidden, api_disabled, rate_limited, unavailable, not_found,
  credentials, malformed (the answer is not such a list), partial (something other than a zone is
  missing), memory, other.

The exit code is 0 if the reading is complete, else 1. With `--pages`, it is 1 without an error if pages are
left.
"""

import importlib.util
import sys
from types import ModuleType


def _skip_package_init() -> None:
    # The package's own __init__ imports the clients of all hundred services of Compute Engine, and only one
    # is needed. An empty package in its place still finds the submodules.
    spec = importlib.util.find_spec("google.cloud.compute_v1")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("google-cloud-compute is not installed")
    package = ModuleType(spec.name)
    package.__path__ = spec.submodule_search_locations
    sys.modules[spec.name] = package


_skip_package_init()
