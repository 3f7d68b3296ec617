"""Report on the clusters of an unsupervised training: agreement with the truth, a sheet to look at, a table."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from diffreid_lightning.datasets.samplers import alternate_cameras
from diffreid_lightning.errors import check_range
from diffreid_lightning.metrics.functional.checks import cameras_are_known
from diffreid_lightning.picture_logging import log_picture
from diffreid_lightning.reid.person_images import PersonImages
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.training.trainer_parts import datamodule_of
from diffreid_lightning.visualization.grid import Cell, GridRow, cell_size, draw_grid, spread

_HEIGHT = 128


def agreement(clusters: npt.NDArray[np.int64], identities: npt.NDArray[np.int64]) -> dict[str, float]:
    """Compare clusters with identities; each image of no cluster counts as a cluster of its own.

    Args:
        clusters: (N,) cluster of each image, -1 for none.
        identities: (N,) identity of each image.

    Returns:
        ``ari``, the adjusted Rand index, 1 for equal partitions, about 0 for random ones; and ``nmi``, the normalized
        mutual information, 0 to 1.
    """
    # Imported here: the command line imports this file, and scikit-learn takes a second.
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    alone = clusters < 0
    own = clusters.copy()
    own[alone] = clusters.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    return {
        "ari": float(adjusted_rand_score(identities, own)),
        "nmi": float(normalized_mutual_info_score(identities, own)),
    }


def draw_clusters(clusters: npt.NDArray[np.int64], images: PersonImages, rows: int, columns: int) -> Image.Image:
    """Draw clusters one below the other, evenly over their sizes, the largest first; images from its cameras in turn.

    Args:
        clusters: (N,) cluster of each image, -1 for none.
        images: the N images.
        rows: clusters shown at most.
        columns: images of each at most.

    Returns:
        The sheet.
    """
    sizes = np.bincount(clusters[clusters >= 0])
    order = np.argsort(-sizes, kind="stable")
    chosen = order[spread(len(order), rows)]
    lines = []
    camids = images.rows.camids
    has_cameras = cameras_are_known(camids)
    for cluster in chosen.tolist():
        members = np.flatnonzero(clusters == cluster)
        members = alternate_cameras(members[np.argsort(camids[members], kind="stable")], camids)
        cameras = len(np.unique(camids[members]))
        title = f"cluster {cluster}: {len(members)} images"
        title += f", {cameras} camera{'s' * (cameras != 1)}" if has_cameras else ""
        shown = members[spread(len(members), columns)]
        lines.append(GridRow(title, [Cell(images.picture(int(row))) for row in shown]))
    return draw_grid(lines, cell_size(_HEIGHT, images.image_size))


class ClusterReport(Callback):
    """Report on the clusters of :class:`~diffreid_lightning.unsupervised.module.UnsupervisedReID`.

    When fit ends, ``clusters.png`` shows some of them and ``clusters.csv`` lists each training image with camera (empty
    where cameras are unknown), cluster (-1 for none) and, where there are several targets, the folder of its target.
    Where the images have identities, ``clusters/ari`` and ``clusters/nmi`` are logged each epoch; they judge the
    clusters and change nothing in the training.

    Args:
        rows: clusters on the sheet.
        columns: images of each.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, rows: int = 12, columns: int = 10) -> None:
        check_range("ClusterReport.rows", rows, 1, 1000)
        check_range("ClusterReport.columns", columns, 1, 1000)
        self.rows = rows
        self.columns = columns

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the agreement of this epoch's clusters with the identities, if there are any."""
        labels = getattr(pl_module, "labels", None)
        if labels is None:
            return
        truth = datamodule_of(trainer).true_labels()
        if truth is not None:
            for name, value in agreement(labels, truth).items():
                pl_module.log(f"clusters/{name}", value, rank_zero_only=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and list the last clusters, on rank zero."""
        labels = getattr(pl_module, "labels", None)
        if labels is None or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        images = datamodule_of(trainer).train_set
        folder = Path(trainer.default_root_dir)
        rows = images.rows
        unknown = np.full(len(rows), not cameras_are_known(rows.camids))
        cameras = pa.array(rows.raw_camids, mask=unknown)
        table = pa.table({"file_name": rows.file_names, "camera": cameras, "cluster": labels})
        if len(rows.roots) > 1:  # their file names may be the same
            roots = pa.array([os.fsencode(root.path).decode(errors="replace") for root in rows.roots])
            table = table.append_column("root", roots.take(pa.array(rows.root_of)))
        with replace_file(folder / "clusters.csv") as file:
            pyarrow.csv.write_csv(table, file)
        sheet = draw_clusters(labels, images, self.rows, self.columns)
        sheet.save(folder / "clusters.png")
        rank_zero_info(
            f"clusters: {folder / 'clusters.png'}, {folder / 'clusters.csv'}; look at them before you use the network: "
            "where they are places instead of people, it is worse than the one it started from"
        )
        log_picture(trainer, "clusters/sheet", sheet)
