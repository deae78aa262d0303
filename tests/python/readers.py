"""Opens every file that the tests delivered with the readers of other software: Pillow and libvips.

    readers.py FOLDER [--least N]

A file fails where either refuses it, warns of it, or finds another format or size than the other. Prints each failure and one line in the
end; exits with 1 if there is any, or if there are fewer files than `--least`.
"""

import argparse
import pathlib
import sys
import warnings

import pyvips
from PIL import Image, ImageFile

# A file that ends too soon is an error, not a gray half.
ImageFile.LOAD_TRUNCATED_IMAGES = False
warnings.simplefilter("error")

FORMATS = {".png": "PNG", ".jpeg": "JPEG", ".webp": "WEBP"}


def by_pillow(path):
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        picture.load()
        if picture.format != FORMATS[path.suffix]:
            raise ValueError(f"it is {picture.format}")
        return picture.size


def by_vips(path):
    picture = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="warning")
    picture.avg()
    return picture.width, picture.height


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--least", type=int, default=0, help="how many files there must be")
    given = parser.parse_args()
    files = sorted(given.folder.iterdir())
    failures = 0
    for path in files:
        try:
            sizes = by_pillow(path), by_vips(path)
            if sizes[0] != sizes[1]:
                raise ValueError(f"Pillow sees {sizes[0]}, libvips {sizes[1]}")
        except Exception as error:  # whatever a reader says is what is wanted here
            failures += 1
            print(f"{path}: {error!r}")
    print(f"{len(files)} delivered files opened with Pillow and libvips, {failures} failures")
    if len(files) < given.least:
        print(f"there must be at least {given.least}")
        failures += 1
    sys.exit(1 if failures else 0)


main()
