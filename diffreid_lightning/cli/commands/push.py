"""Run ``push``: upload a backbone, a personalized model or Diff-Person to the Hugging Face hub, private by default."""

from __future__ import annotations

from collections.abc import Sequence

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.paths import user_path

_USAGE = "python -m diffreid_lightning push PATH OWNER/NAME"


def push_command(words: Sequence[str]) -> int:
    """Run ``push PATH OWNER/NAME``.

    Raises:
        UserError: the command line or the folder cannot be used, or the hub cannot be reached or refuses.
        RunError: the transfer broke off.
    """
    parser = CommandParser(_USAGE, f"{__doc__} The token is read from HF_TOKEN, or is that of 'hf auth login'.")
    parser.add_argument("path", help="backbone/, personalized/ or diff_person/, or a run folder with one of them")
    parser.add_argument("repo", metavar="OWNER/NAME", help="the repository; it is created if missing")
    parser.add_argument("--public", action="store_true", help="let everybody see it")
    parser.add_argument("--revision", help="the branch (default: main)")
    parser.add_argument("--license", help="for the card: the hub's identifier, such as cc-by-nc-4.0 (default: unknown)")
    args = parser.parse_args(list(words))

    # Import late: --help should not wait for torch.
    from diffreid_lightning.sharing.hub_transfer import push

    path = user_path(args.path)
    url, kind, private = push(path, args.repo, public=args.public, revision=args.revision, license=args.license)
    print(f"{kind.name} is at {url} ({'private' if private else 'public'})")
    return 0
