"""What a run gives, and the median of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """One run: calls, or what they are counted in, a second, and latencies of a call in milliseconds."""

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Figure:
    """The median of several runs; `ratio` is the median of the ratios to the figure `ratio_to`, pair by pair."""

    name: str
    value: float
    unit: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ratio: float | None
    ratio_to: str | None

    def to_object(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        ratio = f", {self.ratio:.2f} of {self.ratio_to}" if self.ratio is not None else ""
        return (
            f"{self.name}: {self.value:,.0f} {self.unit}, "
            f"P50 {self.p50_ms:.2f} P95 {self.p95_ms:.2f} P99 {self.p99_ms:.2f} ms{ratio}"
        )


def run_of(latencies: Sequence[float], seconds: float, each: int = 1) -> Run:
    """The figures of a run, from each call's latency in seconds; a call counts for `each`."""
    ordered = sorted(latencies)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    return Run(each * len(ordered) / seconds, percentile(0.50), percentile(0.95), percentile(0.99))


def median_figure(
    name: str, runs: Sequence[Run], beside: tuple[str, Sequence[Run]] | None = None, unit: str = "calls/s"
) -> Figure:
    """The medians, each figure by itself; `beside` is what each run is set in proportion to, by name."""
    ratios = [run.rate / other.rate for run, other in zip(runs, beside[1], strict=True)] if beside else []
    return Figure(
        name=name,
        value=round(median(run.rate for run in runs), 1),
        unit=unit,
        p50_ms=round(median(run.p50_ms for run in runs), 3),
        p95_ms=round(median(run.p95_ms for run in runs), 3),
        p99_ms=round(median(run.p99_ms for run in runs), 3),
        ratio=round(median(ratios), 3) if ratios else None,
        ratio_to=beside[0] if beside else None,
    )
