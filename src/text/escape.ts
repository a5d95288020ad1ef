/** Control characters, line separators, and marks that reorder text: what could rewrite the screen. */
const unprintable = /[\p{Cc}\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/** How much is shown of a name in the middle of a sentence, which is not to be filled by one. */
const longestName = 60;

/** Makes a value safe to show: what could move the cursor or reorder the line becomes visible. */
export function escapeControlCharacters(text: string): string {
  return text.replace(
    unprintable,
    (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`,
  );
}

/** A client in a sentence: its id, and its name in so far as that can be shown there. */
export function describeClient(id: number, name: string | null): string {
  if (!name) return `${id}`;
  const shown = name.length > longestName ? `${name.slice(0, longestName)}…` : name;
  return `${id} (${escapeControlCharacters(shown)})`;
}
