/**
 * zod's small form, with its messages in English. What every command loads describes its shapes with it: zod's own form,
 * whose schemas come with all their methods, takes five times as long to load.
 */
import { config } from "zod/mini";
import english from "zod/v4/locales/en.js";

config(english());

export * from "zod/mini";
