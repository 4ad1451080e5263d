"""One module per command or group of commands; `gateway.cli.tree` says which, and nothing else imports them."""
