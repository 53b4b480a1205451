"""An example of a plug-in for Roadworthy."""

from roadworthy_example.model import Linear

__all__ = ["Linear"]
