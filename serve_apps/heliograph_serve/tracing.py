"""OpenTelemetry: spans of a request across the deployments.

Serve makes the spans and carries the context; a batch belongs to the trace of the request that sent
it, since a span has one parent.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ray.serve.schema import TracingConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

COLLECTOR_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def tracing(share: float) -> TracingConfig | None:
    """Return Serve's settings for tracing a share of the requests; None: not at all."""
    if share == 0:
        return None
    to_collector = f"{__name__}:{send_spans.__name__}" if COLLECTOR_VARIABLE in os.environ else ""
    return TracingConfig(enabled=True, exporter_import_path=to_collector, sampling_ratio=share)


def send_spans(file_name: str) -> list[SpanProcessor]:
    """Return what sends the spans of this process to the collector; Serve calls it by its name."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
