"""`python -m ssd COMMAND`, the same as `ssd COMMAND`."""

from ssd.cli.app import main

if __name__ == "__main__":
    main()
