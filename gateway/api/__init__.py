"""The HTTP interface `/v1` of embedded mode: one small module per subject, each parse -> plan -> apply.

Handlers hold no state. What they need comes from two frozen values: `Services`, made once by the composition root, and
`Caller`, made once per request by the middleware. Errors are raised as `penstock.errors` and worded in one place.
"""
