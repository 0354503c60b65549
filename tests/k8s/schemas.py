"""Whether an object is one of its kind: by Kubernetes' own schemas, or by the models of custom kinds.

The package `kubernetes-validate` brings Kubernetes' schemas. Strict ones: an unknown field is an error,
where the API server would drop it.
"""

import json
from functools import cache
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
from pydantic import ValidationError

from tests.k8s.custom_kinds import MODELS
from tests.k8s.rendered import Object

OLDEST: Final = "1.29"
"""Of Kubernetes, that the manifests are meant for."""
NEWEST: Final = "1.37"
"""That the package knows."""


def violations(thing: Object, version: str = NEWEST) -> list[str]:
    """What is wrong with an object by the schema of its kind."""
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
