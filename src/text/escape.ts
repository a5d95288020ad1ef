/** Control characters, line separators and bidirectional marks, which could rewrite the screen. */
const unprintable = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu;

/** The maximal length of a client's name in a sentence. */
const nameLimit = 60;

/** Escapes each character that could rewrite the screen: U+202E becomes `\u202e`. */
export function escapeControlCharacters(text: string): string {
  return text.replace(
    unprintable,
    (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`,
  );
}

/** Returns a client's id and shortened name, for a sentence. */
export function describeClient(id: number, name: string | null): string {
  if (!name) return `${id}`;
  const characters = [...name];
  const shown =
    characters.length > nameLimit ? `${characters.slice(0, nameLimit).join("")}…` : name;
  return `${id} (${escapeControlCharacters(shown)})`;
}

export function shellQuote(argument: string): string {
  return `'${argument.replaceAll("'", "'\\''")}'`;
}
