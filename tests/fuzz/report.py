"""The figures and errors of a run."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fuzz.cases import Case
from tests.support.measure import percentile
from tests.support.raw_http import Answer

RECORDED: Final = frozenset({"tracked", "counted", "pending"})
"""Outcomes of events that were committed."""


@dataclass(slots=True)
class Report:
    """The sent messages, their answers, and the errors found."""

    cases: int = 0
    valid: int = 0
    repeated: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The number of answers by endpoint, and outcome or reason."""
    counted: Counter[str] = field(default_factory=Counter)
    tracked: Counter[str] = field(default_factory=Counter)
    valid_created: Counter[str] = field(default_factory=Counter)
    valid_counted: Counter[str] = field(default_factory=Counter)
    details: set[str] = field(default_factory=set)
    slowest: tuple[float, int] = (0.0, -1)
    """Seconds, and the number of the case."""
    recorded_seconds: list[float] = field(default_factory=list)
    valid_seconds: list[float] = field(default_factory=list)
    scrapes: int = 0
    slowest_scrape: float = 0.0
    series: int = 0
    commits: float = 0.0
    rss_mib: float = 0.0
    log: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[Case, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def note(self, endpoint: str, answer: Answer, document: Mapping[str, Any]) -> None:
        """Count an answer, to compare the counts with the metrics later."""
        result = str(document.get("outcome" if answer.status == 200 else "reason"))
        self.answered[endpoint, result] += 1
        if result in {"counted", "tracked"}:
            sums = self.counted if result == "counted" else self.tracked
            sums[document["kubernetes_cluster"]] += 1

    def lines(self) -> Iterator[str]:
        """Yield the printed report."""
        speed = (self.cases + self.repeated + self.valid) / self.seconds
        yield (
            f"{self.cases:,} cases, {self.repeated:,} repeated, and {self.valid:,} valid messages "
            f"in {self.seconds:.0f} s ({speed:,.0f} answers/s)"
        )
        yield f"statuses: {_most_common(self.statuses)}"
        yield f"outcomes: {_most_common(self.outcomes)}"
        yield f"reasons: {_most_common(self.reasons)}"
        yield f"{len(self.details)} different details; log lines: {_most_common(self.log)}"
        yield f"slowest answer: {self.slowest[0] * 1000:.0f} ms, case {self.slowest[1]}"
        for name, seconds in (
            ("recorded mutants", self.recorded_seconds),
            ("valid messages", self.valid_seconds),
        ):
            yield (
                f"{name}: p50 {percentile(seconds or [0], 0.5) * 1000:.1f} ms, "
                f"p99 {percentile(seconds or [0], 0.99) * 1000:.1f} ms, "
                f"longest {max(seconds, default=0) * 1000:.0f} ms"
            )
        recorded = sum(n for (_, result), n in self.answered.items() if result in RECORDED)
        yield f"{self.commits:,.0f} commits, {recorded / max(self.commits, 1):.1f} events each"
        yield f"{self.scrapes} scrapes, {self.series:,} samples, slowest {self.slowest_scrape * 1000:.0f} ms"
        yield f"resident {self.rss_mib:.0f} MiB; {len(self.counted):,} clusters were counted"


def _most_common(counter: Counter[Any]) -> str:
    return ", ".join(f"{key} {number:,}" for key, number in counter.most_common()) or "none"
