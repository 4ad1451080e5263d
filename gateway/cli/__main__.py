"""`python -m gateway.cli`: the command line where the script `penstock` is not on the path."""

from gateway.cli import main

main()
