"""Counters and histograms for Prometheus.

Labels are model names, versions and route templates; never anything of a request.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """One registry for the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "followup_http_requests",
            "Answers by route template and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._predictions = Counter(
            "followup_predictions", "Predictions by outcome.", ["model", "version", "outcome"], registry=self.registry
        )
        self._latency = Histogram(
            "followup_prediction_seconds",
            "From request to record, without the commit.",
            ["model", "cache_hit"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._break_glass = Counter(
            "followup_break_glass", "Uses of break-glass; each one is an alarm.", registry=self.registry
        )
        self._above_ceiling = Counter(
            "followup_break_glass_above_ceiling",
            "Uses of break-glass above the ceiling; each one is a louder alarm.",
            registry=self.registry,
        )
        self._tokens_refused = Counter(
            "followup_tokens_refused", "Requests without a valid token, by why.", ["reason"], registry=self.registry
        )
        self._strangers_refused = Counter(
            "followup_strangers_refused", "Requests without a valid token beyond the quota.", registry=self.registry
        )

    def stranger_refused(self) -> None:
        self._strangers_refused.inc()

    def token_refused(self, reason: str) -> None:
        self._tokens_refused.labels(reason).inc()

    def break_glass(self, above_ceiling: bool) -> None:
        self._break_glass.inc()
        if above_ceiling:
            self._above_ceiling.inc()

    def request(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def answered(self, model: str, version: str, latency_ms: float, *, cache_hit: bool) -> None:
        self._predictions.labels(model, version, "hit" if cache_hit else "computed").inc()
        self._latency.labels(model, "yes" if cache_hit else "no").observe(latency_ms / 1000)

    def failed(self, model: str, version: str, *, shed: bool) -> None:
        self._predictions.labels(model, version, "shed" if shed else "failed").inc()

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Show what `read` says at the time of the scrape."""
        Gauge(name, documentation, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        return generate_latest(self.registry)
