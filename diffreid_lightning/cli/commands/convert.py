"""Run ``convert``: write another Re-ID project's checkpoint as a timm folder that ``init_from`` and stock timm open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffreid_lightning.cli.commands.parser import CommandParser

_USAGE = "python -m diffreid_lightning convert FILE --form luperson --backbone resnet50 --out DIR"


def convert_command(words: Sequence[str]) -> int:
    """Run ``convert FILE --form FORM --backbone NAME --out DIR``.

    Raises:
        UserError: the command line or the checkpoint cannot be used, or it does not fit the backbone.
        RunError: the disk refuses.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("file", help="the checkpoint: .pth, .pt, .tar or .safetensors")
    parser.add_argument(
        "--form",
        required=True,
        help="luperson, luperson-nl, cion, torchreid, fastreid, reid-strong-baseline, cluster-contrast, transreid (and "
        "TransReID-SSL), solider; timm for a bare state dict, diffreid for a checkpoint of this package",
    )
    parser.add_argument("--backbone", required=True, help="the timm name of the architecture")
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--image_size", nargs=2, type=int, default=[256, 128], metavar=("H", "W"), help="in pixels")
    parser.add_argument("--last_stride", type=int, choices=[1, 2], help="instead of the project's own")
    parser.add_argument("--pooling", choices=["gem", "avg", "native"], help="instead of the project's own")
    parser.add_argument("--allow_partial", action="store_true", help="accept tensors left over on either side")
    args = parser.parse_args(list(words))

    # Import late: --help should not wait for torch.
    from diffreid_lightning.backbones import Backbone, fill_backbone, open_foreign, save_backbone

    checkpoint = open_foreign(args.file, args.form)
    known = {"last_stride": args.last_stride, "pooling": args.pooling}
    traits = replace(checkpoint.traits, **{trait: value for trait, value in known.items() if value is not None})
    checkpoint = replace(checkpoint, traits=traits)
    size = (args.image_size[0], args.image_size[1])
    backbone = Backbone(args.backbone, image_size=size)
    report = fill_backbone(backbone, checkpoint, allow_partial=args.allow_partial)
    print(report)
    provenance = {
        "converted_from": Path(args.file).name,
        "form": args.form,
        "missing": report.missing,
        "unexpected": report.unexpected,
        "mismatched": report.mismatched,
        "dropped_head": report.dropped_head,
        "fresh": report.fresh,
    }
    folder = save_backbone(backbone, args.out, provenance=provenance)
    mean, std = backbone.normalization
    if backbone.variant is not None:
        print(f"a variation of timm's architecture: {backbone.variant}")
    print(f"normalized with mean {mean} and deviation {std}, as the weights expect")
    print(f"start from it: --model.backbone {args.backbone} --model.init_from {folder}")
    return 0
