"""The scaler: demand and nodes in, orders to a node provider out.

`scaler.engine.decide` is the whole decision, a pure function of a snapshot; the service and `scaler.simulate` run the
same.
"""
