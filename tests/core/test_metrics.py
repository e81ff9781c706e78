from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from roost.blocking import Guard
from roost.metrics import Metrics

pytestmark = pytest.mark.unit


class Raises(Collector):
    def collect(self) -> Iterator[Metric]:
        yield from ()
        raise RuntimeError("no figures")

    def describe(self) -> list[Metric]:
        return []


def test_metrics_of_one_plugin_do_not_cost_others_theirs(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.open("bad").register(Raises())
    Counter("roost_foo_user_calls", "Calls", registry=metrics.open("foo")).inc()
    Counter("roost_foo_user_calls", "Calls", registry=metrics.open("foo_user")).inc()
    Counter("roost_voice_joins", "Joins", registry=metrics.open("voice")).inc()
    for _ in range(2):
        shown = metrics.render().decode()
    assert shown.count("# TYPE roost_foo_user_calls_total") == 1
    assert "roost_voice_joins_total 1.0" in shown
    assert [each.getMessage() for each in caplog.records] == [
        "plugin bad: its metrics are left out: RuntimeError: no figures",
        "plugin foo_user: its metrics are left out: roost_foo_user_calls is a metric of foo",
    ]


class Exits(Raises):
    def collect(self) -> Iterator[Metric]:
        yield from ()
        raise SystemExit(3)


class Endless(Raises):
    def collect(self) -> Iterator[Metric]:
        while True:
            pass
        yield


@pytest.mark.parametrize(("collector", "says"), [(Exits(), "SystemExit: 3"), (Endless(), "blocked the event loop")])
def test_collector_that_ends_or_blocks_the_process_is_left_out(
    collector: Collector, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard()
    metrics = Metrics(guard.inside)
    with guard.watching():
        metrics.open("bad").register(collector)
        Counter("roost_voice_joins", "Joins", registry=metrics.open("voice")).inc()
        assert "roost_voice_joins_total 1.0" in metrics.render().decode()
    assert says in caplog.text
