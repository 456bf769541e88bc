"""Names that the command line, settings and files share; this file imports no library."""

from typing import Literal

HeadName = Literal["joint", "shared", "rank"]
"""Heads of a hypernetwork (`hypernet.heads`), large to small: L, M and S of the paper."""
