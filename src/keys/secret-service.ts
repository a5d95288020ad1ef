/**
 * The parts of freedesktop.org's Secret Service API that keytar lacks: listing entries, finding
 * locked entries, and unlocking with a dialog that can be cancelled.
 *
 * keytar returns nothing both for a locked entry and for a missing entry. While a dialog is open,
 * keytar blocks a thread, and the process cannot exit.
 */
import { setTimeout as delay, setInterval } from "node:timers/promises";
import type { Environment } from "../config/paths.js";
import { Bus, BusError, busName } from "../dbus/client.js";
import { Variant } from "../dbus/message.js";
import { currentInteraction } from "../process/interaction.js";
import { isInterruptible } from "../process/signals.js";
import { identifyProvider, type Provider, unknownProvider } from "./provider.js";

/** How long a user has to answer a dialog. */
export const promptTimeoutMs = 60_000;
/** Without a desktop, a provider closes a dialog at once. Such a dialog needs no notice. */
const noticeDelayMs = 1_000;
/** The interval at which the collection of an open dialog is polled. */
const pollMs = 1_000;
/**
 * Providers whose open dialog must not be dismissed: gnome-keyring 42 aborts, and oo7 0.7 only
 * ignores the answer to the dialog, which stays on the screen.
 */
const undismissable: readonly Provider["kind"][] = ["gnome-keyring", "oo7"];
const maxAttempts = 4;
const retryDelayMs = 150;

const serviceName = "org.freedesktop.secrets";
const servicePath = "/org/freedesktop/secrets";
const serviceInterface = "org.freedesktop.Secret.Service";
const collectionInterface = "org.freedesktop.Secret.Collection";
const itemInterface = "org.freedesktop.Secret.Item";
const promptInterface = "org.freedesktop.Secret.Prompt";
const propertiesInterface = "org.freedesktop.DBus.Properties";
const sessionCollection = `${servicePath}/collection/session`;
/** The object path for "none". */
const noPath = "/";

type MethodCall = [
  member: string,
  signature: string,
  args: readonly unknown[],
  replySignature: string,
];

export class ProviderEndedError extends Error {}

export class PromptTimeoutError extends Error {}

export class NoPromptError extends Error {}

export interface Items {
  /** Object paths. */
  readonly unlocked: readonly string[];
  readonly locked: readonly string[];
}

export type Attributes = Readonly<Record<string, string>>;

export class SecretService implements AsyncDisposable {
  readonly #bus: Bus;

  private constructor(bus: Bus) {
    this.#bus = bus;
  }

  /** @throws what {@link Bus.session} throws */
  static async connect(environment: Environment): Promise<SecretService> {
    return new SecretService(await Bus.session(environment, currentInteraction().signal));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#bus.close();
  }

  /** Returns the running provider. The bus knows it even if the provider does not reply. */
  async findProvider(): Promise<Provider> {
    try {
      const [pid] = await this.#bus.callBus("GetConnectionUnixProcessID", serviceName, "u");
      return await identifyProvider(Number(pid));
    } catch {
      return unknownProvider;
    }
  }

  /**
   * Returns the default collection's path, or undefined if there is none. A busy or starting
   * provider briefly replies "none", so this asks several times before it accepts that reply.
   */
  async findDefaultCollection(): Promise<string | undefined> {
    for (let count = 1; ; count++) {
      const [path] = await this.#call("ReadAlias", "s", ["default"], "o");
      if (path !== noPath) return String(path);
      if (count === maxAttempts) return undefined;
      await delay(retryDelayMs);
    }
  }

  /** Returns the items with all of these attributes, in every collection. */
  async search(attributes: Attributes): Promise<Items> {
    const args = [new Map(Object.entries(attributes))];
    const [unlocked, locked] = await this.#call("SearchItems", "a{ss}", args, "aoao");
    return { unlocked: unlocked as string[], locked: locked as string[] };
  }

  async isLocked(collection: string): Promise<boolean> {
    return (await this.#readProperty(collection, collectionInterface, "Locked", "b")) === true;
  }

  /** Returns an item's attribute, or undefined if the item or the attribute does not exist. */
  async readAttribute(item: string, name: string): Promise<string | undefined> {
    try {
      const all = await this.#readProperty(item, itemInterface, "Attributes", "a{ss}");
      return (all as Map<string, string>).get(name);
    } catch (error) {
      if (error instanceof BusError) return undefined;
      throw error;
    }
  }

  /** Returns a collection's label as shown to its user. */
  async readLabel(collection: string): Promise<string> {
    const name = collection.slice(collection.lastIndexOf("/") + 1);
    try {
      // gnome-keyring's session collection has an empty label.
      return (
        String(await this.#readProperty(collection, collectionInterface, "Label", "s")) || name
      );
    } catch (error) {
      if (error instanceof BusError) return name;
      throw error;
    }
  }

  /**
   * Unlocks a collection or an item, which may show a dialog.
   *
   * @returns false if the user dismissed the dialog, or if there is no desktop to show it
   * @throws {@link NoPromptError} if the provider cannot show a dialog
   * @throws {@link PromptTimeoutError} if the dialog is not answered in time
   * @throws {@link ProviderEndedError} if the provider ends
   */
  async unlock(path: string): Promise<boolean> {
    const [, prompt] = await this.#call("Unlock", "ao", [[path]], "aoo");
    if (prompt === noPath) return true;
    // oo7 0.7 shows no dialog to a client without a session: it does not know the client's display.
    await this.#openSession();
    return await this.#prompt(String(prompt), () => this.#isUnlocked(path));
  }

  /** Returns whether a collection is unlocked; false for an item. */
  async #isUnlocked(path: string): Promise<boolean> {
    try {
      return !(await this.isLocked(path));
    } catch {
      return false;
    }
  }

  /**
   * Returns an item's secret over an unencrypted session. A process that can read the bus's traffic
   * can request the secret as well.
   */
  async readSecret(item: string): Promise<string> {
    const session = await this.#openSession();
    const args = [session];
    const [secret] = await this.#callOn(item, itemInterface, "GetSecret", "o", args, "(oayays)");
    return ((secret as unknown[])[2] as Buffer).toString("utf8");
  }

  /** Opens an unencrypted session, which ends with the connection, and returns its path. */
  async #openSession(): Promise<unknown> {
    const args = ["plain", new Variant("s", "")];
    const [, session] = await this.#call("OpenSession", "sv", args, "vo");
    return session;
  }

  /**
   * Shows a dialog and waits until it is completed. Returns false if the user dismissed it.
   *
   * Also returns true when `isDone` does: oo7 0.7 keeps the dialogs of ended commands, and the user
   * may unlock the keyring in an earlier dialog. Returns false when oo7 has lost a dismissal:
   * gcr-prompter sends PromptReady and then PromptDone, oo7 handles both at once, and if PromptDone
   * is first, the prompt object is removed without `Completed` (`prompt_ready` and `prompt_done` in
   * oo7's gnome/prompter.rs).
   */
  async #prompt(path: string, isDone: () => Promise<boolean>): Promise<boolean> {
    const bus = this.#bus;
    const [owner] = await bus.callBus("GetNameOwner", serviceName, "s");
    const { kind, name } = await this.findProvider();
    const stopNotice = announceDialog(name, currentInteraction().notice);
    const ended = new AbortController();
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    const dismiss = () => {
      if (undismissable.includes(kind)) return;
      this.#callOn(path, promptInterface, "Dismiss", "", [], "").catch(() => undefined);
    };
    const timer = setTimeout(() => {
      dismiss();
      reject(new PromptTimeoutError(`no answer within ${promptTimeoutMs / 1000} seconds`));
    }, promptTimeoutMs);
    timer.unref();
    const pollUntilDone = async () => {
      const options = { ref: false, signal: ended.signal };
      for await (const _ of setInterval(pollMs, undefined, options)) {
        const isGone = kind === "oo7" && !(await this.#isPrompt(path));
        if (await isDone()) {
          dismiss();
          resolve(true);
        } else if (isGone) resolve(false);
      }
    };
    const start = async () => {
      // Subscribe before Prompt(), because a fast completion would be missed.
      await bus.subscribe(
        { sender: String(owner), path, interface: promptInterface, member: "Completed" },
        ([isDismissed]) => resolve(isDismissed !== true),
      );
      await bus.subscribe(
        {
          sender: busName,
          path: "/org/freedesktop/DBus",
          interface: busName,
          member: "NameOwnerChanged",
          arg0: serviceName,
        },
        () => reject(new ProviderEndedError("the keyring's program ended")),
      );
      await this.#callOn(path, promptInterface, "Prompt", "s", [""], "").catch((error) => {
        throw error instanceof BusError ? new NoPromptError(error.message) : error;
      });
    };
    bus.onFailure(reject);
    pollUntilDone().catch(() => undefined);
    start().catch(reject);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      ended.abort();
      stopNotice();
    }
  }

  async #isPrompt(path: string): Promise<boolean> {
    try {
      await this.#callOn(path, propertiesInterface, "GetAll", "s", [promptInterface], "a{sv}");
      return true;
    } catch (error) {
      return !(error instanceof BusError && /\.Unknown\w+$/.test(error.errorName));
    }
  }

  #callOn(
    path: string,
    interfaceName: string,
    ...[member, signature, args, replySignature]: MethodCall
  ): Promise<readonly unknown[]> {
    const object = { destination: serviceName, path, interface: interfaceName };
    return this.#bus.call({ ...object, member, signature, args }, replySignature);
  }

  /** Calls a method of the service itself. */
  async #call(...call: MethodCall): Promise<readonly unknown[]> {
    for (let count = 1; ; count++) {
      try {
        return await this.#callOn(servicePath, serviceInterface, ...call);
      } catch (error) {
        // Under load, gnome-keyring sometimes replies that the method does not exist.
        const isTransient = error instanceof BusError && error.errorName.endsWith(".UnknownMethod");
        if (!isTransient || count === maxAttempts) throw error;
        await delay(retryDelayMs);
      }
    }
  }

  async #readProperty(
    path: string,
    interfaceName: string,
    name: string,
    signature: string,
  ): Promise<unknown> {
    const args = [interfaceName, name];
    const [variant] = await this.#callOn(path, propertiesInterface, "Get", "ss", args, "v");
    const { signature: found, value } = variant as Variant;
    if (found !== signature) throw new BusError("", `${name} has the type ${found}`);
    return value;
  }
}

/**
 * Prints a notice about an open dialog after a delay. Returns a function that cancels the notice.
 */
export function announceDialog(
  provider: string,
  notice: ((text: string) => void) | undefined,
): () => void {
  const way = isInterruptible() ? " (Ctrl-C cancels)" : "";
  const text = `waiting for ${provider}: answer its dialog within ${promptTimeoutMs / 1000} seconds${way}`;
  const timer = setTimeout(() => notice?.(text), noticeDelayMs);
  return () => clearTimeout(timer);
}

export function collectionOf(item: string): string {
  return item.slice(0, item.lastIndexOf("/"));
}

/** Returns whether a collection is lost at logout. */
export function isSessionCollection(collection: string): boolean {
  return collection === sessionCollection;
}
