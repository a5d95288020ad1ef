/** How an operation reports to its caller. The command prints; a library's caller brings its own. */
export interface Reporter {
  /** Reports something that the user should know besides the result. */
  notice(text: string): void;
  /** Reports a step of the work, for users who follow it. */
  detail(text: string): void;
  /**
   * Asks a yes-or-no question; returns if the answer is yes.
   *
   * @throws {@link StoreError} refused - if the answer is no
   * @throws {@link StoreError} usage - if there is no terminal to ask on
   */
  confirm(question: string): Promise<void>;
}
