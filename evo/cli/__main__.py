"""`python -m evo.cli` is the command `evo`."""

from evo.cli.app import main

if __name__ == "__main__":
    main()
