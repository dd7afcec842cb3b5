"""`python -m ssmlin` is the command `ssmlin`."""

from ssmlin.cli import main

if __name__ == "__main__":
    main()
