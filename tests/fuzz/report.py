"""What a run has seen."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fuzz.caller import Answer
from tests.fuzz.cases import Case

RECORDED: Final = frozenset({"tracked", "counted", "pending"})
"""Outcomes of events that were committed."""


@dataclass(slots=True)
class Report:
    """What was sent, what came back, and what was wrong with it."""

    cases: int = 0
    good: int = 0
    repeated: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """By endpoint and outcome or reason."""
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    tracked: Counter[str] = field(default_factory=Counter)
    good_created: Counter[str] = field(default_factory=Counter)
    good_counted: Counter[str] = field(default_factory=Counter)
    details: set[str] = field(default_factory=set)
    slowest: tuple[float, int] = (0.0, -1)
    """Seconds, and the number of the case."""
    waited: list[float] = field(default_factory=list)
    good_waited: list[float] = field(default_factory=list)
    scrapes: int = 0
    slowest_scrape: float = 0.0
    series: int = 0
    commits: float = 0.0
    resident_mib: float = 0.0
    log: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[Case, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def note(self, endpoint: str, answer: Answer, document: Mapping[str, Any]) -> None:
        """Remember what the metrics must show of an answer."""
        what = str(document.get("outcome" if answer.status == 200 else "reason"))
        self.answered[endpoint, what] += 1
        if what in {"counted", "tracked"}:
            sums = self.counted if what == "counted" else self.tracked
            sums[document["kubernetes_cluster"]] += 1

    def lines(self) -> Iterator[str]:
        """What was seen, for people."""
        speed = (self.cases + self.repeated + self.good) / self.seconds
        yield (
            f"{self.cases:,} cases, {self.repeated:,} repeated, and {self.good:,} good messages "
            f"in {self.seconds:.0f} s ({speed:,.0f} answers/s)"
        )
        yield f"statuses: {_most_common(self.statuses)}"
        yield f"outcomes: {_most_common(self.outcomes)}"
        yield f"reasons: {_most_common(self.reasons)}"
        yield f"{len(self.details)} different details; log lines: {_most_common(self.log)}"
        yield f"slowest answer: {self.slowest[0] * 1000:.0f} ms, case {self.slowest[1]}"
        for name, waited in (("recorded mutants", self.waited), ("good messages", self.good_waited)):
            yield (
                f"{name} waited: median {statistics.median(waited or [0]) * 1000:.1f} ms, "
                f"99 of 100 {_quantile(waited) * 1000:.1f} ms, longest {max(waited, default=0) * 1000:.0f} ms"
            )
        recorded = sum(n for (_, what), n in self.answered.items() if what in RECORDED)
        yield f"{self.commits:,.0f} commits, {recorded / max(self.commits, 1):.1f} events each"
        yield f"{self.scrapes} scrapes, {self.series:,} samples, {self.slowest_scrape * 1000:.0f} ms at most"
        yield f"resident {self.resident_mib:.0f} MiB; {len(self.counted):,} clusters were counted"


def _most_common(counter: Counter[Any]) -> str:
    return ", ".join(f"{key} {number:,}" for key, number in counter.most_common()) or "none"


def _quantile(waited: Sequence[float]) -> float:
    return sorted(waited)[int(len(waited) * 0.99)] if waited else 0.0


def resident_mib(pid: int) -> float:
    """The memory that a process holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
