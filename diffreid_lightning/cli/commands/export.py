"""Run ``export``: write a trained network as ONNX, with an example script that needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from diffreid_lightning.cli.commands.embed import MODEL
from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.paths import user_path

_USAGE = "python -m diffreid_lightning export RUN --format onnx --out FILE.onnx"


def export_command(words: Sequence[str]) -> int:
    """Run ``export RUN --format onnx --out FILE.onnx``.

    Raises:
        UserError: the command line, the network or the file cannot be used, or the extra ``onnx`` is missing.
        RunError: the export failed, or computes other features.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("model", metavar="RUN", help=MODEL)
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="the format to write (default: onnx)")
    parser.add_argument("--out", required=True, help="the .onnx file to write; an earlier one is replaced")
    args = parser.parse_args(list(words))

    # Import late: --help should not wait for torch.
    from diffreid_lightning.deployment.onnx_export import export_onnx
    from diffreid_lightning.deployment.trained_network import load_trained

    network = load_trained(args.model)
    made = export_onnx(network, user_path(args.out))
    height, width = network.backbone.image_size
    dimension = network.backbone.num_features
    print(f"{made.path}: images (batch, 3, {height}, {width}) float32, RGB in 0..1; features (batch, {dimension})")
    print(f"largest difference from PyTorch: {made.difference:.1e} (features up to {made.scale:.2g})")
    if made.is_kept:
        print(f"{made.example} is left as it is; it differs from the example of this version")
    print(f"compare two images without PyTorch: python {made.example} {made.path} ONE.jpg OTHER.jpg")
    return 0
