"""Trains a detector: python train.py [GROUP=OPTION] [KEY=VALUE] ... is `ssd train`."""

from ssd.cli.app import main

if __name__ == "__main__":
    main("train")
