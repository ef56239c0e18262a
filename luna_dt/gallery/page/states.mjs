// What the page says where there is nothing to show, or less than was asked for: what it is, and the next step.
import { button, count, h, said } from "./dom.mjs";

/** Of a DT that does not answer: what works all the same. */
export const STILL = "What is synced is looked at and searched all the same; a sync waits for DT, and pictures whose files are not on this machine.";

/** What an empty page waits for. */
export function emptiness(status, asked) {
  if (!status.images && status.sync.running) return "The first sync is running; pictures come when it is done.";
  if (!status.images && status.synced) return `DT (${status.dt}) has no pictures. When it has, sync again.`;
  if (!status.images) return `Nothing is here yet: sync, to mirror DT (${status.dt}).`;
  if (asked.terms.length) return "Nothing is similar enough, or fits the query.";
  if (asked.query.trim()) return "No picture fits the query.";
  return `All of the ${count(status.images)} pictures are hidden: they are deleted, unavailable or NSFW. The setting “hide” says which are; the query nsfw: any finds those that are NSFW.`;
}

/** A line above the pictures, which stays until it is closed or no longer true. */
export class Notice {
  constructor() {
    this.told = h("span", { role: "status" });
    this.element = h("div", { className: "luna-row luna-notice", hidden: true }, this.told,
      button("×", () => this.hide(), { "aria-label": "Close the notice", className: "luna-close" }));
  }

  /** parts: texts, and buttons for what can be done. */
  show(...parts) {
    this.element.hidden = false;
    this.told.replaceChildren(...parts.filter(Boolean).flatMap((part) => [typeof part === "string" ? said(part) : part, " "]));
  }

  hide() {
    this.element.hidden = true;
    this.told.replaceChildren();
  }
}
