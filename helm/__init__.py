"""The chart's generated parts: `python -m helm.generate` writes them, a test holds them equal."""
