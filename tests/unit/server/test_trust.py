"""What a server knows of bundles, when two of its threads or its database come in between."""

import threading
from contextlib import contextmanager

import pytest

from server.datastore.store import Datastore
from server.registry import Registry
from server.registry_cache import RegistryCache
from server.trust import TrustStore
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import DatastoreUnavailable
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.lanes import Lanes
from tests.support.authorities import TD
from tests.support.certificates import ca
from tests.support.clock import FakeClock
from tests.support.databases import sqlite_config

FOREIGN = TrustDomain("foreign.org")
FIRST, SECOND = (X509Authority(ca(subject=name).der) for name in ("first", "second"))
PATIENCE = 20.0


class Between:
    """The table of bundles, with something between it and whoever reads it."""

    def __init__(self, bundles):
        self._bundles = bundles
        self.away = False
        self.after_reading = None

    def own(self, trust_domain):
        return self._bundles.own(trust_domain)

    def get(self, trust_domain):
        if self.away:
            raise DatastoreUnavailable("the database is away")
        found = self._bundles.get(trust_domain)
        if self.after_reading:
            self.after_reading()
        return found

    def list(self):
        if self.away:
            raise DatastoreUnavailable("the database is away")
        return self._bundles.list()


@pytest.fixture
def datastore(tmp_path):
    opened = Datastore.open(sqlite_config(tmp_path / "db.sqlite3"), FakeClock())
    yield opened
    opened.close()


@pytest.fixture
def bundles(datastore):
    return Between(datastore.bundles)


@pytest.fixture
def trust(bundles):
    return TrustStore(TD, bundles)


@pytest.fixture
def registry(datastore, trust):
    with lanes() as database:
        yield Registry(
            cache=RegistryCache(datastore, TD), trust=trust, datastore=datastore, database=database, clock=FakeClock()
        )


@contextmanager
def lanes():
    made = Lanes("the database", unavailable=DatastoreUnavailable)
    try:
        yield made
    finally:
        made.close()


def test_an_authority_that_is_published_while_the_bundle_is_read_stays_known(bundles, trust):
    trust.reload()
    trust.publish([FIRST], [])
    has_read, go_on = threading.Event(), threading.Event()

    def stop_once():
        bundles.after_reading = None
        has_read.set()
        assert go_on.wait(PATIENCE)

    bundles.after_reading = stop_once
    reading = threading.Thread(target=trust.reload, args=([TD],))
    reading.start()
    assert has_read.wait(PATIENCE)
    publishing = threading.Thread(target=trust.publish, args=([SECOND], []))
    publishing.start()
    publishing.join(0.2)  # it may wait for the reader, or be done
    go_on.set()
    reading.join(PATIENCE)
    publishing.join(PATIENCE)
    assert trust.own.x509_authorities == (FIRST, SECOND)


def test_what_another_server_published_is_known_after_catching_up(datastore, trust):
    trust.publish([FIRST], [])
    TrustStore(TD, datastore.bundles).publish([SECOND], [])
    trust.catch_up()
    assert trust.own.x509_authorities == (FIRST, SECOND)


@pytest.mark.parametrize("changed", [FOREIGN, TD], ids=["a foreign bundle", "our own bundle"])
async def test_a_bundle_that_could_not_be_read_when_it_changed_is_read_later(
    datastore, bundles, trust, registry, changed
):
    datastore.bundles.set(Bundle(changed, (FIRST, SECOND)))
    await registry.refresh()
    datastore.bundles.set(Bundle(changed, (SECOND,)))
    bundles.away = True
    with pytest.raises(DatastoreUnavailable, match="the database is away"):
        await registry.refresh()
    assert trust.bundle_of(changed).x509_authorities == (FIRST, SECOND)
    bundles.away = False
    await registry.refresh()
    assert trust.bundle_of(changed).x509_authorities == (SECOND,)


async def test_a_server_that_could_not_read_the_bundles_at_first_reads_them_later(datastore, bundles, trust, registry):
    datastore.bundles.set(Bundle(FOREIGN, (FIRST,)))
    bundles.away = True
    with pytest.raises(DatastoreUnavailable, match="the database is away"):
        await registry.refresh()
    bundles.away = False
    await registry.refresh()
    assert trust.bundle_of(FOREIGN).x509_authorities == (FIRST,)
