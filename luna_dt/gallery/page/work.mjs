// What goes on: the sync, batches, what waits to be sent, and what is well.
import { button, count, h, said } from "./dom.mjs";
import * as data from "./data.mjs";
import { STILL } from "./states.mjs";

const LOOK = 1000; // milliseconds between two looks at a sync

export class Work {
  /** host: changed(failed) when a sync has ended, failed: why, and what may be done, tell(message), seen(status). */
  constructor(host) {
    this.host = host;
    this.bar = h("progress", { "aria-label": "Sync", max: 1 });
    this.told = h("span", { role: "status" });
    this.line = h("div", { className: "luna-row luna-notice", hidden: true }); // in the panel itself, while a sync runs
    this.syncing = h("div", { className: "luna-row luna-sync" });
    this.rest = h("div", {});
    this.element = h("dialog", { className: "luna-work", "aria-label": "Library" },
      h("div", { className: "luna-row" }, h("h2", {}, "Library"), button("×", () => this.element.close(), { "aria-label": "Close", className: "luna-close" })),
      this.syncing, this.rest);
  }

  async open() {
    this.element.showModal();
    await this.look();
    this.rest.replaceChildren(h("p", {}, "…"));
    const parts = await Promise.all([this.batches(), this.outbox()]);
    this.rest.replaceChildren(...parts, h("h3", {}, "Check"), button("check", (event) => this.check(event.target)));
  }

  /** Looks at the sync, and goes on while it runs; gives the library's status. */
  async look() {
    clearTimeout(this.timer);
    const now = await data.status().catch((problem) => {
      if (this.running) this.again(); // it may answer again
      throw problem;
    });
    const { running, kind, done, total, ended, number } = now.sync;
    this.running = running;
    this.seen ??= running ? number - 1 : number; // which sync was last seen to have ended: one may run between two looks
    this.bar.max = Math.max(1, total);
    this.bar.value = done;
    this.told.textContent = running ? `${kind || "asking DT"}: ${count(done)} of ${count(total)}`
      : ended.error ? `The last sync failed: ${ended.error}${ended.dt_away ? `. ${STILL}` : ""}`
      : ended.stopped ? "Stopped; the next sync goes on from there."
      : `${count(now.images)} images${now.synced ? `, synced ${new Date(now.synced).toLocaleString()}` : ""}`;
    const accept = () => ended.code === "another_dt" && button("take what is there", () => this.sync(true));
    this.syncing.replaceChildren(...[running ? button("stop", () => data.stop()) : button("sync", () => this.sync()),
      accept(), running && this.bar, this.told].filter(Boolean));
    this.line.hidden = !running;
    this.line.replaceChildren(...(running ? [h("span", {}, `syncing ${this.told.textContent}`),
      h("progress", { "aria-label": "Sync", max: this.bar.max, value: this.bar.value }), button("stop the sync", () => data.stop())] : []));
    this.host.seen(now);
    if (running) this.again();
    else if (number !== this.seen) {
      this.seen = number;
      data.forget();
      this.host.changed(ended.error && [this.told.textContent, accept()]);
    }
    return now;
  }

  again() {
    this.timer = setTimeout(() => this.look().catch(() => {}), LOOK);
  }

  async sync(accept = false) {
    this.running = true;
    await data.sync(accept).catch((problem) => this.host.tell(problem.message));
    await this.look();
  }

  async batches() {
    const all = await data.batches().catch(() => []);
    const act = (each, what) => button(what, async () => {
      await data.batch(each.id, what).catch((problem) => this.host.tell(problem.message));
      this.openAgain();
    });
    return h("section", {}, h("h3", {}, "Batches"), all.length ? h("ul", {}, all.slice(0, 30).map((each) =>
      h("li", {}, `${each.operation}, ${count(each.items)} items: ${Object.entries(each.counts).map(([state, n]) => `${n} ${state}`).join(", ")} `,
        each.open && act(each, "cancel"), each.counts.failed && act(each, "retry")))) : h("p", {}, "none"));
  }

  async outbox() {
    const waits = await data.outbox().catch(() => []);
    return h("section", {}, h("h3", {}, "Outbox"), waits.length ? [
      h("ul", {}, waits.slice(0, 100).map((each) =>
        h("li", {}, `${each.operation} of image ${each.source_image_id ?? "?"}: ${each.state}`, each.reason && said(`, ${each.reason}`)))),
      button("send now", async () => {
        await data.send().then(({ sent }) => this.host.tell(`${sent} sent`), (problem) => this.host.tell(problem.message));
        this.openAgain();
      })] : h("p", {}, "nothing waits"));
  }

  openAgain() {
    this.element.close();
    this.open();
  }

  async check(pressed) {
    pressed.disabled = true;
    const found = await data.doctor().catch((problem) => [{ about: "check", level: "trouble", says: problem.message, step: "" }]);
    pressed.replaceWith(findings(found));
  }
}

/** Doctor's findings as a list. */
export const findings = (found) => h("ul", { className: "luna-findings" }, found.map((each) =>
  h("li", { className: `luna-is-${each.level}` }, h("b", {}, `${each.about}: ${each.level}. `), said(each.says), each.step && said(` → ${each.step}`))));
