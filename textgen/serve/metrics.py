"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(
        self, queued: Callable[[], int], running: Callable[[], int], states: Callable[[], tuple[int, int]]
    ) -> None:
        """`queued` and `running` count texts, `states` the states and their bytes."""
        self._registry = CollectorRegistry()
        to: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("textgen_requests", "Requests by path and status.", ["path", "status"], **to)
        self.read = Counter("textgen_prompt_tokens", "Tokens read.", ["model"], **to)
        self.written = Counter("textgen_completion_tokens", "Tokens written.", ["model"], **to)
        self.first = Histogram("textgen_time_to_first_token_seconds", "From a request to its first token.",
                               buckets=SECONDS, **to)  # fmt: skip
        self.step = Histogram(
            "textgen_time_per_token_seconds", "A step: one token of every text.", buckets=SECONDS, **to
        )
        self.rows = Histogram("textgen_batch_rows", "Texts advanced by a step.",
                              buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), **to)  # fmt: skip
        Gauge("textgen_queued_texts", "Texts that wait.", **to).set_function(queued)
        Gauge("textgen_running_texts", "Texts that are being written.", **to).set_function(running)
        Gauge("textgen_states", "Stored states.", **to).set_function(lambda: states()[0])
        Gauge("textgen_states_bytes", "Bytes of the stored states.", **to).set_function(lambda: states()[1])

    def stepped(self, rows: int, seconds: float) -> None:
        """Count a step of the scheduler."""
        self.rows.observe(rows)
        self.step.observe(seconds)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)
