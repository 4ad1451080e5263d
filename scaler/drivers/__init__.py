"""Drivers: whoever can bring machines up and down, each behind `penstock.ports.NodeProvider`.

`simulated` (machines that exist only here), `command` (any program), `kwok` (nodes of a real API server without
machines) and `infrastructure_manager` (its REST interface). `scaler.drivers.making` builds them from the configuration.
"""
