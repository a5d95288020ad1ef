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
   * @param options.alwaysAsk - whether to ask even if all questions were confirmed in advance, as
   *   with --yes
   * @throws {@link StoreError} refused - if the answer is no
   * @throws {@link StoreError} usage - if there is no terminal to ask on
   */
  confirm(question: string, options?: { readonly alwaysAsk?: boolean }): Promise<void>;
}
