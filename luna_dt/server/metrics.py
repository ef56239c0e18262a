"""What the server counts of itself, as Prometheus reads it (``GET /metrics``); with the extra ``metrics`` alone."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..errors import MissingExtra

TEXT = "text/plain"
METHODS = ("GET", "POST", "PUT", "PATCH")


class Metrics:
    """Requests by call and status, how long they took, and how many are under way; of memory what the process says."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
        except ImportError:
            self._registry = None
            return
        self._registry = CollectorRegistry()
        names = ("method", "call")
        told: Any = {"namespace": "luna_dt", "registry": self._registry}
        self._requests = Counter("requests", "Requests answered", (*names, "status"), **told)
        self._seconds = Histogram("request_seconds", "Until the last byte of the answer was sent", names, **told)
        self._under_way = Gauge("requests_under_way", "Requests being answered", **told)
        ProcessCollector(registry=self._registry)

    def told(self) -> bytes:
        """Raises MissingExtra."""
        if self._registry is None:
            raise MissingExtra("prometheus-client", "metrics")
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def counted(self, app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """An ASGI application whose requests are counted, by the calls there are and not by what was asked for."""
        if self._registry is None:
            return app

        async def counting(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            start, status = time.perf_counter(), 500

            async def sent(message: MutableMapping[str, Any]) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            self._under_way.inc()
            try:
                await app(scope, receive, sent)
            finally:
                self._under_way.dec()
                call = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._requests.labels(method, call, status).inc()
                self._seconds.labels(method, call).observe(time.perf_counter() - start)

        return counting
