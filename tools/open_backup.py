#!/usr/bin/env python3
"""Open a passphrase bundle and a backup of hivemind-sqlcipher without hivemind-sqlcipher, age or SQLCipher.

    open_backup.py show BUNDLE --identity RECOVERY-KEY-FILE
    open_backup.py open BACKUP.db PLAIN.db --bundle BUNDLE --identity RECOVERY-KEY-FILE
    open_backup.py open BACKUP.db PLAIN.db

`show` prints the contents of the bundle, including the passphrase. `open` verifies the manifest and every page, and
writes the database to PLAIN.db. PLAIN.db is NOT encrypted: write it to memory, such as /dev/shm. Without a bundle,
`open` asks for the store's passphrase. A backup in parts (BACKUP.db.001, BACKUP.db.002, ...) is opened as BACKUP.db.

Written from docs/reference/formats.md; section numbers refer to it. Needs Python 3.9 or later and nothing else. The
package `cryptography` is used if it is installed: it decrypts a hundred times faster, which matters from 100 MB on.
Exit code 1: refused, nothing was written.
"""
import argparse
import base64
import getpass
import hashlib
import hmac
import json
import os
import struct
import sys

try:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
except ImportError:
    Cipher = None


class Refused(Exception):
    """An input is malformed, altered, or does not match."""


def hkdf_sha256(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of RFC 5869: a single block of output."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# Ciphers that Python's standard library does not have

PRIME_25519 = 2**255 - 19


def x25519(private: bytes, public: bytes) -> bytes:
    """Multiply a point of Curve25519 (RFC 7748)."""
    scalar = int.from_bytes(private, "little") & ~7 & ~(1 << 255) | 1 << 254
    u = int.from_bytes(public, "little") & ~(1 << 255)
    x2, z2, x3, z3 = 1, 0, u, 1
    swapped = 0
    for bit in range(254, -1, -1):
        current = scalar >> bit & 1
        if swapped != current:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swapped = current
        sum2, difference2, sum3, difference3 = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        square_sum, square_difference = sum2 * sum2 % PRIME_25519, difference2 * difference2 % PRIME_25519
        cross, other_cross = difference3 * sum2 % PRIME_25519, sum3 * difference2 % PRIME_25519
        x3 = (cross + other_cross) ** 2 % PRIME_25519
        z3 = u * (cross - other_cross) ** 2 % PRIME_25519
        x2 = square_sum * square_difference % PRIME_25519
        delta = square_sum - square_difference
        z2 = delta * (square_sum + 121665 * delta) % PRIME_25519
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, PRIME_25519 - 2, PRIME_25519) % PRIME_25519).to_bytes(32, "little")


CURVE_BASE = (9).to_bytes(32, "little")
QUARTER_ROUNDS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)


def rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & 0xFFFFFFFF


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """Return 64 bytes of the key stream (RFC 8439)."""
    start = struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce)
    state = list(start)
    for _ in range(10):
        for a, b, c, d in QUARTER_ROUNDS:
            for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] = state[x] + state[y] & 0xFFFFFFFF
                state[z] = rotated(state[z] ^ state[x], bits)
    return struct.pack("<16I", *(word + first & 0xFFFFFFFF for word, first in zip(state, start)))


def poly1305(key: bytes, data: bytes) -> bytes:
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(data), 16):
        total = (total + int.from_bytes(data[at : at + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def chacha20_poly1305(key: bytes, nonce: bytes, sealed: bytes) -> "bytes | None":
    """Decrypt a text without additional data (RFC 8439); None if its tag is wrong."""
    text, tag = sealed[:-16], sealed[-16:]
    padded = text + bytes(-len(text) % 16) + struct.pack("<QQ", 0, len(text))
    if len(sealed) < 16 or not hmac.compare_digest(tag, poly1305(chacha20_block(key, 0, nonce)[:32], padded)):
        return None
    blocks = range(1, 1 + -(-len(text) // 64))
    stream = b"".join(chacha20_block(key, number, nonce) for number in blocks)
    return bytes(a ^ b for a, b in zip(text, stream))


def multiply_table() -> "tuple[list[int], list[int]]":
    """Return the powers of 3 in AES's field of 256 elements, twice in a row, and their logarithms."""
    powers, logarithms = [], [0] * 256
    value = 1
    for exponent in range(255):
        powers.append(value)
        logarithms[value] = exponent
        value ^= value << 1
        if value & 0x100:
            value ^= 0x11B
    return powers * 2, logarithms


def aes_tables() -> "tuple[list[int], list[int], list[list[int]]]":
    """Return the S-box, its inverse, and the tables of InvMixColumns after the inverse S-box (FIPS 197)."""
    powers, logarithms = multiply_table()
    box, inverse = [0] * 256, [0] * 256
    for value in range(256):
        reciprocal = powers[255 - logarithms[value]] if value else 0
        spread = reciprocal * 0x101
        box[value] = (reciprocal ^ spread >> 7 ^ spread >> 6 ^ spread >> 5 ^ spread >> 4) & 0xFF ^ 0x63
        inverse[box[value]] = value

    def times_factor(value: int, factor: int) -> int:
        return powers[logarithms[value] + logarithms[factor]] if value else 0

    tables: "list[list[int]]" = [[], [], [], []]
    for value in inverse:
        word = int.from_bytes(bytes(times_factor(value, factor) for factor in (14, 9, 13, 11)), "big")
        for column, table in enumerate(tables):
            table.append((word >> 8 * column | word << 32 - 8 * column) & 0xFFFFFFFF)
    return box, inverse, tables


AES_BOX, AES_INVERSE_BOX, AES_TABLES = aes_tables()


class AesCbcDecryptor:
    """AES-256-CBC without padding, for any number of texts under one key."""

    def __init__(self, key: bytes):
        self.key = key
        self.rounds = None if Cipher else decryption_keys(key)

    def decrypt(self, iv: bytes, text: bytes) -> bytes:
        if self.rounds is None:
            cipher = Cipher(algorithms.AES(self.key), modes.CBC(iv)).decryptor()
            return cipher.update(text) + cipher.finalize()
        plain = decrypt_blocks(self.rounds, text)
        before = iv + text[:-16]
        return (int.from_bytes(plain, "big") ^ int.from_bytes(before, "big")).to_bytes(len(text), "big")


def decryption_keys(key: bytes) -> "list[tuple[int, ...]]":
    """Return the round keys of the equivalent inverse cipher for a key of 32 bytes."""
    def substituted(word: int) -> int:
        return int.from_bytes(bytes(AES_BOX[byte] for byte in word.to_bytes(4, "big")), "big")

    def unmixed(word: int) -> int:
        parts = zip(AES_TABLES, word.to_bytes(4, "big"))
        first, second, third, fourth = (table[AES_BOX[byte]] for table, byte in parts)
        return first ^ second ^ third ^ fourth

    words = list(struct.unpack(">8I", key))
    constant = 1
    for at in range(8, 60):
        word = words[-1]
        if at % 8 == 0:
            word = substituted(rotated(word, 8)) ^ constant << 24
            constant <<= 1
        elif at % 8 == 4:
            word = substituted(word)
        words.append(words[at - 8] ^ word)
    keys = [tuple(words[at : at + 4]) for at in range(56, -1, -4)]
    return keys[:1] + [tuple(map(unmixed, each)) for each in keys[1:-1]] + keys[-1:]


def decrypt_blocks(rounds: "list[tuple[int, ...]]", text: bytes) -> bytes:
    t0, t1, t2, t3 = AES_TABLES
    box = AES_INVERSE_BOX
    (k0, k1, k2, k3), *middle, (l0, l1, l2, l3) = rounds
    words = struct.unpack(f">{len(text) // 4}I", text)
    plain = []
    for at in range(0, len(words), 4):
        a, b, c, d = words[at] ^ k0, words[at + 1] ^ k1, words[at + 2] ^ k2, words[at + 3] ^ k3
        for m0, m1, m2, m3 in middle:
            a, b, c, d = (
                t0[a >> 24] ^ t1[d >> 16 & 255] ^ t2[c >> 8 & 255] ^ t3[b & 255] ^ m0,
                t0[b >> 24] ^ t1[a >> 16 & 255] ^ t2[d >> 8 & 255] ^ t3[c & 255] ^ m1,
                t0[c >> 24] ^ t1[b >> 16 & 255] ^ t2[a >> 8 & 255] ^ t3[d & 255] ^ m2,
                t0[d >> 24] ^ t1[c >> 16 & 255] ^ t2[b >> 8 & 255] ^ t3[a & 255] ^ m3,
            )
        plain.append((box[a >> 24] << 24 | box[d >> 16 & 255] << 16 | box[c >> 8 & 255] << 8 | box[b & 255]) ^ l0)
        plain.append((box[b >> 24] << 24 | box[a >> 16 & 255] << 16 | box[d >> 8 & 255] << 8 | box[c & 255]) ^ l1)
        plain.append((box[c >> 24] << 24 | box[b >> 16 & 255] << 16 | box[a >> 8 & 255] << 8 | box[d & 255]) ^ l2)
        plain.append((box[d >> 24] << 24 | box[c >> 16 & 255] << 16 | box[b >> 8 & 255] << 8 | box[a & 255]) ^ l3)
    return struct.pack(f">{len(plain)}I", *plain)


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


def read_identities(text: str) -> "list[bytes]":
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise Refused("no recovery key in the file")
    identities = [bech32_payload(key, "AGE-SECRET-KEY-") for key in keys]
    if any(len(identity) != 32 for identity in identities):
        raise Refused("the recovery key has a wrong length")
    return identities


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
    return chacha20_poly1305(key, bytes(12), wrapped)


def file_key_by_identity(stanzas, identities: "list[bytes]") -> "bytes | None":
    for arguments, body in stanzas:
        if arguments[0] != "X25519" or len(arguments) != 2 or len(body) != 32:
            continue
        share = unpadded(arguments[1])
        for identity in identities:
            recipient = x25519(identity, CURVE_BASE)
            shared = x25519(identity, share)
            if len(share) != 32 or not any(shared):
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
    key = hkdf_sha256(file_key, nonce, b"payload")
    text = b""
    chunks = max(1, -(-len(sealed) // (CHUNK + 16)))
    for number in range(chunks):
        chunk = sealed[number * (CHUNK + 16) : (number + 1) * (CHUNK + 16)]
        last = number == chunks - 1
        opened = chacha20_poly1305(key, number.to_bytes(11, "big") + bytes([last]), chunk)
        if opened is None:
            raise Refused("the bundle is truncated or altered")
        text += opened
    return text


def open_bundle(path: str, identities: "list[bytes]", passphrase: "str | None") -> dict:
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


def decrypt_page(page: bytes, number: int, cipher: AesCbcDecryptor, hmac_key: bytes, cipher_format: int) -> bytes:
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
    plain = cipher.decrypt(page[end : end + 16], page[start:end])
    return (PLAINTEXT_HEADER if number == 1 else b"") + plain + bytes(reserve)


def decrypt_database(data: bytes, key: bytes, cipher_format: int) -> bytes:
    size, digest, _, _, _ = FORMATS[cipher_format]
    if not data or len(data) % size != 0:
        raise Refused("the database is truncated: its last page is incomplete")
    hmac_salt = bytes(byte ^ 0x3A for byte in data[:16])
    hmac_key = hashlib.pbkdf2_hmac(digest, key, hmac_salt, 2, 32)
    cipher = AesCbcDecryptor(key)
    pages = [
        decrypt_page(data[at : at + size], at // size + 1, cipher, hmac_key, cipher_format)
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


def read_whole(path: str) -> bytes:
    """Return a file's bytes, or those of its parts PATH.001, PATH.002, ... (section 16)."""
    if os.path.exists(path) or not os.path.exists(f"{path}.001"):
        with open(path, "rb") as file:
            return file.read()
    data = b""
    number = 1
    while os.path.exists(f"{path}.{number:03}"):
        with open(f"{path}.{number:03}", "rb") as file:
            data += file.read()
        number += 1
    return data


def open_backup(path: str, passphrase: str, cipher_format: "int | None") -> "tuple[bytes, dict]":
    """Return the plain database and its verified manifest."""
    data = read_whole(path)
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
    how = opening.add_mutually_exclusive_group()
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
    elif arguments.passphrase_file is not None:
        passphrase, cipher_format = canonical(secret_in(arguments.passphrase_file)), None
    else:
        passphrase, cipher_format = canonical(getpass.getpass("Passphrase of the store: ")), None
    plain, manifest = open_backup(arguments.backup, passphrase, cipher_format)
    write_private(arguments.plain, plain)
    print(f"{arguments.plain}: {manifest['clients']['active']} clients, NOT encrypted", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError, ValueError, KeyError) as error:
        sys.exit(f"refused: {error}")
