#!/usr/bin/env python3
"""Open a passphrase bundle and a backup of hivemind-sqlcipher without hivemind-sqlcipher, age or SQLCipher.

    open_backup.py show BUNDLE --identity RECOVERY-KEY-FILE
    open_backup.py open BACKUP.db PLAIN.db --bundle BUNDLE --identity RECOVERY-KEY-FILE

`show` prints the contents of the bundle, including the passphrase. `open` verifies the manifest and every page, and
writes the database to PLAIN.db. PLAIN.db is NOT encrypted: write it to memory, such as /dev/shm.

Written from docs/reference/formats.md; section numbers refer to it. Needs Python 3.9 or later and the package
`cryptography`. Exit code 1: refused, nothing was written.
"""
import argparse
import base64
import getpass
import hashlib
import hmac
import json
import os
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Refused(Exception):
    """An input is malformed, altered, or does not match."""


def hkdf_sha256(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of RFC 5869: a single block of output."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# The recovery key (section 4)

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def bech32_payload(text: str, prefix: str) -> bytes:
    """Return the bytes in a Bech32 text (BIP 173, of any length) with this prefix."""
    text = text.lower()
    if not text.startswith(prefix.lower() + "1"):
        raise Refused(f"this is not {prefix}1…")
    values = [BECH32.find(symbol) for symbol in text[len(prefix) + 1 :]]
    if -1 in values:
        raise Refused("the recovery key has a typing mistake")
    head = [ord(c) >> 5 for c in prefix.lower()] + [0] + [ord(c) & 31 for c in prefix.lower()]
    checksum = 1
    for value in head + values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, factor in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                checksum ^= factor
    if checksum != 1:
        raise Refused("the recovery key has a typing mistake")
    bits = "".join(f"{value:05b}" for value in values[:-6])
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) // 8 * 8, 8))


def read_identities(text: str) -> "list[X25519PrivateKey]":
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise Refused("no recovery key in the file")
    return [X25519PrivateKey.from_private_bytes(bech32_payload(key, "AGE-SECRET-KEY-")) for key in keys]


# The bundle (section 3)

ARMOR_BEGIN, ARMOR_END = "-----BEGIN AGE ENCRYPTED FILE-----", "-----END AGE ENCRYPTED FILE-----"
CHUNK = 64 * 1024


def unarmor(data: bytes) -> bytes:
    text = data.decode("latin-1").strip()
    if not text.startswith(ARMOR_BEGIN):
        return data
    lines = text.split("\n")
    if lines[-1].strip() != ARMOR_END:
        raise Refused("the bundle is truncated")
    try:
        return base64.b64decode("".join(line.strip() for line in lines[1:-1]), validate=True)
    except ValueError:
        raise Refused("the bundle was altered: its armor is not base64")


def unpadded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise Refused("the bundle was altered: its header is not base64")


def split_age(data: bytes) -> "tuple[bytes, list[tuple[list[str], bytes]], bytes, bytes]":
    """Return the header up to `---`, its stanzas (arguments and body), its MAC, and the payload."""
    end = data.find(b"\n--- ")
    if not data.startswith(b"age-encryption.org/v1\n") or end == -1:
        raise Refused("not a bundle: not an age file, or truncated")
    mac, newline, payload = data[end + 5 :].partition(b"\n")
    stanzas: "list[tuple[list[str], bytes]]" = []
    arguments: "list[str]" = []
    body = ""
    for line in data[:end].decode("latin-1").split("\n")[1:]:
        if line.startswith("-> "):
            arguments, body = line[3:].split(" "), ""
            continue
        body += line
        if len(line) < 64:
            stanzas.append((arguments, unpadded(body)))
    if not newline:
        raise Refused("the bundle is truncated")
    return data[: end + 4], stanzas, unpadded(mac.decode("latin-1")), payload


def unwrap(key: bytes, wrapped: bytes) -> "bytes | None":
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), wrapped, None)
    except InvalidTag:
        return None


def file_key_by_identity(stanzas, identities: "list[X25519PrivateKey]") -> "bytes | None":
    for arguments, body in stanzas:
        if arguments[0] != "X25519" or len(arguments) != 2 or len(body) != 32:
            continue
        share = unpadded(arguments[1])
        for identity in identities:
            recipient = identity.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            try:
                shared = identity.exchange(X25519PublicKey.from_public_bytes(share))
            except ValueError:
                raise Refused("the bundle was altered")
            wrapping = hkdf_sha256(shared, share + recipient, b"age-encryption.org/v1/X25519")
            found = unwrap(wrapping, body)
            if found is not None:
                return found
    return None


def file_key_by_passphrase(stanzas, passphrase: str) -> "bytes | None":
    if len(stanzas) != 1 or stanzas[0][0][0] != "scrypt" or len(stanzas[0][0]) != 3:
        return None
    (_, salt, work), body = stanzas[0]
    if not work.isdigit() or not 1 <= int(work) <= 22:
        raise Refused("the bundle was altered, or asks for too much work")
    rounds = 1 << int(work)
    wrapping = hashlib.scrypt(
        passphrase.encode(),
        salt=b"age-encryption.org/v1/scrypt" + unpadded(salt),
        n=rounds,
        r=8,
        p=1,
        maxmem=rounds * 8 * 128 + (1 << 20),
        dklen=32,
    )
    return unwrap(wrapping, body)


def decrypt_payload(file_key: bytes, payload: bytes) -> bytes:
    nonce, sealed = payload[:16], payload[16:]
    stream = ChaCha20Poly1305(hkdf_sha256(file_key, nonce, b"payload"))
    text = b""
    chunks = max(1, -(-len(sealed) // (CHUNK + 16)))
    for number in range(chunks):
        chunk = sealed[number * (CHUNK + 16) : (number + 1) * (CHUNK + 16)]
        last = number == chunks - 1
        try:
            text += stream.decrypt(number.to_bytes(11, "big") + bytes([last]), chunk, None)
        except InvalidTag:
            raise Refused("the bundle is truncated or altered")
    return text


def open_bundle(path: str, identities: "list[X25519PrivateKey]", passphrase: "str | None") -> dict:
    with open(path, "rb") as file:
        header, stanzas, mac, payload = split_age(unarmor(file.read()))
    if passphrase is not None:
        file_key = file_key_by_passphrase(stanzas, passphrase)
    else:
        file_key = file_key_by_identity(stanzas, identities)
    if file_key is None:
        raise Refused("this key does not open the bundle")
    if not hmac.compare_digest(mac, hmac.digest(hkdf_sha256(file_key, b"", b"header"), header, "sha256")):
        raise Refused("the bundle's header was altered")
    contents = json.loads(decrypt_payload(file_key, payload))
    if contents.get("format") != "hivemind-sqlcipher-bundle" or contents.get("version") != 1:
        raise Refused("the bundle decrypts, but is not a passphrase bundle of version 1")
    return contents


# Store and backup (section 1)

#          page size, digest, iterations, bytes of HMAC, reserve
FORMATS = {4: (4096, "sha512", 256_000, 64, 80), 3: (1024, "sha1", 64_000, 20, 48)}
PLAINTEXT_HEADER = b"SQLite format 3\0"
LOCK_PAGE_AT = 1 << 30


def derive_key(passphrase: str, salt: bytes, cipher_format: int) -> bytes:
    _, digest, iterations, _, _ = FORMATS[cipher_format]
    return hashlib.pbkdf2_hmac(digest, passphrase.encode(), salt, iterations, 32)


def decrypt_page(page: bytes, number: int, key: bytes, hmac_key: bytes, cipher_format: int) -> bytes:
    """Return a page as SQLite stores it, with zeros in its reserve."""
    size, digest, _, hmac_bytes, reserve = FORMATS[cipher_format]
    if (number - 1) * size == LOCK_PAGE_AT and not any(page):
        return page
    start = 16 if number == 1 else 0
    end = size - reserve
    sealed = page[start : end + 16]
    found = hmac.digest(hmac_key, sealed + number.to_bytes(4, "little"), digest)
    if not hmac.compare_digest(found, page[end + 16 : end + 16 + hmac_bytes]):
        raise Refused(f"page {number} was altered, or the passphrase is wrong")
    cipher = Cipher(algorithms.AES(key), modes.CBC(page[end : end + 16])).decryptor()
    plain = cipher.update(page[start:end]) + cipher.finalize()
    return (PLAINTEXT_HEADER if number == 1 else b"") + plain + bytes(reserve)


def decrypt_database(data: bytes, key: bytes, cipher_format: int) -> bytes:
    size, digest, _, _, _ = FORMATS[cipher_format]
    if not data or len(data) % size != 0:
        raise Refused("the database is truncated: its last page is incomplete")
    hmac_salt = bytes(byte ^ 0x3A for byte in data[:16])
    hmac_key = hashlib.pbkdf2_hmac(digest, key, hmac_salt, 2, 32)
    pages = [
        decrypt_page(data[at : at + size], at // size + 1, key, hmac_key, cipher_format)
        for at in range(0, len(data), size)
    ]
    plain = b"".join(pages)
    if int.from_bytes(plain[28:32], "big") > len(pages):
        raise Refused("the database is truncated: pages are missing at its end")
    return plain


# The manifest (section 2)


def check_manifest(manifest: dict, name: str, data: bytes, key: bytes) -> None:
    if manifest.get("format") != "hivemind-sqlcipher backup" or manifest.get("version") != 1:
        raise Refused("not a manifest of version 1")
    sealed = {field: value for field, value in manifest.items() if field != "mac"}
    canonical = json.dumps(sealed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    mac_key = hkdf_sha256(key, data[:16], b"hivemind-sqlcipher manifest")
    mac = hmac.digest(mac_key, canonical.encode(), "sha256").hex()
    if not hmac.compare_digest(mac, str(manifest.get("mac"))):
        raise Refused("the manifest was altered, or the passphrase is wrong")
    facts = {
        "file": name,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "key_id": data[:8].hex(),
    }
    for field, fact in facts.items():
        if manifest[field] != fact:
            raise Refused(f"the backup's {field} is {fact}, but the manifest has {manifest[field]}")


def open_backup(path: str, passphrase: str, cipher_format: "int | None") -> "tuple[bytes, dict]":
    """Return the plain database and its verified manifest."""
    with open(path, "rb") as file:
        data = file.read()
    with open(os.path.splitext(path)[0] + ".manifest.json", encoding="utf-8") as file:
        manifest = json.load(file)
    if cipher_format is None:
        cipher_format = manifest.get("cipher_compatibility")
    if cipher_format not in FORMATS:
        raise Refused("unknown cipher_compatibility in the manifest")
    key = derive_key(passphrase, data[:16], cipher_format)
    check_manifest(manifest, os.path.basename(path), data, key)
    return decrypt_database(data, key, cipher_format), manifest


# A passphrase typed from paper (section 5)

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def times(a: int, b: int) -> int:
    """Multiply in the field of 32 elements, modulo x^5 + x^2 + 1."""
    product = 0
    for bit in range(5):
        product ^= (b >> bit & 1) * (a << bit)
    for bit in range(9, 4, -1):
        product ^= (product >> bit & 1) * (0b100101 << bit - 5)
    return product


def canonical(passphrase: str) -> str:
    """Return a generated passphrase as SQLCipher receives it, and any other text unchanged."""
    typed = passphrase.strip().upper().replace("O", "0").replace("I", "1").replace("L", "1")
    groups = typed.replace("-", " ").split()
    if len(groups) != 13 or any(len(group) != 5 or set(group) - set(CROCKFORD) for group in groups):
        return passphrase
    powers = [1]
    while len(powers) < 13:
        powers.append(times(powers[-1], 2))
    for place, group in enumerate(groups):
        *symbols, check = (CROCKFORD.index(symbol) for symbol in group)
        for symbol, power in zip(symbols, powers[1:]):
            check ^= times(symbol, power)
        if check != powers[place]:
            raise Refused(f"group {place + 1} of the passphrase, {len(groups)} in all, has a typing mistake")
    return "-".join(groups)


# The command


def secret_in(path: str) -> str:
    """Return a file's text without its final newline."""
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    return text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text


def contents_of(bundle: str, arguments: argparse.Namespace) -> dict:
    if arguments.identity is not None:
        return open_bundle(bundle, read_identities(secret_in(arguments.identity)), None)
    if arguments.bundle_passphrase_file is not None:
        return open_bundle(bundle, [], secret_in(arguments.bundle_passphrase_file))
    return open_bundle(bundle, [], getpass.getpass("Passphrase of the bundle: "))


def write_private(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print the contents of a bundle")
    show.add_argument("bundle")
    opening = commands.add_parser("open", help="decrypt a backup into a plain SQLite file")
    opening.add_argument("backup")
    opening.add_argument("plain")
    how = opening.add_mutually_exclusive_group(required=True)
    how.add_argument("--bundle")
    how.add_argument("--passphrase-file", help="read the store's passphrase from this file")
    for command in (show, opening):
        command.add_argument("-i", "--identity", help="open the bundle with this recovery key")
        command.add_argument("--bundle-passphrase-file", help="open the bundle with the passphrase in this file")
    arguments = parser.parse_args()

    if arguments.command == "show":
        print(json.dumps(contents_of(arguments.bundle, arguments), indent=2, ensure_ascii=False))
        return
    if arguments.bundle is not None:
        contents = contents_of(arguments.bundle, arguments)
        passphrase, cipher_format = contents["passphrase"], contents["cipher_compatibility"]
    else:
        passphrase, cipher_format = canonical(secret_in(arguments.passphrase_file)), None
    plain, manifest = open_backup(arguments.backup, passphrase, cipher_format)
    write_private(arguments.plain, plain)
    print(f"{arguments.plain}: {manifest['clients']['active']} clients, NOT encrypted", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError, ValueError, KeyError) as error:
        sys.exit(f"refused: {error}")
