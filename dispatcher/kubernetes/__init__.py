"""Jobs on Kubernetes: the production adapter of the `Runner` port.

Pure parts (`manifest`, `template`, `files`, `status`, `watchdog`, `entry`, `board`) decide; `client` speaks to the API
server; `runner` joins them.
"""

from dispatcher.kubernetes.results import PodResults, ResultSource, StoreResults, result_key
from dispatcher.kubernetes.runner import KubernetesRunner
from dispatcher.kubernetes.settings import KubernetesSettings

__all__ = ["KubernetesRunner", "KubernetesSettings", "PodResults", "ResultSource", "StoreResults", "result_key"]
