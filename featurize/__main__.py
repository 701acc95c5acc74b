"""`python -m headrace.featurize` is the command `featurize`."""

from headrace.cli.featurize import main

if __name__ == "__main__":
    main(prog_name="featurize")
