"""Upload a shared folder to the Hugging Face hub, and download one."""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from diffreid_lightning.errors import DiffReIDError, RunError, UserError, first_line, shorten
from diffreid_lightning.sharing.model_card import write_model_card
from diffreid_lightning.sharing.shared_folder import (
    FORMS,
    REAL_IMAGES,
    Kind,
    check_shared,
    find_shared,
    is_hidden,
    kind_of_files,
    list_files,
    refuse_other_files,
)
from diffreid_lightning.storage.atomic import describe_backup, exchange
from diffreid_lightning.storage.content_hash import add_content
from diffreid_lightning.storage.hub import connection_obstacle, is_hub_id

CARD = "README.md"
_DATASETS = "datasets/"
_HIDDEN = [".*", "*/.*"]
_MAIN = "main"
_SERVER_ERROR = 500
_HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "hf_xet")
_LOGIN = "set HF_TOKEN to a token that may {} there (https://huggingface.co/settings/tokens)"


def push(path: Path, repo: str, *, public: bool, revision: str | None, license: str | None) -> tuple[str, Kind, bool]:
    """Upload a folder so that the repository holds exactly its files and a card.

    A repository that is missing is created. Everything is checked before the first connection.

    Args:
        path: the folder, or a run folder in which it is the only one.
        repo: ``owner/name``.
        public: create the repository for everybody to see; otherwise it must be private.
        revision: branch, created if missing; None for ``main``.
        license: the hub's identifier, for a card that is written here.

    Returns:
        url: address of the repository.
        kind: what was uploaded.
        private: whether the repository is private.

    Raises:
        UserError: the folder cannot be shared, the repository holds something else or is public without ``public``, or
            the hub cannot be reached or refuses.
        RunError: the transfer broke off; the same command goes on.
    """
    folder, kind = find_shared(path)
    repo_id = _repo_id(repo.removeprefix(_DATASETS))
    check_shared(folder, kind)
    card = _card(folder, kind, repo_id, license)
    if public and (folder / REAL_IMAGES).is_file():
        raise UserError(
            f"{folder / REAL_IMAGES} shows real images of the training data, which --public would publish.",
            remedy=f"remove the picture and its lines in {CARD}, or push without --public",
        )
    _refuse_without_network(repo_id)
    api = HfApi(endpoint=constants.ENDPOINT)
    place: dict[str, Any] = {"repo_id": repo_id, "repo_type": kind.repo_type}
    with _translate_errors(repo_id, "write"):
        url = api.create_repo(**place, private=not public, exist_ok=True)
        private = bool(api.repo_info(**place).private)
        if not (private or public):
            raise UserError(f"{repo_id} is public.", remedy="give another repository, or --public if that is meant")
        if revision not in (None, _MAIN):
            api.create_branch(**place, branch=revision, exist_ok=True)
        _upload(api, {**place, "revision": revision or _MAIN}, folder, kind, card)
    return str(url), kind, private


def _card(folder: Path, kind: Kind, repo_id: str, license: str | None) -> bytes | None:
    """Write the card of a folder that has none; None where it has one."""
    if not (folder / CARD).is_file():
        return write_model_card(folder, kind, repo_id, license).encode()
    if license is None:
        return None
    raise UserError(
        f"{folder} has a card of its own.",
        found=str(folder / CARD),
        remedy=f"write the license into its header, as 'license: {license}', and leave --license out",
    )


def _upload(api: HfApi, place: Mapping[str, Any], folder: Path, kind: Kind, card: bytes | None) -> None:
    names = set(_files_there(api, place))
    there = names - {CARD}
    if there and kind_of_files(there) is not kind:
        raise UserError(
            f"The repository {place['repo_id']} holds something else.",
            looked_for=f"an empty repository, or {kind.name}",
            found=shorten(sorted(there), 6),
            remedy="give another repository",
        )
    if card is not None and CARD not in names:  # one that is there may have been edited
        api.create_commit(**place, operations=[CommitOperationAdd(CARD, card)], commit_message="Write the card")
    stale = [glob.escape(name) for name in sorted(there - set(list_files(folder)))]
    api.upload_folder(
        **place,
        folder_path=folder,
        commit_message=f"Upload {kind.name}",
        ignore_patterns=list(_HIDDEN),
        delete_patterns=stale or None,
    )


def pull(repo: str, out: Path, revision: str | None) -> tuple[Kind, bool]:
    """Download a repository into a new folder, whole or not at all; an interrupted download goes on.

    Args:
        repo: ``owner/name``; ``datasets/owner/name`` for the dataset where a model has the same name.
        out: the folder to write: new, empty, or with the same content.
        revision: branch, tag or commit; None for ``main``.

    Returns:
        kind: what came.
        already: whether ``out`` held it before.

    Raises:
        UserError: the repository is none of the three kinds, is damaged or holds pickles, ``out`` holds something else,
            or the hub cannot be reached or refuses.
        RunError: the transfer broke off; the same command goes on.
    """
    repo_id = _repo_id(repo.removeprefix(_DATASETS))
    _refuse_place(out)
    _refuse_without_network(repo_id)
    with _translate_errors(repo_id, "read"):
        place, files = _listing(HfApi(endpoint=constants.ENDPOINT), repo_id, repo.startswith(_DATASETS), revision)
    kind = kind_of_files(files)
    if kind is None:
        raise UserError(
            f"The repository {repo_id} is not one that pull reads.",
            looked_for=FORMS,
            found=shorten(sorted(files), 6) or "no files",
            remedy="fetch other repositories with: hf download OWNER/NAME",
        )
    refuse_other_files(files, f"The repository {repo_id}")
    if (out.is_dir() and any(out.iterdir())) or out.is_file():
        tops = {name.partition("/")[0] for name in files}
        # A folder of something else, such as a home folder, is not walked through.
        foreign = sorted({entry.name for entry in out.iterdir()} - tops) if out.is_dir() else []
        differing = [name for name in foreign if not is_hidden(name)] or _list_differences(out, files)
        if out.is_dir() and not differing:
            return kind, True
        raise UserError(
            f"{out} holds something else and is not replaced.",
            looked_for="a new or empty folder",
            found=f"differing from the repository: {shorten(differing, 4)}" if out.is_dir() else "a file",
            remedy="give another folder with --out, or remove this one yourself",
        )
    _download(place, files, kind, out)
    return kind, False


def _download(place: Mapping[str, Any], files: Mapping[str, RepoFile], kind: Kind, out: Path) -> None:
    partial = out.with_name(f".{out.name}.pull")  # kept after an interruption
    with _translate_errors(place["repo_id"], "read"):
        snapshot_download(**place, local_dir=partial, ignore_patterns=list(_HIDDEN), endpoint=constants.ENDPOINT)
    for name in set(list_files(partial)) - set(files):  # of an interrupted download of an earlier revision
        (partial / name).unlink()
    differing = _list_differences(partial, files)
    if differing:
        shutil.rmtree(partial)
        raise RunError(
            f"The download of {place['repo_id']} is damaged and was removed.",
            found=f"differing from the repository: {shorten(differing, 4)}",
            remedy="run the same command again",
        )
    try:
        check_shared(partial, kind)
    except UserError as error:
        shutil.rmtree(partial)
        raise UserError(
            f"The repository {place['repo_id']} holds no usable {kind.name.removeprefix('a ')}.",
            found=" ".join(str(error).replace(str(partial), "it").split()),
            remedy="ask its owner to push it again",
        ) from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    exchange(partial, out)


def _refuse_place(out: Path) -> None:
    """Refuse a folder that cannot be exchanged for a new one without loss."""
    kept = describe_backup(out)
    if kept is not None:
        raise UserError(f"{out} is not written.", found=kept, remedy="do that, or give another folder with --out")
    if out.is_symlink() or out.resolve() == Path.cwd():
        raise UserError(
            f"{out} is {'a link' if out.is_symlink() else 'the current folder'} and is not replaced.",
            remedy="give a new folder with --out",
        )


def _repo_id(repo: str) -> str:
    if not is_hub_id(repo) or "@" in repo:
        raise UserError(
            f"{repo!r} does not name a repository of the hub.",
            looked_for="OWNER/NAME, with letters, digits, dots, - and _",
            remedy="a branch, tag or commit is given with --revision",
        )
    return repo


def _refuse_without_network(repo_id: str) -> None:
    obstacle = connection_obstacle()
    if obstacle:
        raise UserError(
            f"The hub repository {repo_id} is out of reach.",
            found=obstacle,
            remedy="unset HF_HUB_OFFLINE, or run the command on a machine with a network and copy the folder",
        )


def _listing(
    api: HfApi, repo_id: str, dataset: bool, revision: str | None
) -> tuple[dict[str, Any], dict[str, RepoFile]]:
    """Return the place of a repository, at a commit, and its files by name."""
    place: dict[str, Any] = {"repo_id": repo_id, "repo_type": "dataset" if dataset else "model"}
    place["revision"] = revision or _MAIN
    try:
        info = api.repo_info(**place)
    except RepositoryNotFoundError:
        if dataset:
            raise
        place["repo_type"] = "dataset"
        info = api.repo_info(**place)
    place["revision"] = info.sha
    return place, _files_there(api, place)


def _files_there(api: HfApi, place: Mapping[str, Any]) -> dict[str, RepoFile]:
    entries = api.list_repo_tree(**place, recursive=True)
    return {each.path: each for each in entries if isinstance(each, RepoFile) and not is_hidden(each.path)}


def _list_differences(folder: Path, files: Mapping[str, RepoFile]) -> list[str]:
    """List the files that only one side has, and those whose content hashes differ."""
    here = set(list_files(folder)) if folder.is_dir() else set()
    return sorted((here ^ set(files)) | {name for name in here & set(files) if not _equals(folder / name, files[name])})


def _equals(file: Path, entry: RepoFile) -> bool:
    size = file.stat().st_size
    if size != entry.size:
        return False
    # Git's own hash of a small file, SHA-256 of a large one.
    digest = hashlib.sha256() if entry.lfs else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    add_content(digest, file)
    return digest.hexdigest() == (entry.lfs.sha256 if entry.lfs else entry.blob_id)


@contextmanager
def _translate_errors(repo_id: str, verb: str) -> Iterator[None]:
    """Turn the errors of the hub's client into the package's own."""
    try:
        yield
    except DiffReIDError:
        raise
    except GatedRepoError as error:
        raise UserError(
            f"{repo_id} is gated.",
            found=first_line(error),
            remedy=f"ask for access at {constants.ENDPOINT}/{repo_id}, and " + _LOGIN.format(verb),
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"{repo_id!r} does not name a repository of the hub.", found=first_line(error), remedy="correct the name"
        ) from error
    except json.JSONDecodeError as error:
        raise RunError(
            "The hub's answer cannot be read.",
            found=first_line(error),
            remedy="a proxy may have answered in its place; run the same command again",
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is no repository {repo_id} that can be seen.",
            found="missing, or private and not open to this login",
            remedy="check the name; for a private one, " + _LOGIN.format(verb),
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"The repository {repo_id} has no such revision.",
            found=first_line(error),
            remedy="give a branch, tag or commit of the repository with --revision",
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(repo_id, verb, error) from error
    except ValueError as error:  # the client's, for a card whose header the hub does not take
        if verb != "write":
            raise
        raise UserError(
            f"The hub refuses what is sent to {repo_id}.",
            found=" ".join(str(error).split()),
            remedy=f"correct the header of {CARD} in the folder",
        ) from error
    except Exception as error:
        if not _is_broken_transfer(error):
            raise
        raise RunError(
            f"The transfer of {repo_id} broke off.",
            found=first_line(error),
            remedy="run the same command again; files already transferred are skipped",
        ) from error


def _refusal(repo_id: str, verb: str, error: HfHubHTTPError) -> DiffReIDError:
    status = error.response.status_code
    found = error.server_message or first_line(error)
    if status in (401, 403):
        return UserError(f"The hub does not let you {verb} {repo_id}.", found=found, remedy=_LOGIN.format(verb))
    if status >= _SERVER_ERROR or status == 429:
        return RunError("The hub failed.", found=f"{status}: {found}", remedy="run the same command again later")
    return UserError(f"The hub refuses {repo_id}.", found=f"{status}: {found}", remedy="correct what it names")


def _is_broken_transfer(error: BaseException | None) -> bool:
    """Tell the errors of the network, also below the client's own, from those of this machine."""
    while error is not None:
        root = type(error).__module__.partition(".")[0]
        if root in _HTTP_CLIENTS or isinstance(error, (LocalEntryNotFoundError, ConnectionError, TimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False
