"""OSCAR's public interface: the routes, bodies and codes that programs written for OSCAR rely on.

What OSCAR calls a service is a function here, and its job is an invocation. Each module is one subject; the shapes of
answers are in `bodies`, how a function looks to OSCAR's clients in `shown` (pure). Where this interface differs from
OSCAR on purpose is told in docs/reference/oscar-api.md.
"""
