"""`python -m headrace.store` is the command `store`."""

from headrace.cli.store import main

if __name__ == "__main__":
    main(prog_name="store")
