"""`python -m unshaken`: the command line."""

from unshaken.cli import main

if __name__ == "__main__":
    main()
