"""What the daemon counts, for Prometheus: one registry, one method for each thing that happens.

Labels are campaign, trunk, status, limit and port only, never a contact or a number, so the series stay few.
The child of each label set is kept, for looking one up costs four times its increment. `render` takes tens of
milliseconds with many campaigns: call it in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics import MetricWrapperBase

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


_Kind = TypeVar("_Kind", bound=MetricWrapperBase)


class _Children(dict[tuple[str, ...], _Kind], Generic[_Kind]):
    """The children of a labelled metric, each looked up in the library once."""

    def __init__(self, metric: _Kind) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> _Kind:
        child = self[labels] = self._metric.labels(*labels)
        return child

    def forget(self, first: str) -> None:
        """Drop the children whose first label is this."""
        for labels in [labels for labels in self if labels[0] == first]:
            del self[labels]
            self._metric.remove(*labels)


class Metrics:
    """The counters of one daemon. Every method is cheap enough for the loop."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("dialer_build", "The running version.", registry=registry).info({"version": version})

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"dialer_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"dialer_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"dialer_{name}", text, buckets=buckets, registry=registry)

        self._pass = histogram("tick_seconds", "Duration of a pass.", _PASS_SECONDS)
        self._overruns = counter("tick_overruns_total", "Passes longer than the tick.")
        self._planned = _Children(gauge("planned_calls", "New calls of the last plan.", "campaign"))
        self._limit = _Children(gauge("limit", "1 for the limit that binds now.", "campaign", "limit"))
        self._attempts = _Children(counter("attempts_total", "Settled attempts.", "campaign", "status"))
        self._live = gauge("live_calls", "Attempts of this daemon, claimed and not settled.")
        self._port_up = _Children(gauge("port_up", "1 while the port answers.", "port"))
        self._trunk_open = _Children(gauge("trunk_open", "0 while the brake closes the trunk.", "trunk"))
        self._illegal = counter("illegal_events_total", "Call events that the call's table refused.")
        self._ami = _Children(counter("ami_total", "Connections, resyncs, drifted rows, malformed.", "what"))
        self._draining = gauge("draining", "1 while the daemon drains.")
        self._bound: dict[int, str] = {}

    def passed(self, seconds: float, *, overrun: bool) -> None:
        """A pass of the loop is over."""
        self._pass.observe(seconds)
        if overrun:
            self._overruns.inc()

    def planned(self, campaign: int, originate: int, limit: str) -> None:
        """The campaign's plan of this pass."""
        label = str(campaign)
        self._planned[label,].set(originate)
        if self._bound.get(campaign) != limit:
            self._limit.forget(label)
            self._limit[label, limit].set(1)
            self._bound[campaign] = limit

    def settled(self, campaign: int, status: str) -> None:
        """An attempt has its result."""
        self._attempts[str(campaign), status].inc()

    def port(self, name: str, *, up: bool) -> None:
        """Redis, ARI or AMI answers, or not."""
        self._port_up[name,].set(up)

    def ami(self, what: str, number: int = 1) -> None:
        """The view of the queues: `connection`, `resync`, `drift` (rows that were not as events had told), or
        `malformed` (messages that could not be read)."""
        self._ami[what,].inc(number)

    def trunk(self, name: str, *, closed: bool) -> None:
        """The brake of a trunk has opened or closed it."""
        self._trunk_open[name,].set(not closed)

    def drop_trunk(self, name: str) -> None:
        """It is not configured any more: nobody waits for it to open."""
        self._trunk_open.forget(name)

    def illegal_event(self) -> None:
        """A call's table refused an event."""
        self._illegal.inc()

    def watch_live(self, live: Callable[[], int]) -> None:
        """Ask `live` whenever somebody looks; it is called in the thread of `render`."""
        self._live.set_function(live)

    def draining(self) -> None:
        """The daemon dials nothing new until its end."""
        self._draining.set(1)

    def forget(self, campaign: int) -> None:
        """The campaign does not run any more: its gauges would otherwise stand still for ever."""
        self._bound.pop(campaign, None)
        for gauge in (self._planned, self._limit):
            gauge.forget(str(campaign))

    def drop(self, campaign: int) -> None:
        """There is no such campaign any more: what was counted of it goes, too."""
        self._attempts.forget(str(campaign))

    def render(self) -> bytes:
        """The text that Prometheus reads. Slow: in a worker thread only."""
        return generate_latest(self.registry)
