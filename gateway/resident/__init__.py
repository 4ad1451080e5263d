"""Synchronous runs on a cluster: pods that stay, how many there are, and which of them serves the next run."""
