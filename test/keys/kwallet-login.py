"""Starts KWallet as a login to the KDE desktop does, which opens the wallet without a dialog.

kwallet-pam derives the wallet's key from the login's password, hands it to kwalletd5 through a
pipe, and the session's environment through a socket. Reads the password from standard input. A
wallet that does not exist is created, and is served from the next start on.
"""

import hashlib
import os
import socket
import sys

SALT_LENGTH = KEY_LENGTH = 56
ROUNDS = 50_000

wallets = os.path.expanduser("~/.local/share/kwalletd")
salt_path = os.path.join(wallets, "kdewallet.salt")


def read_salt():
    if not os.path.exists(salt_path):
        os.makedirs(wallets, exist_ok=True)
        with open(salt_path, "wb") as file:
            file.write(os.urandom(SALT_LENGTH))
    with open(salt_path, "rb") as file:
        return file.read()


def key_pipe(password):
    key = hashlib.pbkdf2_hmac("sha512", password, read_salt(), ROUNDS, KEY_LENGTH)
    reading, writing = os.pipe()
    os.write(writing, key)
    os.close(writing)
    return reading


def environment_socket(path):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1)
    with socket.socket(socket.AF_UNIX) as session:
        session.connect(path)
        lines = [f"{name}={value}\n" for name, value in os.environ.items()]
        session.sendall("".join(lines).encode())
    return listening.detach()


password = sys.stdin.buffer.read()
path = os.path.expanduser(f"~/kwallet-{os.getpid()}.socket")
descriptors = [key_pipe(password), environment_socket(path)]
for descriptor in descriptors:
    os.set_inheritable(descriptor, True)
os.environ["PAM_KWALLET5_LOGIN"] = path
os.execvp("kwalletd5", ["kwalletd5", "--pam-login", *map(str, descriptors)])
