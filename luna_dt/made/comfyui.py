"""A running ComfyUI, through its own HTTP calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, Refused, Unreachable
from .workflow import Prompt

if TYPE_CHECKING:
    import requests

TIMEOUT = 30  # seconds for one answer


class ComfyUI:
    """The ComfyUI at an address.  Raises Unreachable, Refused."""

    def __init__(self, address: str) -> None:
        import requests

        self.address = address.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False

    def _call(self, method: str, path: str, **options: Any) -> Any:
        import requests

        try:
            answer = self._session.request(method, self.address + path, timeout=TIMEOUT, **options)
        except requests.RequestException as error:
            raise Unreachable(
                f"ComfyUI at {self.address} does not answer; start it, or name another with --comfyui"
            ) from error
        if answer.status_code == 400:
            raise BadInput(f"ComfyUI refuses the workflow: {_refusal(answer)}")
        if answer.status_code != 200:
            raise Refused(f"ComfyUI at {self.address} answers {path} with {answer.status_code}", answer.status_code)
        return answer.json() if answer.content else None

    def queue(self, prompt: Prompt, prompt_id: str, extra: Mapping[str, Any]) -> None:
        """Raises BadInput with ComfyUI's own reason when it does not take the workflow."""
        body = {"prompt": prompt, "prompt_id": prompt_id, "extra_data": dict(extra)}
        if client := extra.get("client_id"):
            body["client_id"] = client
        self._call("POST", "/prompt", json=body)

    def waiting(self) -> tuple[set[str], set[str]]:
        """The ids that run, and those that wait."""
        found = self._call("GET", "/queue")
        return {str(i[1]) for i in found["queue_running"]}, {str(i[1]) for i in found["queue_pending"]}

    def remaining(self) -> int | None:
        """How many run or wait, ours and others'; None where it does not say.  The queue itself has every workflow whole."""
        count = (self._call("GET", "/prompt") or {}).get("exec_info", {}).get("queue_remaining")
        return None if count is None else int(count)

    def outcome(self, prompt_id: str) -> tuple[str, str, dict[str, Any]] | None:
        """How a run ended (done, failed, cancelled), its error and what its nodes showed; None if nothing is known."""
        entry = (self._call("GET", f"/history/{prompt_id}") or {}).get(prompt_id)
        if entry is None:
            return None
        status = entry.get("status") or {}
        for kind, told in status.get("messages") or ():
            if kind == "execution_interrupted":
                return "cancelled", "interrupted in ComfyUI", {}
            if kind == "execution_error":
                reason = str(told.get("exception_message")).strip()
                return "failed", f"{told.get('node_type')}: {reason}", {}
        if status.get("status_str") == "error":
            return "failed", "ComfyUI says no more than that it failed", {}
        return "done", "", entry.get("outputs") or {}

    def cancel(self, prompt_ids: Sequence[str]) -> set[str]:
        """Takes runs out of the queue; what runs already is interrupted, and given: it may end all the same."""
        self._call("POST", "/queue", json={"delete": list(prompt_ids)})
        running, _ = self.waiting()
        interrupted = running & set(prompt_ids)
        for prompt_id in interrupted:
            self._call("POST", "/interrupt", json={"prompt_id": prompt_id})
        return interrupted


def _refusal(answer: requests.Response) -> str:
    try:
        told = answer.json()
        reasons = [str(told["error"]["message"])]
        for node in (told.get("node_errors") or {}).values():
            reasons += [f"{node['class_type']}: {each['message']} ({each['details']})" for each in node["errors"]]
        return "; ".join(reasons)
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]
