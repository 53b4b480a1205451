"""`python -I -S …/confine/__main__.py PLAN COMMAND…`: run by its path, without site-packages, because that starts fastest."""

import sys

sys.path.append(__file__.rsplit("/", 4)[0])  # after the standard library, which nothing may shadow

from roadworthy.foundation.confine.launcher import main

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
