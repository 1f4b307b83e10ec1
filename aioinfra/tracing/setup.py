"""Whether this process traces, and where to: decided once, when it is first needed, never at import.

an application's own provider      taken as it is
LOGFIRE_TOKEN                      Logfire, which is a way to configure OpenTelemetry
OTEL_EXPORTER_OTLP_ENDPOINT        the OpenTelemetry SDK with its OTLP exporter
none of these                      no spans, and nothing of OpenTelemetry is imported

What is missing or does not work is said in one line of the log. Tracing never keeps a service from starting.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Literal

from aioinfra.errors import InvalidArgument
from aioinfra.process_default import ProcessDefault
from aioinfra.tracing.spans import Tracing

Exporter = Literal["auto", "logfire", "otlp", "console", "none"]

logger = logging.getLogger("aioinfra.tracing")

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTERS: Final = ("auto", "logfire", "otlp", "console", "none")


@dataclass(frozen=True, slots=True)
class TracingOptions:
    """How a process traces.

    Attributes:
        service_name: what its spans say they are of.
        environment: the same, of its environment.
        exporter: where spans go. "auto": see the module; "logfire" without a token sends nothing.
        logfire_token: a write token.
        cache_sampling: fraction of the cache's operations that get a span; loaders always do.
        provider: a TracerProvider to use, instead of all this.
    """

    service_name: str = "app"
    environment: str = "development"
    exporter: Exporter = "auto"
    logfire_token: str | None = field(default=None, repr=False)
    cache_sampling: float = 0.01
    provider: Any = None

    def __post_init__(self) -> None:
        if self.exporter not in _EXPORTERS:
            raise InvalidArgument("exporter", f"must be one of {', '.join(_EXPORTERS)}")
        ratio: object = self.cache_sampling
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise InvalidArgument("cache_sampling", "must be a number from 0 to 1")


DEFAULT_OPTIONS: Final = TracingOptions()

_installed: Final[ProcessDefault[Tracing]] = ProcessDefault("tracing set-up")
_turn: Final = threading.Lock()


def initialize(options: TracingOptions = DEFAULT_OPTIONS) -> Tracing | None:
    """Decide whether this process traces; the first call that finds somewhere to send spans counts.

    A `Service` calls it when it opens. Call it before that to trace otherwise than the environment says, in the
    process that works, not in one that forks it: a child of a fork decides for itself.

    Returns:
        None when spans go nowhere.
    """
    with _turn:
        present = current_tracing()
        if present is not None:
            return present
        provider = options.provider or _provider(options)
        if provider is None:
            return None
        if _installed.current is not None:  # of the process that this one was forked from
            _installed.withdraw(_installed.current)
        made = Tracing(provider, options.cache_sampling)
        _installed.install(made)
        return made


def is_initialized() -> bool:
    """Whether this process traces."""
    return current_tracing() is not None


def current_tracing() -> Tracing | None:
    """The tracing of this process, or None. About 0.2 microseconds."""
    present = _installed.current
    return present if present is not None and present.pid == os.getpid() else None


def forget() -> None:
    """Undo `initialize`; what OpenTelemetry itself was told stays. For tests."""
    if _installed.current is not None:
        _installed.withdraw(_installed.current)


def _provider(options: TracingOptions) -> Any:
    """A provider whose spans go somewhere, or None."""
    own = global_provider()
    if own is not None:
        return own
    chosen = _chosen(options, os.environ)
    if chosen == "none":
        return None
    try:
        return _MAKERS[chosen](options)
    except ImportError as error:
        logger.warning("no tracing: %s needs %s; see the extras of aioinfra", chosen, error.name)
    except Exception as error:  # noqa: BLE001 - whatever it is, the service starts; its text may hold the token
        logger.warning("no tracing: %s could not be set up (%s)", chosen, type(error).__name__)
    return None


def global_provider() -> Any:
    """The provider that was set for the process, by whomever; None when there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else provider


def _chosen(options: TracingOptions, variables: Mapping[str, str]) -> str:
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "none"
    if options.exporter != "auto":
        return options.exporter
    if options.logfire_token:
        return "logfire"
    named = variables.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if named in ("none", "console"):
        return named
    return "otlp" if any(variables.get(name, "").strip() for name in _ENDPOINTS) else "none"


def _logfire(options: TracingOptions) -> Any:
    logfire = import_module("logfire")  # not in everybody's environment, so neither in the type checker's
    token = options.logfire_token or None
    logfire.configure(
        token=token,
        send_to_logfire=token is not None,  # never "ask": without a token it would, at a terminal
        service_name=options.service_name,
        environment=options.environment,
        console=False,  # lines are the business of the log
        metrics=False,
        inspect_arguments=False,
        distributed_tracing=True,
    )
    return global_provider()


def _otlp(options: TracingOptions) -> Any:
    module = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    return _sdk(options, module.OTLPSpanExporter())


def _console(options: TracingOptions) -> Any:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return _sdk(options, ConsoleSpanExporter(out=sys.stderr))


def _sdk(options: TracingOptions, exporter: Any) -> Any:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {"service.name": options.service_name, "deployment.environment.name": options.environment}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


_MAKERS: Final[Mapping[str, Callable[[TracingOptions], Any]]] = {
    "logfire": _logfire,
    "otlp": _otlp,
    "console": _console,
}
