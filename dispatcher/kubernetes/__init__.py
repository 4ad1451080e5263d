"""Jobs on Kubernetes: the production adapter of the `Runner` port.

Pure parts (`manifest`, `template`, `files`, `status`, `watchdog`, `view`) decide; `client` speaks to the API server;
`runner` joins them.
"""
