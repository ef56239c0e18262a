// What the page asks the library, by ids alone.
const API = new URL("../api/", import.meta.url);
const MOST_RECORDS = 6000; // that are remembered, so that the page's memory stays flat
const AT_ONCE = 200; // records that are asked for in one go

/** An answer that says why there is none: its code is stable, at is the character of a query that cannot be read. */
export class Problem extends Error {
  constructor(told) {
    super(told.detail ?? "the gallery does not answer");
    this.code = told.code ?? "unreachable";
    this.at = told.at;
    this.away = Boolean(told.dt_away); // DT did not answer; the program behind this page does
  }
}

async function ask(name, { method = "GET", values = {}, body, signal } = {}) {
  const url = new URL(name, API);
  for (const [key, value] of Object.entries(values)) url.searchParams.set(key, value);
  let answer;
  try {
    const headers = method === "POST" ? { "content-type": "application/json" } : {};
    answer = await fetch(url, { method, signal, headers, body: method === "POST" ? JSON.stringify(body ?? {}) : body });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "unreachable", detail: "The program behind this page does not answer; is it still running?" });
  }
  if (answer.ok) return answer;
  throw new Problem(await answer.json().catch(() => ({})));
}

const json = async (name, options) => (await ask(name, options)).json();

export const status = () => json("status");
export const one = (id) => json("one", { values: { id } });
export const suggest = () => json("suggest");
export const clusters = () => json("clusters");
export const search = (body, signal) => json("search", { method: "POST", body, signal });
export const reference = (file) => json("reference", { method: "PUT", body: file });
export const sync = (accept = false) => json("sync", { method: "POST", body: { accept } });
export const stop = () => json("stop", { method: "POST" });
export const batches = () => json("batches");
export const batch = (id, what) => json("batch", { method: "POST", body: { id, do: what } });
export const outbox = () => json("outbox");
export const send = () => json("send", { method: "POST" });
export const exported = (ids, captions, trigger) => json("export", { method: "POST", body: { ids: ids.join(","), captions, trigger } });
export const doctor = () => json("doctor");
export const settings = () => json("settings");
export const change = (changes) => json("settings", { method: "POST", body: changes });

/** The ids that fit a query, in an order. */
export async function find(query, order, signal) {
  const answer = await ask("find", { values: { query, order }, signal });
  return new Float64Array(await answer.arrayBuffer());
}

const at = (name, values) => `${new URL(name, API)}?${new URLSearchParams(values)}`;
export const thumbnailAt = (id, size) => at("thumbnail", { id, size });
export const clusterAt = (id, size, veil) => at("cluster", { id, size, veil: veil ? "1" : "" });
export const pictureAt = (id) => at("picture", { id });
export const mapAt = (id, kind) => at("map", { id, kind });

/** Why a picture that was asked for by such an address was not shown; undefined where it is to be had now. */
export async function whyNot(address) {
  const answer = await fetch(address).catch(() => undefined);
  if (!answer) return new Problem({ detail: "The program behind this page does not answer; is it still running?" });
  return answer.ok ? undefined : new Problem(await answer.json().catch(() => ({})));
}

const VEIL = "luna_dt.veil";

/** What this browser keeps of how the page is looked at. */
export function stored(name, otherwise) {
  try {
    return localStorage.getItem(name) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Whether what is NSFW is blurred. */
export const isVeiled = () => stored(VEIL, "1") !== "0";
export function veil(yes) {
  localStorage.setItem(VEIL, yes ? "1" : "0");
  dispatchEvent(new Event(VEIL)); // pictures at nodes are beside the gallery
}

const known = new Map();

/** A record that is here already, if it is. */
export const record = (id) => known.get(id);

/** Whether a picture is blurred; one of which nothing is known yet may be NSFW. */
export const isHidden = (id) => isVeiled() && (record(id)?.nsfw ?? true);

/** Has the records of those ids here; those that are gone from the library stay unknown. */
export async function records(ids, signal) {
  const wanted = ids.filter((id) => !known.has(id));
  for (let from = 0; from < wanted.length; from += AT_ONCE) {
    for (const each of await json("records", { values: { ids: wanted.slice(from, from + AT_ONCE).join(",") }, signal })) {
      known.set(each.id, each);
    }
  }
  for (const id of known.keys()) {
    if (known.size <= MOST_RECORDS) break;
    if (!ids.includes(id)) known.delete(id);
  }
}

/** After a sync records may be others. */
export const forget = () => known.clear();
