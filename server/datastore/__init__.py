"""The datastore: everything that must outlive a process, in one SQL database that many servers may share.

Synchronous.  Values of ``spiffe_core`` and ``hsm_ca.journal`` go in and out; nothing of SQLAlchemy leaves this
package.  Each method is one transaction, durable when it returns, and raises ``DatastoreUnavailable`` when the
database does not answer.  ``store.Datastore`` is the way in; docs/adr/0007-datastore.md has the reasons.
"""
