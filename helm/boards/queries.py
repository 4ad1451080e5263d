"""Queries that the dashboards share. Each is restricted to the namespace chosen above, so that one Grafana serves
several installations. Names of metrics are those of docs/reference/metrics.md; a test looks each one up there.
"""

from __future__ import annotations

from helm.panels import RATE

NS = 'namespace=~"$namespace"'
#: Every process has metrics named process_*; these are the processes that are Penstock.
OURS = "on (instance, job) penstock_build_info"
#: From event to output, in order; each is a histogram of the dispatcher.
HOPS = ("intake", "submit", "start", "run", "publish")
FN = 'namespace=~"$namespace", function=~"$function"'


def per_second(metric: str, by: str = "", where: str = NS) -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{where}}}[{RATE}]))"


def total(metric: str, by: str = "", where: str = NS) -> str:
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{where}}})"


def highest(metric: str, by: str = "", where: str = NS) -> str:
    return f"max{f' by ({by})' if by else ''} ({metric}{{{where}}})"


def within(metric: str, share: float, by: str = "", where: str = NS) -> str:
    """The time within which that share of the observations lies."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


def remembered(phases: str, by: str = "", where: str = NS) -> str:
    """Invocations by what they have come to. Each gateway tells the whole history, so the fullest one counts."""
    inner = f'max by (namespace, function, phase) (penstock_invocations{{{where}, phase=~"{phases}"}})'
    return f"sum{f' by ({by})' if by else ''} ({inner})"


def spread(metric: str, where: str = NS) -> dict[str, str]:
    return {
        within(metric, share, where=where): legend for share, legend in ((0.5, "half"), (0.95, "95 %"), (0.99, "99 %"))
    }
