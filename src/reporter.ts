/** How an operation speaks to whoever started it. The command's output is one; a library's caller brings another. */
export interface Reporter {
  /** Something the user should know besides the result. */
  notice(text: string): void;
  /** A step of the work, for those who want to follow it. */
  detail(text: string): void;
  /**
   * Asks a yes-or-no question, and returns if the answer is yes.
   *
   * @throws StoreError `refused` if the answer is no, `usage` if there is nobody to ask.
   */
  confirm(question: string): Promise<void>;
}
