"""`python -m meowtea` is `meowtea`."""

from meowtea.cli import main

main()
