"""The test bed: every outside part that Penstock relies on, real, on a bare machine, without a container engine.

Promises such as "no object is lost" mean nothing against imitations, so the tests and benchmarks run against the very
programs that users run: MinIO, Kafka, Kubernetes with a real kubelet, Infrastructure Manager, Prometheus. `Bed` starts
them, injects faults into them, and takes them down whatever happens to the run. `docs/testing.md` says how to use it.
"""

from tests.testbed.bed import Bed
from tests.testbed.errors import BedError, MissingPart

__all__ = ["Bed", "BedError", "MissingPart"]
