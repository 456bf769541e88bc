"""Old name, until helpers have moved on."""
from judging import *  # noqa: F403
from judging import machine  # noqa: F401
