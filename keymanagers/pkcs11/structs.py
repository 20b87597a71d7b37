"""The C structs of Cryptoki that are passed to a library (pkcs11t.h), as ctypes; Unix packing."""

import ctypes

CK_ULONG = ctypes.c_ulong


class FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68))


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (
        ("mutex_functions", ctypes.c_void_p * 4),
        ("flags", CK_ULONG),
        ("reserved", ctypes.c_void_p),
    )


class LibraryInfo(ctypes.Structure):
    """CK_INFO."""

    _fields_ = (
        ("cryptoki_version", ctypes.c_ubyte * 2),
        ("manufacturer", ctypes.c_char * 32),
        ("flags", CK_ULONG),
        ("description", ctypes.c_char * 32),
        ("version", ctypes.c_ubyte * 2),
    )


class TokenInfo(ctypes.Structure):
    """CK_TOKEN_INFO."""

    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", CK_ULONG),
        ("max_sessions", CK_ULONG),
        ("sessions", CK_ULONG),
        ("max_rw_sessions", CK_ULONG),
        ("rw_sessions", CK_ULONG),
        ("max_pin_length", CK_ULONG),
        ("min_pin_length", CK_ULONG),
        ("total_public_memory", CK_ULONG),
        ("free_public_memory", CK_ULONG),
        ("total_private_memory", CK_ULONG),
        ("free_private_memory", CK_ULONG),
        ("hardware_version", ctypes.c_ubyte * 2),
        ("firmware_version", ctypes.c_ubyte * 2),
        ("utc_time", ctypes.c_char * 16),
    )


class SessionInfo(ctypes.Structure):
    """CK_SESSION_INFO."""

    _fields_ = (("slot", CK_ULONG), ("state", CK_ULONG), ("flags", CK_ULONG), ("device_error", CK_ULONG))


class Attribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", CK_ULONG), ("value", ctypes.c_void_p), ("length", CK_ULONG))


class Mechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", CK_ULONG), ("parameter", ctypes.c_void_p), ("length", CK_ULONG))
