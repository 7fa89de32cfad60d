"""What Prometheus reads at /metrics: a registry of its own with few labels, none of which comes from a client."""

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..bank import PromptBank
from ..batcher import Batcher, Ran

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


@final
class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = mine = CollectorRegistry()
        self.requests = Counter(
            "softprompt_requests", "Requests by route and status.", ["route", "status"], registry=mine
        )
        self.seconds = Histogram(
            "softprompt_request_seconds", "Time to the end of the answer.", ["route"], buckets=SECONDS, registry=mine
        )
        self.pass_seconds = Histogram("softprompt_pass_seconds", "Time of one pass.", buckets=SECONDS, registry=mine)
        self.pass_rows = Histogram("softprompt_pass_rows", "Rows of one pass.", buckets=ROWS, registry=mine)
        self.pass_prompts = Histogram(
            "softprompt_pass_prompts", "Different prompts of one pass.", buckets=ROWS, registry=mine
        )
        self.tokens = Counter("softprompt_tokens", "Positions that were computed.", registry=mine)
        self.waiting = Gauge("softprompt_waiting_tokens", "Positions that wait.", registry=mine)
        self.waiting_rows = Gauge("softprompt_waiting_rows", "Rows that wait.", registry=mine)
        self.prefixes = Gauge("softprompt_prefix_bytes", "Memory of compiled prompts.", registry=mine)
        self.prompts = Gauge("softprompt_prompts", "Prompts that are served.", registry=mine)

    def watch(self, batcher: Batcher, bank: PromptBank) -> None:
        """Read these numbers whenever somebody asks."""
        self.waiting.set_function(lambda: batcher.waiting_tokens)
        self.waiting_rows.set_function(lambda: len(batcher.waiting))
        self.prefixes.set_function(lambda: batcher.engine.prefixes.nbytes)
        self.prompts.set_function(lambda: len(bank.prompts))

    def ran(self, ran: Ran) -> None:
        """Count a pass."""
        self.pass_seconds.observe(ran.seconds)
        self.pass_rows.observe(ran.rows)
        self.pass_prompts.observe(ran.prompts)
        self.tokens.inc(ran.tokens)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All numbers, in Prometheus' format."""
        return generate_latest(self.registry)
