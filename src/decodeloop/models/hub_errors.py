"""What went wrong between this machine and the hub, and what to do: two phrases for one line of an error."""

from __future__ import annotations

from huggingface_hub import get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

from decodeloop.models.checkpoint import one_line

_ELSE = "or pass a local directory, or random_weights=True for the model's published shape with random weights"
_CHECK_TOKEN = f"Unset HF_TOKEN, or log in anew with `hf auth login`, {_ELSE}."


class BadAnswer(ValueError):
    """The hub's answer is not what its protocol says."""


class NoCheckpoint(OSError):
    """The hub has a repository of that name, and no decoder in it."""


def explain(name: str, error: BaseException) -> tuple[str, str]:
    """Why a hub model could not be had, and the next step.

    The client's transport is httpx or httpx2, as its version has it, and their errors are no OSErrors: they are told
    by their classes' names. None of them is repeated where it would show the token.
    """
    known = (HfHubHTTPError, OfflineModeIsEnabled)
    while error.__cause__ and not isinstance(error, known) and not type(error).__module__.startswith("httpx"):
        error = error.__cause__
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE=1 forbids asking the hub", f"Unset it, {_ELSE}."
    if isinstance(error, HfHubHTTPError):
        return _refused(name, error)
    if isinstance(error, NoCheckpoint):
        return str(error), f"Only safetensors are read: choose a repository that has them, {_ELSE}."
    if kinds & {"LocalProtocolError", "UnicodeEncodeError"} and get_token():
        return "the token cannot be sent, it holds characters that no token has", _CHECK_TOKEN
    said = f"{type(error).__name__}: {one_line(error)}"
    if "ProxyError" in kinds:
        return f"the proxy does not let it through ({said})", f"Check HTTPS_PROXY and HTTP_PROXY, {_ELSE}."
    if "TimeoutException" in kinds:
        return f"the Hugging Face hub does not answer in time ({said})", f"Try again later, {_ELSE}."
    if kinds & {"ConnectError", "UnsupportedProtocol", "InvalidURL"}:
        return f"the Hugging Face hub cannot be reached ({said})", f"Check the connection and HF_ENDPOINT, {_ELSE}."
    if kinds & {"HTTPError", "StreamError", "ConnectionError"}:
        return f"the connection to the hub broke ({said})", f"Try again, {_ELSE}."
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename!r}: " if error.filename else ""
        return f"the cache cannot be written ({where}{error.strerror})", f"Set HF_HOME to another folder, {_ELSE}."
    if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
        return (
            f"what the hub sent cannot be used ({said})",
            f"Try again, check HF_ENDPOINT and whether a proxy or a login page stands between, {_ELSE}.",
        )
    return f"the download failed ({said})", f"Try again, {_ELSE}."


def _refused(name: str, error: HfHubHTTPError) -> tuple[str, str]:
    """An answer of the hub that is a status, not what was asked for."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return (
            "its owner asks you to accept terms first",
            f"Accept them on the hub's page of {name}, then `hf auth login`, {_ELSE}.",
        )
    if status == 401 and get_token():
        return "the Hugging Face hub refuses the token (HF_TOKEN, or that of `hf auth login`)", _CHECK_TOKEN
    if status in (401, 404):
        return (
            "the Hugging Face hub has no such model (or it is private: `hf auth login`)",
            f'Check the name; "bundled" needs no hub; {_ELSE}.',
        )
    if status == 429:
        return "the Hugging Face hub has had too many requests (429)", f"Try again later or `hf auth login`, {_ELSE}."
    if status >= 500:
        return f"the Hugging Face hub cannot be reached (it answers {status})", f"Try again later, {_ELSE}."
    return f"the Hugging Face hub does not give it out ({status})", f"Look at its page on the hub, {_ELSE}."
