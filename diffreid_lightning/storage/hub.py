"""Get files of the Hugging Face hub: from the cache if possible, with a quick error without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import get_session
from lightning.pytorch.utilities import rank_zero_warn

from diffreid_lightning.errors import UserError

_REACH_SECONDS = 5.0
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_REMEDY = (
    "Give a local copy instead: init_from=local-dir:FOLDER (with config.json and model.safetensors), "
    "or download the repository once on a machine with a network."
)


def is_hub_id(name: str) -> bool:
    """Return true if a name has the form of a hub repository: ``owner/name``, optionally with ``@revision``."""
    return _HUB_ID.fullmatch(name) is not None


class MissingHubFile(UserError):
    """Raised for a file that a repository does not have."""


def hub_file(repo_id: str, filename: str, remedy: str = _REMEDY) -> Path:
    """Return the local path of one file of a hub repository, downloading it if the cache lacks it.

    The cache is read without the network. Before a download, one request tests the connection, because the hub's client
    retries a failed connection for tens of seconds.

    Args:
        repo_id: ``owner/name``, optionally with ``@revision``.
        filename: path of the file inside the repository.
        remedy: what the user can do if it is not available.

    Returns:
        Path of the file in the hub's cache.

    Raises:
        MissingHubFile: the repository has no such file.
        UserError: the file is not in the cache and cannot be downloaded: no network, no such repository.
    """
    repository, _, revision = repo_id.partition("@")
    try:
        return Path(hf_hub_download(repository, filename, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:  # the hub's own check of the name
        raise _unavailable_error(repo_id, filename, str(error), remedy) from error
    if try_to_load_from_cache(repository, filename, revision=revision or None) is _CACHED_NO_EXIST:
        raise MissingHubFile(f"{repo_id} has no {filename}.", remedy=remedy)
    obstacle = connection_obstacle()
    if obstacle:
        raise _unavailable_error(
            repo_id, filename, f"not in the cache ({constants.HF_HUB_CACHE}), and {obstacle}", remedy
        )
    try:
        return Path(hf_hub_download(repository, filename, revision=revision or None))
    except LocalEntryNotFoundError as error:
        raise _unavailable_error(repo_id, filename, "the connection to the hub was lost", remedy) from error
    except RepositoryNotFoundError as error:
        raise _unavailable_error(repo_id, filename, "no such repository, or it requires a login", remedy) from error
    except EntryNotFoundError as error:
        raise MissingHubFile(f"{repo_id} has no {filename}.", remedy=remedy) from error
    except HfHubHTTPError as error:
        raise _unavailable_error(repo_id, filename, str(error), remedy) from error


def hub_folder(repo_id: str, required: Sequence[str], optional: Sequence[str], remedy: str) -> Path:
    """Return the local folder of some files of a hub repository, all of one commit.

    Args:
        repo_id: ``owner/name``, optionally with ``@revision``.
        required: names of files that the repository must have.
        optional: names of files that it may have; they are left out where it lacks them, and with a
            warning where that cannot be asked.
        remedy: what the user can do if a required one is not available.

    Raises:
        UserError: a required file is not available.
    """
    folder = hub_file(repo_id, required[0], remedy).parent
    # The cache names a folder after its commit.
    pinned = f"{repo_id.partition('@')[0]}@{folder.name}"
    for name in required[1:]:
        hub_file(pinned, name, remedy)
    for name in optional:
        try:
            hub_file(pinned, name, remedy)
        except MissingHubFile:
            pass
        except UserError as error:
            rank_zero_warn(f"It is not known whether the hub's {repo_id} has {name}, which is left out: {error.found}")
    return folder


def connection_obstacle() -> str | None:
    """Send the hub one request; return the obstacle, None if it answers."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids a download"
    try:
        get_session().head(constants.ENDPOINT, timeout=_REACH_SECONDS)
    except Exception as error:  # the client's errors depend on the HTTP library behind it
        return f"{constants.ENDPOINT} cannot be reached ({error})"
    return None


def _unavailable_error(repo_id: str, filename: str, found: str, remedy: str) -> UserError:
    return UserError(
        f"The hub file {filename} of {repo_id} is not available.",
        looked_for=f"{filename} in the Hugging Face hub repository {repo_id}",
        found=found,
        remedy=remedy,
    )
