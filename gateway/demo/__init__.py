"""`penstock demo`: the whole product shown in a minute, as a user would run it."""

from gateway.demo.report import Report
from gateway.demo.showing import DemoOptions, run

__all__ = ["DemoOptions", "Report", "run"]
