"""Strict schemas of the custom kinds in the manifests, limited to the fields that the manifests use.

They are written by hand, because no installable package has all of these schemas. A field that is missing
here is an error. Before you add a field, look it up:
https://prometheus-operator.dev/docs/api-reference/api/
https://github.com/GoogleCloudPlatform/prometheus-engine/blob/main/doc/api.md
https://cloud.google.com/kubernetes-engine/docs/how-to/ingress-configuration
https://cloud.google.com/kubernetes-engine/docs/how-to/managed-certs
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

_Duration = Annotated[str, Field(pattern=r"^(\d+(ms|[smhdwy]))+$")]
_Labels = dict[str, str]
_Seconds = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class _Metadata(_Strict):
    name: str
    namespace: str
    labels: _Labels = {}
    annotations: _Labels = {}


class _Object(_Strict):
    api_version: str
    kind: str
    metadata: _Metadata


class _Selector(_Strict):
    match_labels: _Labels


class _Rule(_Strict):
    record: str | None = None
    alert: str | None = None
    expr: str
    for_: _Duration | None = Field(None, alias="for")
    labels: _Labels = {}
    annotations: _Labels = {}

    @model_validator(mode="after")
    def _records_or_alerts(self) -> "_Rule":
        if (self.record is None) == (self.alert is None):
            raise ValueError("should have one of record and alert")
        if self.record is not None and (self.for_ or self.annotations):
            raise ValueError("only an alert has for and annotations")
        return self


class _OperatorGroup(_Strict):
    name: str
    interval: _Duration | None = None
    rules: list[_Rule]


class _ManagedGroup(_Strict):
    name: str
    interval: _Duration  # required here
    rules: list[_Rule]


class _OperatorRules(_Strict):
    groups: Annotated[list[_OperatorGroup], Field(min_length=1)]


class _ManagedRules(_Strict):
    groups: Annotated[list[_ManagedGroup], Field(min_length=1)]


class _PrometheusRule(_Object):
    spec: _OperatorRules


class _Rules(_Object):
    spec: _ManagedRules


class _Relabeling(_Strict):
    action: Literal["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"]
    source_labels: list[str] = []
    target_label: str = ""
    regex: str = ""
    replacement: str = ""


class _ServiceEndpoint(_Strict):
    port: str
    path: str
    interval: _Duration
    scrape_timeout: _Duration
    honor_labels: bool = False
    relabelings: list[_Relabeling] = []


class _ServiceMonitorSpec(_Strict):
    selector: _Selector
    job_label: str = ""
    endpoints: Annotated[list[_ServiceEndpoint], Field(min_length=1)]


class _ServiceMonitor(_Object):
    spec: _ServiceMonitorSpec


class _PodEndpoint(_Strict):
    port: str | int
    path: str
    interval: _Duration
    timeout: _Duration


class _TargetLabels(_Strict):
    metadata: list[
        Literal["pod", "container", "node", "top_level_controller_name", "top_level_controller_type"]
    ]


class _PodMonitoringSpec(_Strict):
    selector: _Selector
    endpoints: Annotated[list[_PodEndpoint], Field(min_length=1)]
    target_labels: _TargetLabels


class _PodMonitoring(_Object):
    spec: _PodMonitoringSpec


class _ManagedCertificateSpec(_Strict):
    domains: Annotated[list[Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=100)]


class _ManagedCertificate(_Object):
    spec: _ManagedCertificateSpec


class _Redirect(_Strict):
    enabled: bool
    response_code_name: Literal[
        "MOVED_PERMANENTLY_DEFAULT", "FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT"
    ]


class _FrontendConfigSpec(_Strict):
    redirect_to_https: _Redirect


class _FrontendConfig(_Object):
    spec: _FrontendConfigSpec


class _Draining(_Strict):
    draining_timeout_sec: Annotated[int, Field(ge=0, le=3600)]


class _HealthCheck(_Strict):
    type: Literal["HTTP", "HTTPS", "HTTP2"]
    request_path: str
    port: int
    check_interval_sec: Annotated[int, Field(ge=1, le=300)]
    timeout_sec: _Seconds
    healthy_threshold: Annotated[int, Field(ge=1, le=10)]
    unhealthy_threshold: Annotated[int, Field(ge=1, le=10)]

    @model_validator(mode="after")
    def _answered_before_the_next(self) -> "_HealthCheck":
        if self.timeout_sec > self.check_interval_sec:
            raise ValueError("timeoutSec should not exceed checkIntervalSec")
        return self


class _BackendConfigSpec(_Strict):
    timeout_sec: _Seconds
    connection_draining: _Draining
    health_check: _HealthCheck


class _BackendConfig(_Object):
    spec: _BackendConfigSpec


MODELS: Final[Mapping[tuple[str, str], type[_Object]]] = {
    ("cloud.google.com/v1", "BackendConfig"): _BackendConfig,
    ("monitoring.coreos.com/v1", "PrometheusRule"): _PrometheusRule,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _ServiceMonitor,
    ("monitoring.googleapis.com/v1", "PodMonitoring"): _PodMonitoring,
    ("monitoring.googleapis.com/v1", "Rules"): _Rules,
    ("networking.gke.io/v1", "ManagedCertificate"): _ManagedCertificate,
    ("networking.gke.io/v1beta1", "FrontendConfig"): _FrontendConfig,
}
