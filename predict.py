"""Detects objects in images and videos: python predict.py checkpoint=FILE source=SRC output=DIR is `ssd predict`."""

from ssd.cli.app import main

if __name__ == "__main__":
    main("predict")
