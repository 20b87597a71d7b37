"""How keys are printed: texts, JSON, and what a hostile token may put on a terminal."""

import json
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec

from hsm_ca.journal import AuthorityId, AuthorityRecord, State, Use
from hsm_ca.keyring import encoded
from keymanagers.base import Attempt, Examination, Key, KeyId, KeyType, Outcome
from keymanagers.possession import Possession
from server.cli.agent_text import local_time_text
from server.cli.key_text import key_json, key_text, summary
from server.key_report import KeyReport

PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC = encoded(PRIVATE.public_key())
KEY = Key(KeyId("jwt-1"), KeyType.EC_P256, PRIVATE)
RECORD = AuthorityRecord(
    key_id=KEY.id,
    use=Use.JWT,
    key_type=KEY.type,
    state=State.ACTIVE,
    reserved_at=1_700_000_000,
    public_key=PUBLIC,
    authority_id=AuthorityId("kid-1"),
    issued_at=1_700_000_001,
    not_after=1_700_086_400,
    tainted=True,
)
EXAMINATION = Examination(
    device="steeple",
    serial="12ab",
    attributes={"CKA_LABEL": "example.org/jwt-1", "CKA_EXTRACTABLE": False, "CKA_END_DATE": ""},
    attempts=(
        Attempt("C_GetAttributeValue(CKA_VALUE)", Outcome.REFUSED, "CKR_ATTRIBUTE_SENSITIVE"),
        Attempt("C_WrapKey(CKM_AES_KEY_WRAP_PAD)", Outcome.GAVE_WAY, "it gave 8 bytes"),
    ),
)
REPORT = KeyReport(
    key_id=KEY.id,
    key_type=KEY.type,
    record=RECORD,
    key=KEY,
    examinations=(EXAMINATION,),
    possession=Possession(b"message", "ECDSA with SHA-256", b"signature"),
)
FINGERPRINT = sha256(PUBLIC).hexdigest()


def test_a_key_is_shown_with_all_that_is_known_of_it():
    assert key_text(REPORT, attributes=True) == (
        "Key ID           : jwt-1\n"
        "Key type         : ec-p256\n"
        f"Public key       : SHA-256 {FINGERPRINT}\n"
        "State            : active, tainted\n"
        "Signs            : JWT-SVIDs\n"
        "Authority ID     : kid-1\n"
        f"Made             : {local_time_text(1_700_000_000)}\n"
        f"Expiration time  : {local_time_text(1_700_086_400)}\n"
        "Signature        : over a nonce, ECDSA with SHA-256, verified with the public key\n"
        'Token            : "steeple", serial number 12ab\n'
        "Label            : example.org/jwt-1\n"
        "  CKA_LABEL               : example.org/jwt-1\n"
        "  CKA_EXTRACTABLE         : false\n"
        "  CKA_END_DATE            :\n"
        "  C_GetAttributeValue(CKA_VALUE)              : refused: CKR_ATTRIBUTE_SENSITIVE\n"
        "  C_WrapKey(CKM_AES_KEY_WRAP_PAD)             : gave way: it gave 8 bytes\n"
        "Problem          : steeple: C_WrapKey(CKM_AES_KEY_WRAP_PAD) gave way: it gave 8 bytes\n"
        "\n"
    )


def test_a_list_has_no_attributes():
    text = key_text(REPORT, attributes=False)
    assert "CKA_EXTRACTABLE" not in text
    assert "Label            : example.org/jwt-1\n" in text


def test_an_orphan_and_a_missing_key_are_called_so():
    orphan = key_text(KeyReport(key_id=KEY.id, key_type=KEY.type, key=KEY), attributes=False)
    assert "State            : orphan\n" in orphan
    assert "Authority ID" not in orphan
    missing = key_text(KeyReport(key_id=KEY.id, key_type=KEY.type, record=RECORD), attributes=False)
    assert "State            : active, tainted, missing\n" in missing


def test_names_that_a_token_gives_cannot_drive_the_terminal():
    hostile = Examination(device="x", serial="\x1b[2J", attributes={"CKA_LABEL": "a\nState : active\x1b[0m"})
    report = KeyReport(key_id=KeyId("a\r\x1b[31mb"), key_type=KEY.type, key=KEY, examinations=(hostile,))
    text = key_text(report, attributes=True)
    assert "\x1b" not in text
    assert "\r" not in text
    assert 'Key ID           : "a\\r\\x1b[31mb"\n' in text
    assert 'Label            : "a\\nState : active\\x1b[0m"\n' in text
    assert summary([report]) == 'not as it should be: "a\\r\\x1b[31mb"'


def test_json_has_the_same_and_can_be_verified_by_others():
    document = json.loads(json.dumps(key_json(REPORT)))
    assert document == {
        "key_id": "jwt-1",
        "key_type": "ec-p256",
        "public_key": document["public_key"],
        "public_key_sha256": FINGERPRINT,
        "state": "active",
        "missing": False,
        "shown": True,
        "use": "jwt",
        "authority_id": "kid-1",
        "tainted": True,
        "certificate_serial_number": "",
        "reserved_at": 1_700_000_000,
        "issued_at": 1_700_000_001,
        "expires_at": 1_700_086_400,
        "tokens": [
            {
                "token": "steeple",
                "serial_number": "12ab",
                "attributes": {"CKA_LABEL": "example.org/jwt-1", "CKA_EXTRACTABLE": False, "CKA_END_DATE": ""},
                "attempts": [
                    {
                        "way": "C_GetAttributeValue(CKA_VALUE)",
                        "outcome": "refused",
                        "answer": "CKR_ATTRIBUTE_SENSITIVE",
                    },
                    {
                        "way": "C_WrapKey(CKM_AES_KEY_WRAP_PAD)",
                        "outcome": "gave way",
                        "answer": "it gave 8 bytes",
                    },
                ],
                "problems": ["C_WrapKey(CKM_AES_KEY_WRAP_PAD) gave way: it gave 8 bytes"],
            }
        ],
        "signature": {"algorithm": "ECDSA with SHA-256", "message": "bWVzc2FnZQ==", "signature": "c2lnbmF0dXJl"},
        "problems": ["steeple: C_WrapKey(CKM_AES_KEY_WRAP_PAD) gave way: it gave 8 bytes"],
    }


def test_keys_that_are_well_make_no_summary():
    assert summary([KeyReport(key_id=KEY.id, key_type=KEY.type, record=RECORD, key=KEY)]) == ""
