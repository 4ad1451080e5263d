"""Single sign-on: whose bearer tokens are accepted, and who their holder is.

`jws` checks signatures (pure), `claims` judges what a token says (pure), `keys` fetches issuers' keys, `verifier` puts
them together for the gateway.
"""
