"""Marks of tests that need something of the machine."""

import os

import pytest

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
privileged = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run programs as other users")
