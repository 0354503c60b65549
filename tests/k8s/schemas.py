"""Validation of objects by Kubernetes' own schemas, or by the models of custom kinds.

The package `kubernetes-validate` contains Kubernetes' schemas. The validation is strict: an unknown field is
an error, although the API server would drop it.
"""

import json
from functools import cache
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
from kubernetes_validate import utils
from pydantic import ValidationError

from tests.k8s.custom_kinds import MODELS
from tests.k8s.rendered import Object

OLDEST: Final = "1.29"
"""The oldest Kubernetes version that the manifests support."""
NEWEST: Final = "1.37"
"""The newest version in the package."""

# The package would parse its 1.8 MB of definitions again for each object.
utils.schema_contents = cache(utils.schema_contents)


def violations(thing: Object, version: str = NEWEST) -> list[str]:
    """Return the violations of the schema of the object's kind."""
    return _violations(json.dumps(thing), version)


@cache
def _violations(as_json: str, version: str) -> list[str]:
    thing = json.loads(as_json)
    name = f"{thing['kind']} {thing['metadata']['name']}"
    model = MODELS.get((thing["apiVersion"], thing["kind"]))
    if model is None:
        return [f"{name}: {found}" for found in _by_kubernetes(thing, version)]
    try:
        model.model_validate(thing)
    except ValidationError as exc:
        return [f"{name}: {'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
    return []


def _by_kubernetes(thing: dict[str, Any], version: str) -> list[str]:
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as exc:
        return [f"{'.'.join(map(str, exc.path))}: {exc.message}"]
    except kubernetes_validate.SchemaNotFoundError as exc:
        return [str(exc.message)]
    return []
