/**
 * The output of an operation. The command prints it; a caller of the library implements its own.
 */
export interface Reporter {
  /** Reports information for the user in addition to the result. */
  notice(text: string): void;
  /** Reports a step of the work. */
  detail(text: string): void;
  /**
   * Asks a yes-or-no question. Returns if the answer is yes.
   *
   * @throws {@link StoreError} refused - if the answer is no
   * @throws {@link StoreError} usage - if there is no terminal to ask on
   */
  confirm(question: string): Promise<void>;
  /**
   * Asks like `confirm` a question that must not be confirmed in advance, as with --yes. Without
   * this function such a question counts as not confirmed.
   *
   * @throws {@link StoreError} refused - if the answer is no
   * @throws {@link StoreError} usage - if there is no terminal to ask on
   */
  confirmOnTerminal?(question: string): Promise<void>;
}
