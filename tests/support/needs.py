"""Marks of tests that need something of the machine."""

import os
import shutil

import pytest

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
privileged = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run programs as other users")


def program(name: str) -> pytest.MarkDecorator:
    """The mark of tests that run that program: where it is missing they are skipped, but not in CI."""
    missing = shutil.which(name) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")
