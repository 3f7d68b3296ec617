"""MiniPerson: rendered pedestrians under several cameras, the dataset that ships with the package, and its renderer.

The dataset itself needs nothing but the package; see ``diffreid_lightning.data.datasets.miniperson``. Rendering again,
or rendering other people, needs the optional extra ``render``.
"""
