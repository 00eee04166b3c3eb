"""What a run gives, and the median of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """One run: calls a second, and latencies in milliseconds."""

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Figure:
    """The median of several runs; `ratio_to_empty` is the median of the pairs' ratios."""

    name: str
    value: float
    unit: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ratio_to_empty: float | None

    def to_object(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        ratio = f", {self.ratio_to_empty:.2f} of the empty call" if self.ratio_to_empty is not None else ""
        return (
            f"{self.name}: {self.value:.0f} {self.unit}, "
            f"P50 {self.p50_ms:.1f} P95 {self.p95_ms:.1f} P99 {self.p99_ms:.1f} ms{ratio}"
        )


def run_of(latencies: Sequence[float], seconds: float) -> Run:
    """The figures of a run, from each call's latency in seconds."""
    ordered = sorted(latencies)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    return Run(len(ordered) / seconds, percentile(0.50), percentile(0.95), percentile(0.99))


def median_figure(name: str, runs: Sequence[Run], ratios: Sequence[float]) -> Figure:
    """The medians, each figure by itself."""
    return Figure(
        name=name,
        value=round(median(run.rate for run in runs), 1),
        unit="calls/s",
        p50_ms=round(median(run.p50_ms for run in runs), 2),
        p95_ms=round(median(run.p95_ms for run in runs), 2),
        p99_ms=round(median(run.p99_ms for run in runs), 2),
        ratio_to_empty=round(median(ratios), 3) if ratios else None,
    )
