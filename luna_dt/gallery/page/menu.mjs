// A menu beside the pointer, that closes when another thing is done.
import { button, h } from "./dom.mjs";

/** Shows [label, action] pairs (null: a line) at a place of the window, within ``inside``. */
export function showMenu(inside, pairs, x, y) {
  const before = document.activeElement;
  const items = [];
  const menu = h("div", { className: "luna-menu", role: "menu", onkeydown: key });
  for (const pair of pairs) {
    if (!pair) menu.append(h("hr", { role: "separator" }));
    else {
      items.push(button(pair[0], () => (close(), pair[1]()), { role: "menuitem", tabIndex: -1 }));
      menu.append(items.at(-1));
    }
  }
  inside.append(menu);
  const { width, height } = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(4, Math.min(x, innerWidth - width - 4))}px`;
  menu.style.top = `${Math.max(4, Math.min(y, innerHeight - height - 4))}px`;
  items[0]?.focus();
  const away = (event) => menu.contains(event.target) || close();
  document.addEventListener("pointerdown", away, true);

  function close() {
    document.removeEventListener("pointerdown", away, true);
    menu.remove();
    before?.focus?.();
  }

  function key(event) {
    const at = items.indexOf(document.activeElement);
    if (event.key === "Escape" || event.key === "Tab") close();
    else if (event.key === "ArrowDown") items[(at + 1) % items.length].focus();
    else if (event.key === "ArrowUp") items[(at - 1 + items.length) % items.length].focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
