/** Control characters, line separators and bidirectional marks, which could rewrite the screen. */
const unprintable = /[\p{Cc}\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/** The maximal length of a client's name in a sentence. */
const nameLimit = 60;

/** Replaces each character that can move the cursor or reorder the line by its `\uXXXX` escape. */
export function escapeControlCharacters(text: string): string {
  return text.replace(
    unprintable,
    (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`,
  );
}

/** Returns a client's id and shortened name, for a sentence. */
export function describeClient(id: number, name: string | null): string {
  if (!name) return `${id}`;
  const shown = name.length > nameLimit ? `${name.slice(0, nameLimit)}…` : name;
  return `${id} (${escapeControlCharacters(shown)})`;
}

/** Quotes an argument for a POSIX shell. */
export function shellQuote(argument: string): string {
  return `'${argument.replaceAll("'", "'\\''")}'`;
}
