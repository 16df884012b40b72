"""What a visitor can do about a refusal, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.ui.service import Refused

_BY_CODE = {
    "unreachable": ("No service there", "It may be restarting: try again. If it stays away, look at its log."),
    "query_too_long": ("The query is too long", "Shorten the query or the instruction."),
    "quota_exceeded": ("This key's share is used up", ""),
    "overloaded": ("The service is busy", ""),
    "not_ready": ("The model is still loading", ""),
    "start_failed": ("The model could not be loaded", "The service's log says why; whoever runs it must look there."),
    "deadline_exceeded": ("It took too long", "Send fewer or shorter documents, or try when there is less to do."),
    "request_too_large": ("Too much at once", "Send fewer or shorter documents."),
    "unknown_instruction": ("No such instruction", "Names begin with @; write the instruction out instead."),
}
_BY_STATUS = {
    400: ("The request was not understood", "Change what the sentence above names."),
    401: (
        "An API key is needed",
        "Put your key into the field at the top; whoever runs the service has it.",
    ),
    403: ("Not allowed with this key", "Use a key that may do this."),
    404: ("Not found", "This service may be another version. Look at its /docs."),
    408: ("The request did not arrive in time", "Try again."),
    413: ("Too much at once", "Send fewer or shorter documents."),
    429: ("The service is busy", ""),
    503: ("The service is not ready", ""),
    504: ("It took too long", "Send fewer or shorter documents."),
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What is shown in place of an answer."""

    title: str
    said: str
    """The service's own sentence."""
    remedy: str


def advice(refused: Refused) -> Advice:
    """Say what happened and what to do."""
    ours = ("The service failed", "Try again; if it happens again, its log says more.")
    title, remedy = _BY_CODE.get(refused.code) or _BY_STATUS.get(refused.status) or ours
    if refused.code == "unauthorized" and "not known" in refused.message:
        title, remedy = "This API key is not known", "Check the key at the top of the page: no space, nothing missing."
    if not remedy:
        wait = refused.retry_after_s
        remedy = f"Try again in {wait} second{'s' * (wait != 1)}." if wait is not None else "Try again in a moment."
    return Advice(title, refused.message[:1].upper() + refused.message[1:], remedy)
