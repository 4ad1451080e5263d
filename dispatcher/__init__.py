"""The dispatcher: turns records on the event log into Jobs and their outcomes into history.

Decisions are pure (`routing`, `admission`, `window`, `batching`, `plan`, `lifecycle`, `retry`); the shells around them
(`intake`, `scheduler`, `outcomes`, `recovery`, `commands`) move data between the log, the ledger and the runner.
"""
