/** Problems that a survey reports instead of throwing an error. */
import { StoreError } from "../errors.js";

export interface Problem {
  readonly message: string;
  readonly hint: string | undefined;
}

export function toProblem({ message, hint }: StoreError): Problem {
  return { message, hint };
}

/** Returns the error that a check throws; undefined if the check succeeds. */
export async function findProblem(check: () => Promise<unknown>): Promise<Problem | undefined> {
  try {
    await check();
    return undefined;
  } catch (error) {
    if (error instanceof StoreError) return toProblem(error);
    throw error;
  }
}
