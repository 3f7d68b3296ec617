"""Run ``pull``: fetch a backbone, a personalized model or Diff-Person from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.paths import absolute_path

_USAGE = "python -m diffreid_lightning pull OWNER/NAME --out DIR"


def pull_command(words: Sequence[str]) -> int:
    """Run ``pull OWNER/NAME --out DIR``.

    Raises:
        UserError: the command line or the repository cannot be used, or the hub cannot be reached or refuses.
        RunError: the transfer broke off.
    """
    parser = CommandParser(_USAGE, f"{__doc__} The token is read from HF_TOKEN, or is that of 'hf auth login'.")
    parser.add_argument("repo", metavar="OWNER/NAME", help="datasets/OWNER/NAME where a model has the same name")
    parser.add_argument("--out", help="the folder to write, new or empty (default: NAME)")
    parser.add_argument("--revision", help="a branch, tag or commit (default: main)")
    args = parser.parse_args(list(words))

    # Import late: --help should not wait for torch.
    from diffreid_lightning.sharing.hub_transfer import pull

    out = args.out or args.repo.rpartition("/")[2] or "."
    kind, already = pull(args.repo, absolute_path(out), args.revision)
    print(f"{kind.name} {'was already' if already else 'is'} in {out}; use it: {kind.use.format(out)}")
    return 0
