"""KeyManager ``pkcs11``: keys in an HSM, through its Cryptoki library (PKCS #11 2.40).

From the C interface upwards::

    cryptoki   one C function each, as Python
    returns    the return values by name
    faults     what each return value means and what cures it: the one table
    module     the library, initialised once per process, for threads; re-initialised when nobody is in it
    profiles   what is particular to the tokens of one vendor
    pin        where the PIN comes from; ``refused`` which ones are not tried again
    token      which token, and logging in to it once
    sessions   its sessions: a bounded pool, one operation in each
    ladder     how often each rung of recovery may be climbed
    device     a token at work, and the ladder that brings it back
    tokens     one token, or several that hold the same keys
    objects    how our keys are written to a token and read from it
    readback   what a token says of a key's custody
    negative   what it does when somebody is after the key's value
    examination  both, of one key in each token
    keys       a key as ``cryptography`` sees it
    manager    the key manager; ``config`` and ``uri`` say what it is told

The names of attributes and mechanisms are python-pkcs11's; the calls are ours (docs/adr/0005).
"""
