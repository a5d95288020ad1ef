#!/usr/bin/env python3
"""Open a passphrase bundle and a backup of hivemind-sqlcipher without hivemind-sqlcipher, age or SQLCipher.

    open_backup.py show BUNDLE --identity RECOVERY-KEY-FILE
    open_backup.py open BACKUP.db PLAIN.db --bundle BUNDLE --identity RECOVERY-KEY-FILE
    open_backup.py open BACKUP.db PLAIN.db [--passphrase-file FILE]

`show` prints the contents of the bundle, including the passphrase. `open` verifies the manifest and every page, and
writes the database to PLAIN.db, a new file. PLAIN.db is NOT encrypted: write it to memory, such as /dev/shm. With
neither a bundle nor a file, `open` asks for the store's passphrase. To open a backup in parts (BACKUP.db.001,
BACKUP.db.002, ...), name it BACKUP.db.

The section numbers in this program are those of docs/reference/formats.md. It needs Python 3.9 or later and nothing
else: it calls the OpenSSL, 1.1.1 or later, that Python is linked with. Exit code 1: refused, and PLAIN.db was not
written.
"""
import _ssl
import argparse
import base64
import ctypes
import ctypes.util
import getpass
import hashlib
import hmac
import json
import os
import re
import sys
from collections.abc import Iterable


class Refused(Exception):
    """An input is malformed or altered, or two inputs do not belong together."""


def hkdf_sha256(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of RFC 5869: a single block of output."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# Ciphers: those of the OpenSSL that Python itself is linked with


def load_libcrypto() -> ctypes.CDLL:
    """Return OpenSSL's libcrypto. A handle on Python's module `_ssl` also finds the functions of its libraries."""
    for name in (getattr(_ssl, "__file__", None), ctypes.util.find_library("crypto"), "libcrypto.so.3"):
        try:
            library = ctypes.CDLL(name) if name else None
            if library is not None and library.EVP_CIPHER_CTX_new:
                return library
        except (OSError, AttributeError):
            continue
    sys.exit("refused: this Python has no OpenSSL that a program can call; install Debian's python3 and libssl3")


libcrypto = load_libcrypto()
for function in (
    "EVP_CIPHER_CTX_new EVP_aes_256_cbc EVP_chacha20_poly1305 EVP_PKEY_new_raw_private_key"
    " EVP_PKEY_new_raw_public_key EVP_PKEY_CTX_new"
).split():
    getattr(libcrypto, function).restype = ctypes.c_void_p
libcrypto.EVP_PKEY_derive_set_peer.argtypes = [ctypes.c_void_p] * 2

SET_TAG = 0x11
X25519 = 1034


class Decryptor:
    """Decrypts any number of texts with one cipher, without padding, and one key."""

    def __init__(self, cipher: int, key: bytes):
        self.context = ctypes.c_void_p(libcrypto.EVP_CIPHER_CTX_new())
        libcrypto.EVP_DecryptInit_ex(self.context, ctypes.c_void_p(cipher), None, key, None)

    def decrypt(self, iv: bytes, text: bytes, tag: bytes = b"") -> "bytes | None":
        """Return the plain text; None if the tag is wrong or the cipher is not available."""
        plain = ctypes.create_string_buffer(len(text) + 32)
        length = ctypes.c_int()
        done = libcrypto.EVP_DecryptInit_ex(self.context, None, None, None, iv) == 1
        libcrypto.EVP_CIPHER_CTX_set_padding(self.context, 0)
        if tag:
            done = libcrypto.EVP_CIPHER_CTX_ctrl(self.context, SET_TAG, len(tag), tag) == 1 and done
        done = libcrypto.EVP_DecryptUpdate(self.context, plain, ctypes.byref(length), text, len(text)) == 1 and done
        if not done or libcrypto.EVP_DecryptFinal_ex(self.context, plain, ctypes.byref(length)) != 1:
            return None
        return plain.raw[: len(text)]


def x25519(private: bytes, public: "bytes | None" = None) -> "bytes | None":
    """Return the secret that a private key shares with a public key (RFC 7748), or its own public key.

    None if a key is malformed, or the shared secret would be zero.
    """
    output = ctypes.create_string_buffer(32)
    length = ctypes.c_size_t(32)
    own = ctypes.c_void_p(libcrypto.EVP_PKEY_new_raw_private_key(X25519, None, private, ctypes.c_size_t(32)))
    if public is None:
        done = libcrypto.EVP_PKEY_get_raw_public_key(own, output, ctypes.byref(length)) == 1
        return output.raw if done else None
    peer = ctypes.c_void_p(
        libcrypto.EVP_PKEY_new_raw_public_key(X25519, None, public, ctypes.c_size_t(len(public)))
    )
    context = ctypes.c_void_p(libcrypto.EVP_PKEY_CTX_new(own, None))
    if not peer or libcrypto.EVP_PKEY_derive_init(context) != 1:
        return None
    if libcrypto.EVP_PKEY_derive_set_peer(context, peer) != 1:
        return None
    return output.raw if libcrypto.EVP_PKEY_derive(context, output, ctypes.byref(length)) == 1 else None


def chacha20_poly1305(key: bytes, nonce: bytes, sealed: bytes) -> "bytes | None":
    """Decrypt a text without additional data (RFC 8439); None if its tag is wrong."""
    if len(sealed) < 16:
        return None
    return Decryptor(libcrypto.EVP_chacha20_poly1305(), key).decrypt(nonce, sealed[:-16], sealed[-16:])


# The recovery key (section 4)

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def bech32_payload(text: str, prefix: str) -> bytes:
    """Return the bytes in a Bech32 text (BIP 173, of any length) with this prefix."""
    text = text.lower()
    if not text.startswith(prefix.lower() + "1"):
        raise Refused(f"the recovery key does not begin with {prefix}1")
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
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()]
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
            recipient, shared = x25519(identity), x25519(identity, share)
            if recipient is None or shared is None:
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


def open_bundle(path: str, identities: "list[bytes]", passphrases: "list[str]") -> dict:
    with open(path, "rb") as file:
        header, stanzas, mac, payload = split_age(unarmor(file.read()))
    file_key = file_key_by_identity(stanzas, identities) if identities else None
    for passphrase in passphrases:
        file_key = file_key or file_key_by_passphrase(stanzas, passphrase)
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


def decrypt_page(page: bytes, number: int, cipher: Decryptor, hmac_key: bytes, cipher_format: int) -> bytes:
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
    if plain is None:
        raise Refused("this machine's OpenSSL does not decrypt AES-256-CBC")
    return (PLAINTEXT_HEADER if number == 1 else b"") + plain + bytes(reserve)


def decrypt_database(data: bytes, key: bytes, cipher_format: int) -> bytes:
    size, digest, _, _, _ = FORMATS[cipher_format]
    if not data or len(data) % size != 0:
        raise Refused("the database is truncated: its last page is incomplete")
    hmac_salt = bytes(byte ^ 0x3A for byte in data[:16])
    hmac_key = hashlib.pbkdf2_hmac(digest, key, hmac_salt, 2, 32)
    cipher = Decryptor(libcrypto.EVP_aes_256_cbc(), key)
    pages = [
        decrypt_page(data[at : at + size], at // size + 1, cipher, hmac_key, cipher_format)
        for at in range(0, len(data), size)
    ]
    plain = b"".join(pages)
    if int.from_bytes(plain[28:32], "big") > len(pages):
        raise Refused("the database is truncated: pages are missing at its end")
    return plain


# The manifest (section 2)


def check_manifest(manifest: dict, name: str, data: bytes, keys: "Iterable[bytes]") -> bytes:
    """Verify the manifest and that it describes the backup. Return the first key with which it is signed."""
    if manifest.get("format") != "hivemind-sqlcipher backup" or manifest.get("version") != 1:
        raise Refused("not a manifest of version 1")
    sealed = {field: value for field, value in manifest.items() if field != "mac"}
    canonical = json.dumps(sealed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def is_signed_with(key: bytes) -> bool:
        mac_key = hkdf_sha256(key, data[:16], b"hivemind-sqlcipher manifest")
        mac = hmac.digest(mac_key, canonical.encode(), "sha256").hex()
        return hmac.compare_digest(mac, str(manifest.get("mac")))

    key = next(filter(is_signed_with, keys), None)
    if key is None:
        raise Refused("the manifest was altered, or the passphrase is wrong")
    # A copy in a target has the store's id in its name.
    copy = re.sub(r"\.db$", f".{manifest.get('store_id')}.db", manifest["file"])
    facts = {
        "file": manifest["file"] if name == copy else name,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "key_id": data[:8].hex(),
    }
    for field, fact in facts.items():
        if manifest[field] != fact:
            raise Refused(f"the backup's {field} is {fact}, but the manifest has {manifest[field]}")
    return key


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


def open_backup(path: str, passphrases: "list[str]", cipher_format: "int | None") -> "tuple[bytes, dict]":
    """Return the plain database and its verified manifest. Try the passphrases in turn."""
    data = read_whole(path)
    with open(os.path.splitext(path)[0] + ".manifest.json", encoding="utf-8") as file:
        manifest = json.load(file)
    if cipher_format is None:
        cipher_format = manifest.get("cipher_compatibility")
    if cipher_format not in FORMATS:
        raise Refused("unknown cipher_compatibility in the manifest")
    keys = (derive_key(passphrase, data[:16], cipher_format) for passphrase in passphrases)
    key = check_manifest(manifest, os.path.basename(path), data, keys)
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
    typed = passphrase.removeprefix("\ufeff").strip().upper().replace("O", "0").replace("I", "1").replace("L", "1")
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
            raise Refused(f"group {place + 1} of the {len(groups)} groups of the passphrase has a typing mistake")
    return "-".join(groups)


# The command


def secret_in(path: str) -> str:
    """Return a file's text without its final newline. Decode UTF-16 if the file begins with its byte order mark."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not text in UTF-8 or UTF-16") from None
    return re.sub(r"\r?\n\Z", "", text)


def passphrases_in(path: str) -> "list[str]":
    """Return the passphrases that a file may hold, in the order to try them (section 5)."""
    text = secret_in(path)
    whole = canonical(text)
    if whole != text:
        return [whole]
    first = re.split(r"\r\n|[\r\n]", text.removeprefix("\ufeff"))[0]
    return [whole] if first in ("", text) else [canonical(first), whole]


def contents_of(bundle: str, arguments: argparse.Namespace) -> dict:
    if arguments.identity is not None:
        return open_bundle(bundle, read_identities(secret_in(arguments.identity)), [])
    if arguments.bundle_passphrase_file is not None:
        return open_bundle(bundle, [], passphrases_in(arguments.bundle_passphrase_file))
    return open_bundle(bundle, [], [getpass.getpass("Passphrase of the bundle: ")])


def write_private(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException:  # Ctrl-C, too
        os.unlink(path)
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print the contents of a bundle")
    show.add_argument("bundle")
    opening = commands.add_parser("open", help="decrypt a backup into a plain SQLite file")
    opening.add_argument("backup")
    opening.add_argument("plain")
    how = opening.add_mutually_exclusive_group()
    how.add_argument("--bundle", help="read the store's passphrase from this bundle")
    how.add_argument("--passphrase-file", help="read the store's passphrase from this file")
    for command in (show, opening):
        key = command.add_mutually_exclusive_group()
        key.add_argument("-i", "--identity", help="open the bundle with the recovery key in this file")
        key.add_argument("--bundle-passphrase-file", help="open the bundle with the passphrase in this file")
    arguments = parser.parse_args()
    if arguments.command == "open" and arguments.bundle is None:
        if arguments.identity is not None or arguments.bundle_passphrase_file is not None:
            parser.error("--identity and --bundle-passphrase-file open a bundle: name it with --bundle")

    if arguments.command == "show":
        print(json.dumps(contents_of(arguments.bundle, arguments), indent=2, ensure_ascii=False))
        return
    if arguments.bundle is not None:
        contents = contents_of(arguments.bundle, arguments)
        passphrases, cipher_format = [contents["passphrase"]], contents["cipher_compatibility"]
    elif arguments.passphrase_file is not None:
        passphrases, cipher_format = passphrases_in(arguments.passphrase_file), None
    else:
        passphrases, cipher_format = [canonical(getpass.getpass("Passphrase of the store: "))], None
    plain, manifest = open_backup(arguments.backup, passphrases, cipher_format)
    active = manifest["clients"]["active"]
    write_private(arguments.plain, plain)
    print(f"{arguments.plain}: {active} clients, NOT encrypted", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError, ValueError, KeyError) as error:
        sys.exit(f"refused: {error}")
