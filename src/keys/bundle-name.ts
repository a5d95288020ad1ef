/** Returns the file name of the passphrase bundle for a key_id. */
export function bundleName(keyId: string): string {
  return `clients.${keyId}.bundle.age`;
}
