/** The instructions inside a bundle, for a reader with only the bundle and a backup. */
import type { CipherCompatibility } from "../store/cipher.js";
import type { BundleDescription } from "./bundle.js";

/**
 * Returns the instructions to open a store manually. They contain no passphrase: the bundle has a
 * field for it.
 */
export function formatInstructions(
  cipherCompatibility: CipherCompatibility,
  opensWith: BundleDescription["opensWith"],
): string[] {
  const compatibility =
    cipherCompatibility === 3
      ? ["    PRAGMA cipher_compatibility = 3;   -- needed by SQLCipher 4"]
      : [];
  const shell =
    cipherCompatibility === 3
      ? "With SQLCipher's own shell, version 3 or later (Debian: apt-get install sqlcipher):"
      : "With SQLCipher's own shell, 4 or later (Debian 13, Ubuntu 24.04; in Debian 12 from bookworm-backports):";
  const openerOption =
    opensWith === "recovery key" ? "--identity RECOVERY-KEY-FILE" : "--bundle-passphrase-file FILE";
  const pythonCompatibility =
    cipherCompatibility === 3 ? ['    db.execute("PRAGMA cipher_compatibility = 3")'] : [];
  return [
    "The passphrase above opens HiveMind's client store (an SQLite database encrypted by SQLCipher) and its backups:",
    "every file whose first 8 bytes, in hexadecimal, are the key_id above (xxd -p -l 8 FILE).",
    "",
    "This text was decrypted with age (https://age-encryption.org):",
    "    age -d -i RECOVERY-KEY-FILE BUNDLE",
    "or, if age asked for a passphrase, with: age -d BUNDLE",
    "",
    'Work on a copy of the backup. PASSPHRASE is the field "passphrase" above, without JSON escapes, each \' doubled.',
    "",
    shell,
    "    sqlcipher COPY.db",
    "    PRAGMA key = 'PASSPHRASE';",
    ...compatibility,
    "    SELECT client_id, name, api_key FROM clients;",
    "(~/.sqlite_history keeps typed lines; to avoid that, put them in a file and use .read FILE.)",
    "",
    "With Python 3 (python3 -m venv v; v/bin/pip install sqlcipher3; v/bin/python):",
    "    import json, sqlcipher3",
    "    passphrase = json.load(open('DECRYPTED-BUNDLE'))['passphrase']",
    "    db = sqlcipher3.connect('COPY.db')",
    '    db.execute("PRAGMA key = \'" + passphrase.replace("\'", "\'\'") + "\'")',
    ...pythonCompatibility,
    "    print(db.execute('SELECT client_id, name, api_key FROM clients').fetchall())",
    "",
    "To restore a backup with hivemind-sqlcipher:",
    `    hivemind-sqlcipher restore BACKUP.db --bundle BUNDLE ${openerOption}`,
  ];
}
