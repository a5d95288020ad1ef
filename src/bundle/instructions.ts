/**
 * The words inside a bundle for somebody who has the bundle, a backup, and none of this software.
 */
import type { CipherCompatibility } from "../store/cipher.js";

/**
 * How to open a store by hand. It shows no passphrase: that is the field beside it.
 */
export function howToOpen(cipherCompatibility: CipherCompatibility): string[] {
  const compatibility =
    cipherCompatibility === 3
      ? ["    PRAGMA cipher_compatibility = 3;   -- needed by SQLCipher 4"]
      : [];
  const shell =
    cipherCompatibility === 3
      ? "With SQLCipher's own shell, version 3 or later (Debian: apt-get install sqlcipher):"
      : "With SQLCipher's own shell, 4 or later (Debian 13, Ubuntu 24.04; in Debian 12 from bookworm-backports):";
  const pythonCompatibility =
    cipherCompatibility === 3 ? ['    db.execute("PRAGMA cipher_compatibility = 3")'] : [];
  return [
    "This is the passphrase of HiveMind's client store (an SQLite database encrypted by SQLCipher) and of its backups:",
    "of every file whose first 8 bytes, in hexadecimal, are the key_id above (xxd -p -l 8 FILE).",
    "",
    "You have read this with age (https://age-encryption.org):",
    "    age -d -i RECOVERY-KEY-FILE BUNDLE",
    "or, if it asked for a passphrase, with: age -d BUNDLE",
    "",
    'Work on a copy of the backup. PASSPHRASE below is the field "passphrase" above; in it, write every \' twice.',
    "",
    shell,
    "    sqlcipher COPY.db",
    "    PRAGMA key = 'PASSPHRASE';",
    ...compatibility,
    "    SELECT client_id, name, api_key FROM clients;",
    "(~/.sqlite_history keeps what is typed there; what .read FILE reads it does not.)",
    "",
    "With Python 3 (python3 -m venv v; v/bin/pip install sqlcipher3; v/bin/python):",
    "    import json, sqlcipher3",
    "    passphrase = json.load(open('DECRYPTED-BUNDLE'))['passphrase']",
    "    db = sqlcipher3.connect('COPY.db')",
    '    db.execute("PRAGMA key = \'" + passphrase.replace("\'", "\'\'") + "\'")',
    ...pythonCompatibility,
    "    print(db.execute('SELECT client_id, name, api_key FROM clients').fetchall())",
    "",
    "To put a backup back in place, with hivemind-sqlcipher installed:",
    "    hivemind-sqlcipher restore BACKUP.db --bundle BUNDLE --identity RECOVERY-KEY-FILE",
  ];
}
