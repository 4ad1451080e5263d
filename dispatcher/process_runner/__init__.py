"""Runs Jobs as local processes: the embedded `Runner`. Same launcher, staging and publication as in pods."""

from dispatcher.process_runner.drive import Settings
from dispatcher.process_runner.runner import ProcessRunner
from dispatcher.sidecar.answer import read_answer, read_log

__all__ = ["ProcessRunner", "Settings", "read_answer", "read_log"]
