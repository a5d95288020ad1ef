/**
 * Receives the output and the questions of an operation. The command prints them; a caller of the
 * library implements this interface itself.
 */
export interface Reporter {
  /** Reports what the user should know in addition to the result. */
  notice(text: string): void;
  /** Reports a step of the work, for verbose output. */
  detail(text: string): void;
  /**
   * Asks a yes-or-no question. Returns if the answer is yes.
   *
   * @throws {@link StoreError} refused - if the answer is no
   * @throws {@link StoreError} usage - if there is no terminal to ask on
   */
  confirm(question: string): Promise<void>;
  /**
   * Asks a yes-or-no question as `confirm` does, but on the terminal even with `--yes`. If this
   * function is missing, the operation fails as if there were no terminal.
   *
   * @throws {@link StoreError} refused - if the answer is no
   * @throws {@link StoreError} usage - if there is no terminal to ask on
   */
  confirmOnTerminal?(question: string): Promise<void>;
}
