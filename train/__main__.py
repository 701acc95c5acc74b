"""`python -m headrace.train` is the command `train`."""

from headrace.cli.train import main

if __name__ == "__main__":
    main(prog_name="train")
