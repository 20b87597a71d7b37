"""Fixtures for tests of key managers: each backend, and SoftHSM tokens.

A test module names this in ``pytest_plugins``.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spiffe_core.runtime.files import private_folder
from tests.support.key_backends import Backend, DiskBackend, MemoryBackend, Pkcs11Backend, PluginBackend
from tests.support.shim import Shim, compile_shim, load_shim
from tests.support.softhsm import SoftHsmToken, TokenPool, init_token, own_library


@pytest.fixture(scope="session")
def token_pool(tmp_path_factory: pytest.TempPathFactory) -> TokenPool:
    return TokenPool(tmp_path_factory.mktemp("softhsm"), 2)


@pytest.fixture
def softhsm_token(token_pool: TokenPool) -> Iterator[SoftHsmToken]:
    """An empty token."""
    with token_pool.borrow() as token:
        yield token


@pytest.fixture
def own_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsmToken:
    """A token in a folder of its own, seen by a copy of the library only."""
    token = init_token(tmp_path, "own", own_library(tmp_path))
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.softhsm2_conf))
    return token


@pytest.fixture(scope="session")
def compiled_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(own_token: SoftHsmToken, compiled_shim: Path, tmp_path: Path) -> Iterator[Shim]:
    """A module that misbehaves when it is told to, in front of the library that sees ``own_token``."""
    path = Path(shutil.copy(compiled_shim, tmp_path / "shim.so"))
    with private_folder() as folder, load_shim(path, folder, own_token.library) as shim:
        yield shim


_IN_TOKENS = [pytest.param(name, marks=pytest.mark.softhsm) for name in ("pkcs11", "plugin")]


@pytest.fixture(params=["memory", "disk", *_IN_TOKENS])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each place where keys can live."""
    return _backend(request, request.param)


@pytest.fixture(params=["disk", *_IN_TOKENS])
def lasting(request: pytest.FixtureRequest) -> Backend:
    """Each place where keys outlive the process."""
    return _backend(request, request.param)


@pytest.fixture
def memory_backend() -> Iterator[Backend]:
    with closing(MemoryBackend()) as backend:
        yield backend


@pytest.fixture
def disk_backend(tmp_path: Path) -> Iterator[Backend]:
    with closing(DiskBackend(tmp_path / "keys.json")) as backend:
        yield backend


@pytest.fixture
def pkcs11_backend(softhsm_token: SoftHsmToken) -> Iterator[Backend]:
    with closing(Pkcs11Backend(softhsm_token)) as backend:
        yield backend


@pytest.fixture
def plugin_backend(softhsm_token: SoftHsmToken, tmp_path: Path) -> Iterator[Backend]:
    with closing(PluginBackend(softhsm_token, tmp_path)) as backend:
        yield backend


def _backend(request: pytest.FixtureRequest, name: str) -> Backend:
    backend: Backend = request.getfixturevalue(f"{name}_backend")
    return backend
