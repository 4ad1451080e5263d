"""What operators use of the scaler: REST, hooks, metrics, the ledger of energy and money, and the way in from CLUES.

Everything here is written against `scaler.control` alone, never against the service behind it.
"""
