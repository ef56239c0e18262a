"""Where ComfyUI calls a node: the one place where its contact with DT is bounded, its errors are put into words, and
what it tells is shown."""

from __future__ import annotations

import functools
from typing import Any

from ..luna_dt import LunaError
from . import contact, host, words


def guarded(node: type[Any]) -> type[Any]:
    """The node, with ``run`` and ``IS_CHANGED`` as ComfyUI is to call them."""
    run = node.run

    @functools.wraps(run)
    def runs(self: Any, *given: Any, **inputs: Any) -> Any:
        try:
            with contact.within(host.heed_interruption):
                answer = run(self, *given, **inputs)
        except LunaError as error:
            raise words.raised(error) from error
        # the page itself shows the texts of ComfyUI's own nodes only
        if isinstance(answer, dict) and (told := answer.get("ui", {}).get("text")):
            host.show_text(host.running_node(), node.__name__, "\n".join(told))
        return answer

    node.run = runs
    if hasattr(node, "IS_CHANGED"):
        changed = node.IS_CHANGED

        def is_changed(_: Any, /, *given: Any, **inputs: Any) -> str:
            try:
                with contact.within(_leave_when_interrupted):
                    return str(changed(*given, **inputs))
            except LunaError as error:  # which the run that follows will tell
                return str(error)

        node.IS_CHANGED = classmethod(is_changed)
    return node


def _leave_when_interrupted() -> None:
    """ComfyUI swallows what is raised here, its own interruption too, which is kept for the run."""
    if host.interrupted():
        raise contact.Left("interrupted")
